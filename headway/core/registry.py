"""What workers, publishers and stores exchange: registrations, attempts, writes, task records.

Frozen data, as in `headway.models`, but not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headway.models import Progress

#: Celery's terminal states (``celery.states.READY_STATES``), and the two with which Celery ends an
#: attempt without storing them. Repeated here so that the pure core needs no Celery. A test
#: compares.
READY_STATES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"})


@dataclass(frozen=True, slots=True)
class Registration:
    """What a publisher knows about a task before it sends the message."""

    task_id: str
    task: str
    created_at: datetime
    owner: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    #: When it should have started: its eta, or the time at which it expires. None: unknown.
    expected_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class AttemptStart:
    """A new attempt, as its worker reports it."""

    task_id: str
    task: str | None
    at: datetime
    #: ``request.retries``, starts at 0. A redelivery repeats the number.
    retries: int = 0
    #: The worker's node name.
    worker: str | None = None
    #: A STARTED record encoded as the result backend would, or None for a plain one. A store with
    #: ``publishes`` announces the new attempt with it (celery-facts#redis-publishes-every-state).
    #: It becomes the result if ``store_result`` is set (``task_track_started``) or an earlier
    #: attempt left a result.
    result: bytes | None = None
    store_result: bool = False
    #: Seconds that the start counts as a heartbeat, so that a worker that is killed before its
    #: first `Store.heartbeat` is detected too. None: the worker sends no heartbeats.
    heartbeat_ttl: float | None = None
    #: Unique id of this delivery; a redelivery of the same message has another one. Starting it
    #: twice is idempotent, so a worker can retry after a lost reply. None: each start is a new
    #: attempt.
    delivery_id: str | None = None
    #: The owner in the message, for a store that has no registration of this task.
    owner: str | None = None
    #: The retry of this attempt is already published. If that retry has started, this start is too
    #: late.
    retry_published: bool = False


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A store's reply to an ``AttemptStart``."""

    #: Its number, starts at 1. 0: it may not start (the task has succeeded, or its cancel was
    #: confirmed), and all its writes are refused.
    attempt: int
    #: Whether a cancel was requested before the start.
    cancel_requested: bool = False
    #: The last progress of the attempt before it, or None.
    previous: Progress | None = None


@dataclass(frozen=True, slots=True)
class StateWrite:
    """One state to store for a task."""

    task_id: str
    #: Celery's state, or a custom one of the task.
    state: str
    at: datetime
    #: The attempt that writes. None for an external writer (a worker's main process, a client),
    #: which knows only the fields below.
    attempt: int | None = None
    #: An external writer's ``request.retries``. None if it has none
    #: (celery-facts#celery-undoes-its-own-ends).
    retries: int | None = None
    #: An external writer's worker. None if the writer isn't a worker.
    worker: str | None = None
    #: The task's name, for a store without a record of this task.
    task: str | None = None
    #: The whole record encoded as the result backend would, for a store with ``keeps_results``.
    #: None: nothing to store, since Celery stores no record of this end (Ignore, Reject,
    #: ignore_result).
    result: bytes | None = None
    #: What ``update_state`` received, JSON-safe, for a store that keeps progress itself. None if
    #: the state has none.
    meta: Any = None
    #: The delivery that an external writer means (``AttemptStart.delivery_id``). None if unknown.
    delivery_id: str | None = None
    #: Seconds to keep ``result``. None or 0: forever.
    expires: float | None = None
    #: True: the caller itself stores the record in the result backend after `write` returned True
    #: (a store without ``keeps_results``). Until then readers see the state before it
    #: (``core.states.RESULT_GRACE``).
    result_follows: bool = False
    #: True: the record is no result. It only replaces the last report, which would otherwise stay
    #: forever (``ignore_result``).
    no_result: bool = False


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A store's reply to a ``StateWrite``. True if it was accepted."""

    #: False is no error: the write came too late, after an end.
    accepted: bool
    #: Whether a cancel was requested (`Store.request_cancel`). In the reply, so that a reporting
    #: task needs no second round trip.
    cancel_requested: bool = False

    def __bool__(self) -> bool:
        return self.accepted


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What a store knows about one task. ``core.states.allows_write`` decides by it,
    ``core.states.resolve`` turns it into an ``Execution``.
    """

    task_id: str
    task: str | None = None
    owner: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    updated_at: datetime | None = None
    finished_at: datetime | None = None
    #: Number of attempts so far, starts at 0.
    attempt: int = 0
    #: Number of the last attempt that ended (see `is_open`).
    last_ended_attempt: int = 0
    #: The last state that was accepted. None: so far there is only the registration.
    state: str | None = None
    #: ``request.retries`` of the last attempt.
    retries: int = 0
    worker: str | None = None
    #: The delivery of the last attempt (``AttemptStart.delivery_id``).
    delivery_id: str | None = None
    #: The last progress. Kept here because a later state replaces the result backend's record.
    progress: Progress | None = None
    #: The attempt that reported ``progress``.
    progress_attempt: int = 0
    #: Whether the end stored a result. If so and the result is missing, it has expired.
    result_stored: bool = False
    cancel_requested_at: datetime | None = None
    #: When its next attempt should have started (``Registration.expected_by``).
    expected_by: datetime | None = None
    #: When the store first saw the task, if that wasn't its registration; None otherwise.
    first_seen_at: datetime | None = None
    #: The last attempt that sent a heartbeat (`Store.heartbeat`). 0: none did.
    heartbeat_attempt: int = 0
    #: Seconds that a heartbeat is valid.
    heartbeat_ttl: float = 0.0
    #: The last heartbeat, by the sender's clock. None if the store measures the time itself.
    heartbeat_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether an attempt has started and not ended."""
        return self.attempt > self.last_ended_attempt

    @property
    def listed_at(self) -> datetime | None:
        """When the store first saw the task: its position in a listing, which never changes."""
        return self.first_seen_at or self.created_at


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The registry's and the result backend's record of one task, read together."""

    task_id: str
    record: TaskRecord | None
    #: Celery's record as plain data (``status``, ``result``, ``date_done``, ...), or None.
    #: Exceptions are not revived (celery-facts#decode-result-revives-exceptions).
    meta: Mapping[str, Any] | None
    #: True: one step wrote both, so they can't differ because of a delay. False: the result backend
    #: stores its results itself (a store without ``keeps_results``), and may lag behind for a
    #: moment.
    atomic: bool = True
    #: Whether the open attempt still sends heartbeats. None: it never sent one (it is too young, or
    #: its worker sends none), so their absence means nothing. False: they have stopped.
    alive: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, newest first."""

    snapshots: tuple[Snapshot, ...]
    #: Where the next page starts. None: this is the last page. A page may be short or empty and
    #: still have a cursor, since the work for one page is bounded.
    cursor: str | None = None
