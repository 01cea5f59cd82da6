"""Public data: what readers get, as frozen records. Imports nothing else of this package.

- An *execution* is what a person watches. Its id is the Celery task's.
- A *task* is Celery's.
- An *attempt* is one run of a task. A retry or a redelivery is a new attempt.
- *Progress* is the last report of an attempt.
- *Status* is one of the five words of the API, *phase* the finer state behind it.

Records are replaced (``dataclasses.replace``), never changed in place. Times are aware ``datetime``
objects in UTC, durations are float seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """The five statuses of the Progress Query API (contract, section 3)."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the execution has ended. Only a new attempt can follow, and none after a success
        (``core.states.allows_start``).
        """
        return self not in (Status.PENDING, Status.RUNNING)


class Phase(StrEnum):
    """The finer state behind a status (contract, section 3)."""

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

    #: Completed units, in the task's own unit. None if the report has no count.
    current: int | float | None = None
    #: All units. None or 0: unknown, the bar is indeterminate.
    total: int | float | None = None
    #: Text for people, or None.
    message: str | None = None
    #: The task's own key-value pairs, str to str. None if it gave none, which differs from ``{}``.
    attributes: Mapping[str, str] | None = None
    #: When it was reported, by the worker's clock. None if the report has no time.
    timestamp: datetime | None = None
    #: Units of ``current`` per second, smoothed by the worker. None while unknown.
    rate: float | None = None

    @property
    def indeterminate(self) -> bool:
        """Whether the percentage is unknown: a bar may move, but can't show how far it is."""
        return self.current is None or self.total is None or self.total <= 0

    @property
    def percentage(self) -> float:
        """``current / total * 100``, not rounded, within 0..100. 0.0 if indeterminate."""
        if self.current is None or self.total is None or self.total <= 0:
            return 0.0
        if self.current >= self.total:
            return 100.0  # don't divide: an int may be larger than any float
        try:
            # Multiplied first: 7 / 100 * 100 is 7.000000000000001.
            percentage = self.current * 100 / self.total
            if percentage > 100:  # the product of a huge float is infinite
                percentage = self.current / self.total * 100
        except OverflowError:  # the int is larger than any float
            return 0.0
        return max(0.0, percentage)

    @property
    def eta_seconds(self) -> float | None:
        """Remaining seconds at ``rate``, counted from ``timestamp``. None if unknown."""
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
        """Whether a viewer sees no difference. Ignores ``timestamp`` and ``rate``."""
        return other is not None and (self.current, self.total, self.message, self.attributes) == (
            other.current,
            other.total,
            other.message,
            other.attributes,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution failed, as data: no exception object and no traceback."""

    #: The exception's class name, such as ``ValueError``.
    type: str
    #: The exception's message.
    message: str
    #: More facts, JSON-safe, or None.
    details: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """The state of one execution. Only ``core.states.resolve`` makes it, so that its fields are
    consistent.
    """

    execution_id: str
    status: Status
    phase: Phase
    progress: Progress | None = None
    #: The task's name, such as ``tasks.checksum``. None while unknown.
    task: str | None = None
    #: Number of the current attempt, starts at 1. 0 until the first one starts.
    attempt: int = 0
    #: What the task returned, as decoded from the result backend. None until it succeeded.
    outputs: Any = None
    error: Failure | None = None
    created_at: datetime | None = None
    #: When the first attempt started.
    started_at: datetime | None = None
    #: When the last report, start or end was received.
    updated_at: datetime | None = None
    finished_at: datetime | None = None
    #: The node name (``celery@host``) of the last attempt's worker.
    worker: str | None = None
    #: The owner that the publisher set, or None.
    owner: str | None = None
    #: Celery's root id: the first task of the workflow, or its own id. None if unknown.
    root_id: str | None = None
    #: The group or chord header that it belongs to.
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """One report in the history of an execution."""

    #: The attempt that reported it, starts at 1. 0 if no attempt was started in the registry.
    attempt: int
    #: ``timestamp`` is always set, to the millisecond: if the report had none, it is the time of
    #: storage. ``rate`` is not stored.
    progress: Progress


@dataclass(frozen=True, slots=True)
class History:
    """The stored reports of an execution, oldest first (`core.history` has the rule)."""

    reports: tuple[Report, ...] = ()
    #: Whether these are all reports: none was thinned out.
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Query:
    """The filters of a listing. An empty set or None doesn't filter."""

    status: frozenset[Status] = frozenset()
    phase: frozenset[Phase] = frozenset()
    #: The full name of the task.
    task: str | None = None
    owner: str | None = None
    #: Part of the id or of the task's name, case-insensitive.
    text: str | None = None
    #: First seen at this time or later.
    since: datetime | None = None
    #: First seen before this time.
    until: datetime | None = None
    #: Most executions in one page, 1 to 200.
    limit: int = 50
    #: ``Page.cursor`` of the previous page. None: the first page.
    cursor: str | None = None
