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

#: The phase for frames that carry a status alone.
PHASES = {
    Status.PENDING: Phase.QUEUED,
    Status.RUNNING: Phase.RUNNING,
    Status.COMPLETED: Phase.SUCCEEDED,
    Status.FAILED: Phase.FAILED,
    Status.CANCELLED: Phase.CANCELLED,
}


class ApiSource:
    """An `ExecutionSource` over the API. ``url`` and ``token`` as in `Client`."""

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
        """See `ExecutionSource.get`."""
        return self._client.get(execution_id)

    def history(self, execution_id: str) -> History:
        """See `ExecutionSource.history`."""
        return self._client.history(execution_id)

    def list(self, query: Query, limit: int | None) -> Iterator[Execution]:
        """See `ExecutionSource.list`."""
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
        """See `ExecutionSource.cancel`."""
        return self._client.cancel(execution_id, terminate)

    def follow(self, execution_ids: Sequence[str]) -> Iterator[Update]:
        """See `ExecutionSource.follow`."""
        current: dict[str, Execution] = {}
        try:
            for event in self._client.watch(*execution_ids):
                if isinstance(event, Interrupted):
                    execution_id = event.execution_id if event.code in CODES else None
                    yield SourceError(event.message, execution_id, event.code)
                    continue
                execution = self._apply(current.get(event.execution_id), event)
                current[event.execution_id] = execution
                # After a StatusChanged with a terminal status, the terminal event comes next.
                if event.terminal or not execution.status.terminal:
                    yield execution
        except (ExecutionNotFound, ExecutionExpired) as exc:
            yield SourceError.of(exc)

    def _apply(self, before: Execution | None, event: AnyEvent) -> Execution:
        """The execution after an event. Fields that no frame carries (task, attempt, times) are
        requested when they may have changed.
        """
        assert not isinstance(event, Interrupted)
        if before is None or isinstance(event, StatusChanged):
            try:
                before = self._client.get(event.execution_id)
            except HeadwayError:
                # The WebSocket works, but REST is down or not permitted. The frames have the
                # important fields.
                before = before or Execution(event.execution_id, event.status, PHASES[event.status])
        if isinstance(event, StatusChanged):
            phase = event.phase
        else:
            phase = before.phase if before.status is event.status else PHASES[event.status]
        running, ended = event.status is Status.RUNNING, event.status.terminal
        return replace(
            before,
            status=event.status,
            phase=phase,
            progress=getattr(event, "progress", before.progress),
            started_at=before.started_at or (event.timestamp if running else None),
            attempt=before.attempt or int(event.status in (Status.RUNNING, Status.COMPLETED)),
            outputs=event.outputs if isinstance(event, Completed) else None,
            error=event.error if isinstance(event, Failed) else None,
            updated_at=event.timestamp,
            finished_at=(before.finished_at or event.timestamp) if ended else None,
        )
