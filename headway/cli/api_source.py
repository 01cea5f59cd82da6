"""Executions from a Headway server, through `headway.Client`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from headway.cli.source import SourceError, Update
from headway.client import AnyEvent, Client, Completed, Failed, Interrupted, StatusChanged
from headway.client.error_mapping import CODES
from headway.errors import ExecutionExpired, ExecutionNotFound, HeadwayError
from headway.models import Execution, History, Phase, Query, Status

#: The phase of what a frame tells without naming one.
PHASES = {
    Status.PENDING: Phase.QUEUED,
    Status.RUNNING: Phase.RUNNING,
    Status.COMPLETED: Phase.SUCCEEDED,
    Status.FAILED: Phase.FAILED,
    Status.CANCELLED: Phase.CANCELLED,
}


class Remote:
    """See the module's text. ``url`` and ``token`` as in `Client`."""

    def __init__(self, url: str, token: str | None) -> None:
        self._client = Client(url, token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def get(self, execution_id: str) -> Execution:
        """See `Source.get`."""
        return self._client.get(execution_id)

    def history(self, execution_id: str) -> History:
        """See `Source.history`."""
        return self._client.history(execution_id)

    def list(self, query: Query, limit: int | None) -> Iterator[Execution]:
        """See `Source.list`."""
        return self._client.list(
            status=query.status,
            phase=query.phase,
            task=query.task,
            owner=query.owner,
            q=query.text,
            since=query.since,
            until=query.until,
            limit=limit,
        )

    def cancel(self, execution_id: str, *, terminate: bool) -> Execution:
        """See `Source.cancel`."""
        return self._client.cancel(execution_id, terminate)

    def follow(self, execution_ids: Sequence[str]) -> Iterator[Update]:
        """See `Source.follow`."""
        shown: dict[str, Execution] = {}
        try:
            for event in self._client.watch(*execution_ids):
                if isinstance(event, Interrupted):
                    over = event.execution_id is not None and event.code in CODES
                    yield SourceError(
                        event.message, event.execution_id if over else None, event.code
                    )
                    continue
                execution = self._after(shown.get(event.execution_id), event)
                shown[event.execution_id] = execution
                if (
                    event.terminal or not execution.status.terminal
                ):  # an end that is seen is told next
                    yield execution
        except (ExecutionNotFound, ExecutionExpired) as exc:
            yield SourceError.of(exc)

    def _after(self, before: Execution | None, event: AnyEvent) -> Execution:
        """What an execution is after an event. What no frame carries (task, attempt, times) is
        asked for where it may change.
        """
        assert not isinstance(event, Interrupted)
        if before is None or isinstance(event, StatusChanged):
            try:
                before = self._client.get(event.execution_id)
            except HeadwayError:
                # The line holds, REST may be away or closed to us just now: the frames tell what
                # matters.
                before = before or Execution(event.execution_id, event.status, PHASES[event.status])
        same = before.status is event.status
        return replace(
            before,
            status=event.status,
            phase=event.phase
            if isinstance(event, StatusChanged)
            else before.phase
            if same
            else PHASES[event.status],
            progress=getattr(event, "progress", before.progress),
            started_at=before.started_at
            or (event.timestamp if event.status is Status.RUNNING else None),
            attempt=before.attempt or int(event.status in (Status.RUNNING, Status.COMPLETED)),
            outputs=event.outputs if isinstance(event, Completed) else None,
            error=event.error if isinstance(event, Failed) else None,
            updated_at=event.timestamp,
            finished_at=(before.finished_at or event.timestamp) if event.status.terminal else None,
        )
