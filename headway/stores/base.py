"""The port `Store`, and `RegistryStore`, its base for result backends that keep their own results.

A store knows the state of executions, and is the one place that accepts or refuses a state write.
It belongs to one result backend. Redis keeps registry and results in one place and writes both in
one step (``redis.py``). Every other backend stores its results itself, and the registry is beside
them (``sql.py``, ``keyvalue.py``). ``memory.py`` is the fake; the same conformance suite tests all
of them (``tests/conformance/test_stores.py``).

Obligations of every store:

* One instance per process, safe to share between threads and greenlets, and usable after a fork
  (the child makes its own connections).
* Every call is bounded by ``timeout`` (seconds, default 0.5 per round trip). A fault of the server
  or the network is raised as ``Unavailable``, with the driver's error as its cause; nothing else.
* The rules are those of ``core.states`` (``allows_*``, ``apply_*``, ``*_reply``) and
  ``core.history``. `write`, `start_attempt`, `register` and `request_cancel` are atomic.
* An unknown id gives an empty reply, never an error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from headway.core import states
from headway.core.registry import (
    AttemptStart,
    AttemptStarted,
    Page,
    Registration,
    Snapshot,
    StateWrite,
    TaskRecord,
    WriteResult,
)
from headway.models import History, Query, Status
from headway.stores.codec import decode_reports, encode_report, encode_report_of
from headway.stores.result_backend import ResultBackend

#: How long a record outlives its result (``result_expires``). During that time "expired" (410) can
#: be told from "never existed" (404).
REGISTRY_RETENTION = timedelta(days=7)

#: Maps a record to its successor; None leaves it unchanged.
Transition = Callable[[TaskRecord | None], TaskRecord | None]


class Store(ABC):
    """The state of executions. See the module's docstring for the obligations."""

    #: True: `write` and `start_attempt` also store the result backend's own record
    #: (``StateWrite.result``), in the same atomic step. False: the caller lets Celery's own code
    #: store it after `write` has accepted.
    keeps_results: bool = False

    #: True: what `start_attempt` and `write` accept is also published to watchers (``feeds``).
    publishes: bool = False

    @abstractmethod
    def register(self, registrations: Iterable[Registration]) -> None:
        """Record tasks that are about to be published, in one round trip for all of them.

        Creates missing records: a retry publishes the same id again
        (celery-facts#before-task-publish-comes-first), and must not overwrite what is known.
        Missing fields of an existing record (its worker was seen first) are filled in.
        """

    @abstractmethod
    def start_attempt(self, start: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        """Start a new attempt: number it (atomic, starts at 1) and let only it write from now on.

        ``full_timeout`` as in `write`.
        """

    @abstractmethod
    def write(self, write: StateWrite, *, full_timeout: bool = False) -> WriteResult:
        """Accept or refuse a state. A refusal is not an error: it is a late write.

        A report of an attempt that sends heartbeats counts as a heartbeat. An accepted report is
        added to the `history` in the same step.

        ``full_timeout``: wait as long as the result backend's own configuration says, instead of
        ``timeout``. For the writes of Celery itself: losing a result is worse than waiting for a
        slow server.
        """

    @abstractmethod
    def heartbeat(self, task_ids: Sequence[str], worker: str, ttl: float) -> frozenset[str]:
        """Record a heartbeat for these tasks, valid for ``ttl`` seconds.

        ``worker`` is the node name of the sender. A task is ignored unless it has an open attempt
        that belongs to this worker, or to an unknown one. A new attempt starts without a heartbeat,
        unless ``AttemptStart.heartbeat_ttl`` is set. Returns the ids whose cancellation is
        requested. One round trip for all, if the backend allows it.
        """

    @abstractmethod
    def request_cancel(self, task_id: str, at: datetime) -> Snapshot | None:
        """Record a cancel request and publish it, unless the execution is terminal.

        Returns the snapshot afterwards; None for an unknown id. A second request changes nothing. A
        new attempt keeps the request; only a publication after the end removes it
        (`core.states.apply_registration`).
        """

    @abstractmethod
    def revoke(self, task_id: str, reason: str, at: datetime) -> bool:
        """End an execution without a running attempt as REVOKED, with the backend's own record.

        Returns False if an attempt is open or the execution is terminal: it is a `write` of an
        external writer.
        """

    @abstractmethod
    def query(self, query: Query) -> Page:
        """List executions, newest first, by the time that each was first seen.

        The work is bounded, however many there are. New executions between two pages neither repeat
        nor hide others. Raises ``InvalidRequest`` for an invalid cursor, ``NotSupported`` if the
        result backend has no order to list by.
        """

    @abstractmethod
    def counts(self) -> Mapping[Status, int]:
        """The number of executions per status, at a bounded cost.

        As they are indexed: expired executions count until they are swept, and an end that another
        process stored past the store counts after the next page that reads it. Raises
        ``NotSupported`` as `query` does.
        """

    @abstractmethod
    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        """Read each task, in the given order, in one round trip.

        Registry and result of a task are consistent.
        """

    def history(self, task_id: str) -> History:
        """The accepted reports, as many as are kept (`core.history`), for as long as the record is.

        The first and the newest report are always included. A new attempt continues the history,
        except after a success. Empty and not ``complete`` if the backend cannot keep reports.
        """
        kept = self._reports(task_id)
        if kept.complete or not kept.reports:
            return kept
        # Read after the reports, so that this report cannot be older than the last of them.
        record = self.read([task_id])[0].record
        if record is None or record.progress is None or record.updated_at is None:
            return kept
        encoded = encode_report(record.progress_attempt, record.progress, record.updated_at)
        newest = next(decode_reports(encoded))
        return (
            kept if newest == kept.reports[-1] else replace(kept, reports=(*kept.reports, newest))
        )

    @abstractmethod
    def _reports(self, task_id: str) -> History:
        """The reports that are kept."""

    @abstractmethod
    def claim_key(
        self, key: str, value: str, expires: float, *, instead_of: str | None = None
    ) -> str:
        """Bind an idempotency key for ``expires`` seconds, if it is free or bound to
        ``instead_of``.

        Returns the value that it is bound to afterwards. Of concurrent callers with the same
        ``instead_of`` and different values, exactly one gets its own value back. ``value`` is
        ASCII, at most 255 characters.
        """

    @abstractmethod
    def ping(self) -> None:
        """Return if the server responds now; otherwise raise ``Unavailable``."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections. A second call does nothing; a later call may connect again."""


class RegistryStore(Store):
    """The rules over three primitives, for a backend that stores its results itself.

    There are two writes: `write` accepts a state into the registry, then Celery's own code stores
    the result. ``docs/backends.md`` says which guarantees are weaker; ``core.states`` bridges the
    moment between the two writes (``RESULT_GRACE``).
    """

    keeps_results = False
    publishes = False

    #: The result backend.
    results: ResultBackend

    #: Returns the current time, for heartbeats.
    clock: Callable[[], datetime] = staticmethod(lambda: datetime.now(UTC))

    @abstractmethod
    def _update(
        self, task_id: str, change: Transition, *, report: bytes = b"", full_timeout: bool = False
    ) -> bool:
        """Replace the record of a task by ``change(record)`` atomically; False if that is None.

        A non-empty ``report`` (`encode_report_of`, without the attempt) is added to the history in
        the same step, if the backend keeps one. ``change`` may be called again after a conflict
        with another writer, and must have no side effects besides its return value.
        """

    @abstractmethod
    def _records(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        """The records that exist."""

    @abstractmethod
    def _results(self, task_ids: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        """The result backend's records as data, in the given order."""

    def register(self, registrations: Iterable[Registration]) -> None:
        for each in registrations:
            self._update(
                each.task_id,
                lambda record, each=each: _if_changed(  # type: ignore[misc]
                    record, states.apply_registration(record, each)
                ),
            )

    def start_attempt(self, start: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        reply = AttemptStarted(0)

        def change(record: TaskRecord | None) -> TaskRecord | None:
            nonlocal reply
            gone = self._is_gone(record, start.at)
            reply = states.start_reply(record, start, result_gone=gone)
            return (
                states.apply_start(record, start)
                if reply.attempt and not states.is_same_delivery(record, start)
                else None
            )

        # Always with the full timeout. A lost report is followed by another one; an attempt whose
        # start is lost is shown as the one before it, and does not see its cancel request. Celery's
        # own start waits as long, in the same database.
        self._update(start.task_id, change, full_timeout=True)
        return reply

    def write(self, write: StateWrite, *, full_timeout: bool = False) -> WriteResult:
        reply = WriteResult(False)

        def change(record: TaskRecord | None) -> TaskRecord | None:
            nonlocal reply
            reply = states.write_reply(record, write)
            return states.apply_write(record, write) if reply else None

        report = encode_report_of(write, None)
        self._update(write.task_id, change, report=report, full_timeout=full_timeout)
        return reply

    def revoke(self, task_id: str, reason: str, at: datetime) -> bool:
        accepted = self.write(StateWrite(task_id, "REVOKED", at, result_follows=True)).accepted
        if accepted:
            self.results.revoke(task_id, reason)
        return accepted

    def heartbeat(self, task_ids: Sequence[str], worker: str, ttl: float) -> frozenset[str]:
        """See `Store`. The time is this process's: the clocks of readers must not differ by more
        than ``ttl``.
        """
        for task_id in task_ids:
            self._update(
                task_id,
                lambda record: states.apply_heartbeat(record, worker, ttl, self.clock()),
            )
        running = [
            record
            for record in self._records(task_ids).values()
            if record.is_open and record.worker in (None, worker)
        ]
        return frozenset(
            record.task_id for record in running if record.cancel_requested_at is not None
        )

    def request_cancel(self, task_id: str, at: datetime) -> Snapshot | None:
        if not self._records([task_id]) and self._results([task_id])[0] is None:
            return None
        self._update(
            task_id,
            lambda record: _if_changed(record, states.apply_cancel_request(record, task_id, at)),
        )
        return self.read([task_id])[0]

    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        # The registry first: an end between the two reads is then seen with its result. But a whole
        # attempt may start and end between them, so that its result is paired with the record of
        # the attempt before. Every state is in the registry before its result is stored, so reading
        # the registry again resolves that.
        records = dict(self._records(task_ids))
        metas = self._results(task_ids)
        inconsistent = [
            task_id
            for task_id, meta in zip(task_ids, metas, strict=True)
            if states.backend_is_ahead(records.get(task_id), meta)
        ]
        if inconsistent:
            records |= self._records(inconsistent)
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
        """Whether the result of a success has expired. Reads the result backend only if needed."""
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
