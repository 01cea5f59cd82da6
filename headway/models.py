"""Public data: what a reader is shown, as frozen records. Nothing here imports the rest of the
package.

An *execution* is what a person watches; a *task* is Celery's; an *attempt* is one run of a task (a
retry or a redelivery is a new one); *progress* is the last report of an attempt. *Status* is one of
the five words of the API, *phase* the finer state behind it.

Records are replaced (``dataclasses.replace``), never changed in place. Times are aware ``datetime``
in UTC; durations are float seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The five words of the Progress Query API (contract, section 3)."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether this is an end: only a new attempt can lead on from it, and nothing from a
        success (``core.states.opens``).
        """
        return self not in (Status.PENDING, Status.RUNNING)


class Phase(StrEnum):
    """The finer truth behind a status (contract, section 3)."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    STALLED = "stalled"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Progress:
    """The last report of an attempt."""

    #: How much is done, in the task's own unit. None where the report gives no count.
    current: int | float | None = None
    #: How much there is in all, in the same unit. None or 0: unknown, the bar is indeterminate.
    total: int | float | None = None
    #: What a person would want to read, or None.
    message: str | None = None
    #: The task's own key-value pairs, str to str; None where it gave none (``{}`` is kept apart
    #: from None).
    attributes: Mapping[str, str] | None = None
    #: When it was reported, by the worker's clock. None where the report carries no time.
    timestamp: datetime | None = None
    #: Units of ``current`` a second, smoothed by the worker that reported; None while unknown.
    rate: float | None = None

    @property
    def indeterminate(self) -> bool:
        """True where no fraction can be told: a bar may move, but may not say how far it is."""
        return self.current is None or self.total is None or self.total <= 0

    @property
    def percentage(self) -> float:
        """``current / total * 100``, not rounded, within 0..100; 0.0 where indeterminate."""
        if self.current is None or self.total is None or self.total <= 0:
            return 0.0
        if self.current >= self.total:
            return 100.0  # before dividing: an int may be larger than any float
        try:
            return max(0.0, self.current / self.total * 100.0)
        except OverflowError:  # a float of so large an int that no float holds it
            return 0.0

    @property
    def eta_seconds(self) -> float | None:
        """Seconds that are left at ``rate``, counted from ``timestamp``; None where it can't be
        told.
        """
        if (
            self.current is None
            or self.total is None
            or self.total <= 0
            or self.rate is None
            or self.rate <= 0
        ):
            return None
        try:
            return max(0.0, (self.total - self.current) / self.rate)
        except OverflowError:
            return None

    def same_as(self, other: Progress | None) -> bool:
        """Whether a viewer would see no difference: all that the task said is equal, whenever it
        said it.
        """
        return other is not None and (self.current, self.total, self.message, self.attributes) == (
            other.current,
            other.total,
            other.message,
            other.attributes,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution failed, as data: never an exception object, never a traceback."""

    #: The exception's class name, such as ``ValueError``.
    type: str
    #: Its message, as a person would read it.
    message: str
    #: Further facts, JSON-safe; None where there are none.
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """What a reader is shown. Made by ``core.states.resolve`` only, so that it can't contradict
    itself.
    """

    execution_id: str
    status: Status
    phase: Phase
    progress: Progress | None = None
    #: The task's name, such as ``tasks.checksum``; None where nobody has said it yet.
    task: str | None = None
    #: 0 while no attempt has begun; 1 for the first run.
    attempt: int = 0
    #: What the task returned (as decoded from the result backend); None until it succeeded.
    outputs: Any = None
    error: Failure | None = None
    created_at: datetime | None = None
    #: The begin of the first attempt.
    started_at: datetime | None = None
    #: The last time anything was heard: a report, a start, an end.
    updated_at: datetime | None = None
    finished_at: datetime | None = None
    #: The worker's node name (``celery@host``) of the last attempt.
    worker: str | None = None
    #: Whom it belongs to, as the publisher said; None where it said nothing.
    owner: str | None = None
    #: The task that a workflow began with, in Celery's words: its own id where it began one, None
    #: where nobody said.
    root_id: str | None = None
    #: The group or the chord's header that it is a member of.
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One report of an execution, as it is remembered."""

    #: The attempt that reported it, starts at 1; 0 where it came from a run that nobody opened.
    attempt: int
    #: Its time is to the millisecond, and always there: when it was stored, where it carried none.
    #: Its rate isn't remembered.
    progress: Progress


@dataclass(frozen=True, slots=True)
class History:
    """The reports of an execution, oldest first (`core.history` says which)."""

    reports: tuple[Report, ...] = ()
    #: Whether they are all that there were: none was thinned out.
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Query:
    """What to list. Each field narrows it down; what is empty or None doesn't."""

    status: frozenset[Status] = frozenset()
    phase: frozenset[Phase] = frozenset()
    #: The task's name, in full.
    task: str | None = None
    owner: str | None = None
    #: Part of the id or of the task's name, in whatever case.
    text: str | None = None
    #: First heard of at this time or after it.
    since: datetime | None = None
    #: First heard of before this time.
    until: datetime | None = None
    #: How many at most, 1 to 200.
    limit: int = 50
    #: ``Page.cursor`` of the page before; None for the first one.
    cursor: str | None = None
