"""What workers, publishers and stores exchange: registrations, attempts, state writes, task
records.

Frozen data, as in `headway.models`; not public.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headway.models import Progress

#: Celery's states after which nothing more is expected of an attempt that isn't retried
#: (``celery.states.READY_STATES``), and the two that Celery ends an attempt with and stores
#: nowhere. Repeated here so that the pure core needs no Celery; a test compares.
READY_STATES = frozenset({"SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"})


@dataclass(frozen=True, slots=True)
class Registration:
    """What a publisher knows of a task before its message leaves."""

    task_id: str
    task: str
    created_at: datetime
    owner: str | None = None
    root_id: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    #: Until when it may well wait for a worker: its eta, or the time at which it expires. None:
    #: nobody said.
    expected_by: datetime | None = None


@dataclass(frozen=True, slots=True)
class AttemptStart:
    """A new attempt, as its worker announces it."""

    task_id: str
    task: str | None
    at: datetime
    #: ``request.retries`` of the run, starts at 0. A redelivery has the same number again.
    retries: int = 0
    #: The worker's node name.
    worker: str | None = None
    #: A STARTED record encoded as the result backend would, or None for a plain one. A store with
    #: ``publishes`` tells watchers of the new attempt with it (fact 22). It is kept as the result
    #: where ``store_result`` is set (``task_track_started``), and where an earlier attempt left
    #: one.
    result: bytes | None = None
    store_result: bool = False
    #: Seconds that this start counts as a sign of life: others will follow (`Store.heartbeat`), and a
    #: worker that is killed before the first of them shall be found out as well. None: its worker
    #: gives none.
    heartbeat_ttl: float | None = None
    #: A word that no other run has, a redelivery of the same message included. Said again it is the
    #: same attempt: who got no answer may ask again. None: each opening is another attempt.
    delivery_id: str | None = None
    #: Whom it belongs to, as its message says, for a store that its publisher hasn't told.
    owner: str | None = None
    #: Its retry is published already: where that one has begun, this comes too late.
    retry_published: bool = False


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """A store's answer to an ``AttemptStart``."""

    #: Its number, starts at 1; 0 where nothing opens it any more (it has succeeded, or its cancel
    #: was confirmed): the run's writes are all refused.
    attempt: int
    #: Whether a cancel was asked for before it began.
    cancel_requested: bool = False
    #: The last progress of the attempt before it, None where there was none.
    previous: Progress | None = None


@dataclass(frozen=True, slots=True)
class StateWrite:
    """One state that somebody wants to store for a task."""

    task_id: str
    #: Celery's state, or a task's own word.
    state: str
    at: datetime
    #: The attempt that says so; None for a bystander (a worker's main process, a client), which
    #: knows only what follows.
    attempt: int | None = None
    #: A bystander's ``request.retries``; None where it knows none (fact 42).
    retries: int | None = None
    #: A bystander's worker; None where it isn't one.
    worker: str | None = None
    #: The task's name, for a store that hears of it for the first time.
    task: str | None = None
    #: The whole record encoded as the result backend would, for a store with ``keeps_results``;
    #: None: nothing to store, an end that Celery itself keeps no record of (Ignore, Reject,
    #: ignore_result).
    result: bytes | None = None
    #: What ``update_state`` was given, JSON-safe, for a store that keeps progress on its own; None
    #: where the state carries none.
    meta: Any = None
    #: The run that a bystander speaks of (``AttemptStart.delivery_id``); None where it doesn't know.
    delivery_id: str | None = None
    #: Seconds to keep ``result``; None or 0 for ever.
    expires: float | None = None
    #: True: the result backend will be given a record by the caller itself, after `write` returned
    #: True (a store without ``keeps_results``). Until it is there a reader goes on seeing what came
    #: before (``core.states.RESULT_GRACE``).
    result_follows: bool = False
    #: True: the record is no result. The end left one only so that a report doesn't stand there for
    #: ever (``ignore_result``).
    no_result: bool = False


@dataclass(frozen=True, slots=True)
class WriteResult:
    """A store's answer to a ``StateWrite``; true where it was let in."""

    #: False is no error: the late word of something that has ended.
    accepted: bool
    #: Whether a cancel was asked for (`Store.request_cancel`), so that whoever reports needn't ask.
    cancel_requested: bool = False

    def __bool__(self) -> bool:
        return self.accepted


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What a store knows of one task. The fence of ``core.states.admits`` reads it,
    ``core.states.resolve`` explains it.
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
    #: How many attempts were opened, starts at 0.
    attempt: int = 0
    #: The number of the last attempt that ended; ``attempt > last_ended_attempt`` means one is open (`is_open`).
    last_ended_attempt: int = 0
    #: The last state that was admitted; None while nothing but the registration was seen.
    state: str | None = None
    #: ``request.retries`` of the last attempt.
    retries: int = 0
    worker: str | None = None
    #: The run that is the last attempt (``AttemptStart.delivery_id``).
    delivery_id: str | None = None
    #: The last progress of an earlier state, kept where the result backend's own record has moved
    #: on.
    progress: Progress | None = None
    #: The attempt that reported ``progress``.
    progress_attempt: int = 0
    #: Whether the result backend was given a record with the end: where it should be and isn't, the
    #: result has expired.
    result_stored: bool = False
    cancel_requested_at: datetime | None = None
    #: Until when it may well wait for its next attempt (``Registration.expected_by``).
    expected_by: datetime | None = None
    #: When it was first heard of, where that wasn't by its publication; None where it was.
    first_seen_at: datetime | None = None
    #: The last attempt that gave a sign of life (`Store.heartbeat`); 0: none did.
    heartbeat_attempt: int = 0
    #: How long a sign of it lasts, in seconds.
    heartbeat_ttl: float = 0.0
    #: The last sign, by the clock of whoever gave it. None where the store measures the time
    #: itself.
    heartbeat_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether an attempt has begun and not ended."""
        return self.attempt > self.last_ended_attempt

    @property
    def listed_at(self) -> datetime | None:
        """Its place in a listing, which never changes: when it was first heard of."""
        return self.first_seen_at or self.created_at


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at one task: the registry's record and the result backend's, read together."""

    task_id: str
    record: TaskRecord | None
    #: Celery's record as plain data (``status``, ``result``, ``date_done``, ...), exceptions not
    #: revived (fact 18); None: there is none.
    meta: Mapping[str, Any] | None
    #: True: the two were written in one step, so that a difference between them is no lag. False
    #: where the result backend keeps its results itself (a store without ``keeps_results``): they
    #: may lag behind the registry for a moment.
    atomic: bool = True
    #: The open attempt's signs of life. None: it never gave one (it is too young, or its worker
    #: gives none), so that its silence means nothing. False: it gave some, and they have stopped.
    alive: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what was asked for, newest first."""

    snapshots: tuple[Snapshot, ...]
    #: Where it goes on, or None where there is no more. A page may be short, even empty, and go on
    #: all the same: the work for one page is bounded.
    cursor: str | None = None
