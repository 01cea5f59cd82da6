"""A registry beside a result backend that keeps its results itself: what SQL and key-value stores
have in common.

Two writes instead of one: `write` lets a state into the registry, then Celery's own code stores the
result. What that makes weaker is written down in ``docs/backends.md``; ``core.states`` bridges the
moment between the two (``RESULT_GRACE``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from headway.core import states
from headway.core.registry import (
    AttemptStart,
    AttemptStarted,
    Registration,
    Snapshot,
    StateWrite,
    TaskRecord,
    WriteResult,
)
from headway.stores.base import Store
from headway.stores.reports import entry_of
from headway.stores.result_backend import ResultBackend

#: What becomes of a record; None: it stays as it is.
Transition = Callable[[TaskRecord | None], TaskRecord | None]


class RegistryStore(Store):
    """The rules over three primitives."""

    keeps_results = False
    publishes = False

    #: The result backend.
    results: ResultBackend

    #: What the time is, for signs of life.
    clock: Callable[[], datetime] = staticmethod(lambda: datetime.now(UTC))

    @abstractmethod
    def _change(
        self, task_id: str, decide: Transition, *, report: bytes = b"", full_timeout: bool = False
    ) -> bool:
        """Replace the record of a task by what ``decide`` makes of it, as one step; False where it
        makes None of it.

        ``report`` (`entry_of`, without the attempt), unless empty, goes into the history in the
        same step, where it has a place. ``decide`` may be called again where somebody else was
        faster, and must do nothing but answer.
        """

    @abstractmethod
    def _records(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        """The records that are there."""

    @abstractmethod
    def _results(self, task_ids: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        """The result backend's records as data, in the order asked for."""

    def register(self, registrations: Iterable[Registration]) -> None:
        for each in registrations:
            self._change(
                each.task_id,
                lambda record, each=each: _if_changed(
                    record, states.apply_registration(record, each)
                ),  # type: ignore[misc]
            )

    def start_attempt(self, opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        answer = AttemptStarted(0)

        def decide(record: TaskRecord | None) -> TaskRecord | None:
            nonlocal answer
            gone = self._is_gone(record, opening.at)
            answer = states.start_reply(record, opening, result_gone=gone)
            return (
                states.apply_start(record, opening)
                if answer.attempt and not states.is_same_delivery(record, opening)
                else None
            )

        # Always with patience. A report that is lost is followed by another one; a run whose
        # opening is lost is shown as the one before it, and isn't told of its cancel. Celery's own
        # start waits as long, in the same database.
        self._change(opening.task_id, decide, full_timeout=True)
        return answer

    def write(self, write: StateWrite, *, full_timeout: bool = False) -> WriteResult:
        answer = WriteResult(False)

        def decide(record: TaskRecord | None) -> TaskRecord | None:
            nonlocal answer
            answer = states.write_reply(record, write)
            return states.apply_write(record, write) if answer else None

        self._change(write.task_id, decide, report=entry_of(write, None), full_timeout=full_timeout)
        return answer

    def revoke(self, task_id: str, reason: str, at: datetime) -> bool:
        accepted = self.write(StateWrite(task_id, "REVOKED", at, result_follows=True)).accepted
        if accepted:
            self.results.revoke(task_id, reason)
        return accepted

    def heartbeat(self, task_ids: Sequence[str], worker: str, lifetime: float) -> frozenset[str]:
        """A time stamp by this process' clock: a reader's must not differ by more than the
        lifetime.
        """
        for task_id in task_ids:
            self._change(
                task_id,
                lambda record: states.apply_heartbeat(record, worker, lifetime, self.clock()),
            )
        alive = [
            record
            for record in self._records(task_ids).values()
            if record.is_open and record.worker in (None, worker)
        ]
        return frozenset(
            record.task_id for record in alive if record.cancel_requested_at is not None
        )

    def request_cancel(self, task_id: str, at: datetime) -> Snapshot | None:
        if not self._records([task_id]) and self._results([task_id])[0] is None:
            return None
        self._change(
            task_id,
            lambda record: _if_changed(record, states.apply_cancel_request(record, task_id, at)),
        )
        return self.read([task_id])[0]

    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        # The registry first: an end that comes between the two reads is then seen with its result,
        # and not without it. But a whole run may begin and end between them, and its result stand
        # beside the attempt before it. Every state was in the registry before its result was
        # stored, so a second look at the registry knows it.
        records = dict(self._records(task_ids))
        metas = self._results(task_ids)
        torn = [
            task_id
            for task_id, meta in zip(task_ids, metas, strict=True)
            if states.backend_is_ahead(records.get(task_id), meta)
        ]
        if torn:
            records |= self._records(torn)
        now = self.clock()
        return [
            Snapshot(
                task_id,
                record := records.get(task_id),
                meta,
                atomic=False,
                alive=states.is_alive(record, now),
            )
            for task_id, meta in zip(task_ids, metas, strict=True)
        ]

    def _is_gone(self, record: TaskRecord | None, now: datetime) -> bool:
        """Whether the result of a success has expired; asked of the result backend only where it
        matters.
        """
        if (
            record is None
            or states.allows_start(record)
            or not record.result_stored
            or record.finished_at is None
        ):
            return False
        return (
            now - record.finished_at > states.RESULT_GRACE
            and self._results([record.task_id])[0] is None
        )


def _if_changed(before: TaskRecord | None, after: TaskRecord) -> TaskRecord | None:
    return None if before == after else after
