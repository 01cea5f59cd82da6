"""Pages of executions, newest first, from the ordered indexes of a store.

Every execution has one position, which never changes: the time it was first seen, and its id. An
index is a set of positions; there is one per status, per task and per owner. A page is a walk down
the smallest indexes that fit the query. Each execution on the way is read, because only that tells
its current state. The walk is bounded by `SCAN`, however many executions there are. A cursor is a
position, so executions that come or go meanwhile do not shift the pages.
"""

from __future__ import annotations

import base64
import binascii
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from headway.core.registry import Page, Snapshot, TaskRecord
from headway.core.states import PHASES, resolve
from headway.errors import ExecutionExpired, ExecutionNotFound, InvalidRequest
from headway.models import Execution, Phase, Query, Status
from headway.stores.codec import to_micros

#: Executions that are read for one page, at most; and per round trip.
SCAN = 1000
CHUNK = 200

#: Phase -> the statuses that an execution in it may have.
PHASE_STATUSES: dict[Phase, frozenset[Status]] = {
    **{phase: frozenset({status}) for status, phase in PHASES.values()},
    Phase.RUNNING: frozenset({Status.RUNNING}),
    Phase.STALLED: frozenset({Status.RUNNING}),
    Phase.CANCELLING: frozenset({Status.PENDING, Status.RUNNING}),
}


class Position(NamedTuple):
    """The position of an execution in every listing: later first, then the larger id."""

    #: Microseconds since the epoch.
    at: int
    task_id: str


class IndexEntry(NamedTuple):
    """A position in an index."""

    position: Position
    #: See `indexes_for`.
    name: str


class Slice(NamedTuple):
    """A part of an index, from its newer end."""

    #: Only positions behind this one; None: from the newest on.
    after: Position | None
    #: Only positions that are not older than this, in microseconds since the epoch.
    since: int
    most: int


class IndexReader(ABC):
    """What a store provides for its pages."""

    @abstractmethod
    def scan(self, indexes: Sequence[str], part: Slice) -> Sequence[Sequence[Position]]:
        """Read a slice of each index, newest first; in one round trip, if the backend allows it."""

    @abstractmethod
    def peek_many(self, task_ids: Sequence[str]) -> Sequence[Snapshot]:
        """As `Store.read`, but the result of a success may be missing."""

    @abstractmethod
    def repair(self, stale: Sequence[tuple[IndexEntry, Status | None]]) -> None:
        """Move index entries to the index of the given status; None removes them.

        The index of a status is correct for every state that passed the store. Ends stored by
        others, expired results and deleted records are only found when a page is read.
        """


def indexes_for(query: Query) -> list[str]:
    """The indexes to walk; together they contain everything that the query may match."""
    if query.owner is not None:
        return [owner_index(query.owner)]
    if query.task is not None:
        return [task_index(query.task)]
    return [status_index(status) for status in sorted(_statuses(query))]


def status_index(status: Status) -> str:
    """The name of a status's index."""
    return "in:" + status.value


def task_index(task: str) -> str:
    """The name of a task's index."""
    return "of:" + task


def owner_index(owner: str) -> str:
    """The name of an owner's index."""
    return "by:" + owner


def indexed_status(record: TaskRecord) -> Status:
    """The status whose index a record is in: as `resolve`, as far as the registry knows."""
    status, _ = PHASES.get(record.state, (Status.RUNNING, Phase.RUNNING))
    return Status.RUNNING if status is Status.PENDING and record.is_open else status


def position_of(record: TaskRecord) -> Position:
    """The position of a record. Every stored record has one."""
    assert record.listed_at is not None
    return Position(to_micros(record.listed_at), record.task_id)


def page(source: IndexReader, query: Query, now: datetime) -> Page:
    """Walk until the page is full, the indexes end, or `SCAN` executions were read."""
    indexes = indexes_for(query)
    after, since = start_position(query), _at(query.since) if query.since is not None else 0
    found: list[Snapshot] = []
    stale: list[tuple[IndexEntry, Status | None]] = []
    seen = 0
    # Start with one page: usually everything matches.
    count = query.limit + 1
    while indexes:
        parts = source.scan(indexes, Slice(after, since, count))
        ahead = _merged(indexes, parts)
        peek_many = source.peek_many([position.task_id for position, _ in ahead[:count]])
        for (position, entries), snapshot in zip(ahead, peek_many, strict=False):
            if len(found) == query.limit:
                return _page(source, found, stale, after)
            execution = _resolved(snapshot, now)
            stale += [(entry, true) for entry in entries for true in _moved(entry, execution)]
            if execution is not None and matches(query, execution, position):
                found.append(snapshot)
            after, seen = position, seen + 1
        if len(ahead) < count or seen == SCAN:
            return _page(source, found, stale, after if seen == SCAN else None)
        count = min(CHUNK, SCAN - seen)
    return Page(())


def matches(query: Query, execution: Execution, position: Position) -> bool:
    """Whether the execution in its current state matches the query."""
    text = query.text.casefold() if query.text else ""
    return (
        (not query.status or execution.status in query.status)
        and (not query.phase or execution.phase in query.phase)
        and query.task in (None, execution.task)
        and query.owner in (None, execution.owner)
        and (text in execution.execution_id.casefold() or text in (execution.task or "").casefold())
        and (query.since is None or position.at >= _at(query.since))
    )


def _statuses(query: Query) -> frozenset[Status]:
    wanted = query.status or frozenset(Status)
    return (
        wanted & frozenset().union(*(PHASE_STATUSES[phase] for phase in query.phase))
        if query.phase
        else wanted
    )


def _merged(
    indexes: Sequence[str], parts: Sequence[Sequence[Position]]
) -> list[tuple[Position, list[IndexEntry]]]:
    """Each position once, newest first, with its entries: while it moves it may be in two."""
    entries = merge(
        *(
            [IndexEntry(position, name) for position in part]
            for name, part in zip(indexes, parts, strict=True)
        ),
        reverse=True,
    )
    return [
        (position, list(group))
        for position, group in groupby(entries, key=lambda entry: entry.position)
    ]


def _resolved(snapshot: Snapshot, now: datetime) -> Execution | None:
    try:
        return resolve(snapshot, now)
    except (ExecutionNotFound, ExecutionExpired):
        return None


def _moved(entry: IndexEntry, execution: Execution | None) -> list[Status | None]:
    """The status to move an index entry to; empty if it is in the right index."""
    if execution is None:
        return [None]
    kind, _, what = entry.name.partition(":")
    return [execution.status] if kind == "in" and what != execution.status else []


def _page(
    source: IndexReader,
    found: Sequence[Snapshot],
    stale: Sequence[tuple[IndexEntry, Status | None]],
    end: Position | None,
) -> Page:
    """``end``: the last position that was read, if there may be more."""
    if stale:
        source.repair(stale)
    return Page(tuple(found), None if end is None else make_cursor(end))


def start_position(query: Query) -> Position | None:
    """Where to start: behind the previous page, and not later than ``until``."""
    # No id is smaller than the empty one, so it stands behind all positions of that time.
    scan = [Position(_at(query.until), "")] if query.until is not None else []
    if query.cursor is not None:
        scan.append(parse_cursor(query.cursor))
    return min(scan, default=None)


def _at(time: datetime) -> int:
    """Microseconds since the epoch, in at most 16 digits, which stores rely on."""
    return min(to_micros(time), 10**16 - 1)


def make_cursor(position: Position) -> str:
    """The cursor of the page behind a position. It is not secret: the position can be decoded."""
    return (
        base64.urlsafe_b64encode(f"{position.at}.{position.task_id}".encode()).decode().rstrip("=")
    )


def parse_cursor(cursor: str) -> Position:
    """Decode a cursor. Raises ``InvalidRequest`` if it is not valid."""
    try:
        at, _, task_id = (
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True)
            .decode()
            .partition(".")
        )
        if not at.isdecimal() or not at.isascii() or len(at) > 16:
            raise ValueError(at)
        return Position(int(at), task_id)
    except (ValueError, binascii.Error):
        raise InvalidRequest("cursor must be the cursor of a previous page") from None
