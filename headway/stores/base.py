"""The port: what is known of executions, and the one place where a state write is let in or
refused.

A store belongs to one result backend. Redis keeps registry and results in one place and writes both
in one step (``redis.py``); any other backend keeps its results itself, and the registry lies beside
them (``sql.py``, ``keyvalue.py``). ``memory.py`` is the fake, and passes the same suite
(``tests/conformance/test_stores.py``).

Obligations of every store:

* One instance a process, safe to share between threads and greenlets, and usable after a fork (the
  child makes its own connections).
* Every call is bounded in time by ``timeout`` (seconds, default 0.5 a round trip) and raises
  nothing but ``Unavailable`` for a fault of the server or the network, with the driver's error as
  its cause.
* The rules are ``registered``, ``admits``, ``opens``, ``opened``, ``answered``, ``written``,
  ``signed`` and ``asked`` of ``core.states``, and those of ``core.history``, to the letter;
  `write`, `open`, `register` and `request_cancel` are atomic.
* An id that was never seen is an empty answer, never an error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from headway.core.registry import (
    AttemptStart,
    AttemptStarted,
    Page,
    Registration,
    Snapshot,
    StateWrite,
    WriteResult,
)
from headway.models import History, Query, Status
from headway.stores.reports import encode_report, reports_in

#: How long a registry entry outlives the result (``result_expires``): so long "expired" (410) and
#: "never existed" (404) differ.
REGISTRY_RETENTION = timedelta(days=7)


class Store(ABC):
    """What is known of executions. See the module's text for what every implementation owes."""

    #: True: `write` and `open` also store the result backend's own record, in the same atomic step,
    #: from ``StateWrite.result``. False: the caller lets Celery's own code store it after `write`
    #: returned True.
    keeps_results: bool = False

    #: True: what `open` and `write` let in is also published to whoever watches the execution
    #: (``feeds``).
    publishes: bool = False

    @abstractmethod
    def register(self, registrations: Iterable[Registration]) -> None:
        """Note tasks that are about to be published, in one round trip for all of them.

        Create if absent: a retry publishes the same id again (fact 45), and nothing that is known
        already may be lost. What is missing in an existing record (it was first heard of from its
        worker) is filled in.
        """

    @abstractmethod
    def start_attempt(self, opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        """Begin a new attempt: number it (atomic, starts at 1) and let it be the only one that may
        write.

        ``full_timeout`` as in `write`.
        """

    @abstractmethod
    def write(self, write: StateWrite, *, full_timeout: bool = False) -> WriteResult:
        """Let a state in, or refuse it. Refusal is no error: it is a late word of something that
        has ended.

        A report of an attempt that has given signs of life is one as well. What carries progress
        and is let in is remembered (`history`), in the same step.

        ``full_timeout``: wait as long as the result backend itself is configured to wait, instead of
        ``timeout``. For the writes that Celery makes itself: to lose a result is worse than to wait
        for a slow server.
        """

    @abstractmethod
    def heartbeat(self, task_ids: Sequence[str], worker: str, lifetime: float) -> frozenset[str]:
        """Say that ``worker`` (its node name) still runs its attempts of these tasks; true for
        ``lifetime`` seconds.

        Counts for open attempts of this worker, and of no known one; all else is passed over. A new
        attempt starts without a sign, unless its opening is one (``AttemptStart.heartbeat_ttl``).
        Returns those of them whose cancel is asked for. One round trip for all, where the backend
        allows it.
        """

    @abstractmethod
    def request_cancel(self, task_id: str, at: datetime) -> Snapshot | None:
        """Note that a cancel is asked for, and tell watchers, unless it has ended; what is known
        after it.

        None: nobody knows the id. Asking again changes nothing. A new attempt keeps the request;
        only a publication after the end takes it back (`core.states.registered`).
        """

    @abstractmethod
    def revoke(self, task_id: str, reason: str, at: datetime) -> bool:
        """End an execution of which nothing runs as REVOKED, with the result backend's own record.

        False where an attempt is open, or it has ended: it is a bystander's `write`.
        """

    @abstractmethod
    def query(self, query: Query) -> Page:
        """List executions, newest first, by the time that each was first heard of.

        A bounded amount of work, however many there are. What comes in between two pages neither
        repeats nor hides another. Raises ``InvalidRequest`` for a cursor that isn't one,
        ``NotSupported`` where the result backend has no order to list by.
        """

    @abstractmethod
    def counts(self) -> Mapping[Status, int]:
        """How many executions there are of each status, at a cost that doesn't grow with what one
        of them is.

        As they are listed: what has expired may be among them until it is swept, and an end that
        another process stored past the store is told by the next page that comes by it. Raises
        ``NotSupported`` as `find` does.
        """

    @abstractmethod
    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        """One look at each, in the order asked for, in one round trip; registry and result of one
        task never torn apart.
        """

    def history(self, task_id: str) -> History:
        """The reports that were let in, as many as are kept of them (`core.history`), for as long
        as the record is.

        The first and the newest are always among them. A new attempt goes on with it, but for one
        after a success, which is another story. Nothing where the result backend has no place for
        it; then it isn't ``complete``.
        """
        kept = self._reports(task_id)
        if kept.complete or not kept.reports:
            return kept
        # After the look at what is kept: it can't be older than that, then.
        record = self.read([task_id])[0].record
        if record is None or record.progress is None or record.updated_at is None:
            return kept
        newest = next(
            reports_in(encode_report(record.progress_attempt, record.progress, record.updated_at))
        )
        return (
            kept if newest == kept.reports[-1] else replace(kept, reports=(*kept.reports, newest))
        )

    @abstractmethod
    def _reports(self, task_id: str) -> History:
        """What is kept of them."""

    @abstractmethod
    def claim_key(
        self, key: str, value: str, expires: float, *, instead_of: str | None = None
    ) -> str:
        """Bind an idempotency key for ``expires`` seconds, unless it is bound to anything but
        ``instead_of``.

        Returns what it is bound to then. Of many callers with the same ``instead_of`` and a
        ``value`` of their own, one gets its own back. ``value`` is ASCII, 255 characters at most.
        """

    @abstractmethod
    def ping(self) -> None:
        """Return if the server answers now; else raise ``Unavailable``."""

    @abstractmethod
    def close(self) -> None:
        """Give back connections. A second call does nothing; a call of another method afterwards
        may connect again.
        """
