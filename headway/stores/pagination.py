"""Pages of executions, newest first, out of whatever ordered indexes a store has.

Every execution has one place, which never changes: when it was first heard of, and its id. An index
is a set of places: one for each status, one for each task, one for each owner. A page is a walk
down the narrowest indexes that a query allows, with a look at each execution on the way, since only
the look tells what it is *now*. The walk is bounded (`SCAN`), however many there are; a cursor is a
place, so that what comes or goes meanwhile moves nothing.
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

#: Executions that are looked at for one page, at most; and at a time.
SCAN = 1000
CHUNK = 200

#: Phase -> the statuses that it may have.
PHASE_STATUSES: dict[Phase, frozenset[Status]] = {
    **{phase: frozenset({status}) for status, phase in PHASES.values()},
    Phase.RUNNING: frozenset({Status.RUNNING}),
    Phase.STALLED: frozenset({Status.RUNNING}),
    Phase.CANCELLING: frozenset({Status.PENDING, Status.RUNNING}),
}


class Position(NamedTuple):
    """Where an execution stands in every listing. Later ones come first, and the larger id of two
    at the same time.
    """

    #: Microseconds since the epoch.
    at: int
    task_id: str


class IndexEntry(NamedTuple):
    """A place in an index."""

    place: Position
    #: See `indexes_for`.
    name: str


class Slice(NamedTuple):
    """A part of an index, from its newer end."""

    #: Only what comes after this place; None: from the newest on.
    after: Position | None
    #: Only what isn't older than this, in microseconds since the epoch.
    since: int
    most: int


class IndexReader(ABC):
    """What a store gives for its pages."""

    @abstractmethod
    def scan(self, indexes: Sequence[str], part: Slice) -> Sequence[Sequence[Position]]:
        """That part of each index, newest first; in one round trip for all, where the backend
        allows it.
        """

    @abstractmethod
    def peek_many(self, task_ids: Sequence[str]) -> Sequence[Snapshot]:
        """As `Store.read`; what a success returned may be left out."""

    @abstractmethod
    def repair(self, stale: Sequence[tuple[IndexEntry, Status | None]]) -> None:
        """Take entries out of indexes where they don't belong (any more), and put them where they
        do (None: nowhere).

        An index of a status is right about every state that passed the store. Ends that others
        stored, results that have expired and what is gone are found out on the way.
        """


def indexes_for(query: Query) -> list[str]:
    """The indexes to walk: together they hold all that is asked for."""
    if query.owner is not None:
        return [owner_index(query.owner)]
    if query.task is not None:
        return [task_index(query.task)]
    return [status_index(status) for status in sorted(_statuses(query))]


def status_index(status: Status) -> str:
    """The index of a status."""
    return "in:" + status.value


def task_index(task: str) -> str:
    """The index of a task."""
    return "of:" + task


def owner_index(owner: str) -> str:
    """The index of an owner."""
    return "by:" + owner


def indexed_status(record: TaskRecord) -> Status:
    """The status under which a record is listed: what `resolve` makes of it, as far as the registry
    knows.
    """
    status, _ = PHASES.get(record.state, (Status.RUNNING, Phase.RUNNING))
    return Status.RUNNING if status is Status.PENDING and record.is_open else status


def position_of(record: TaskRecord) -> Position:
    """Its place. Every record that a store has was heard of."""
    assert record.listed_at is not None
    return Position(to_micros(record.listed_at), record.task_id)


def page(source: IndexReader, query: Query, now: datetime) -> Page:
    """Walk until the page is full, the indexes are at their end, or enough was looked at."""
    indexes = indexes_for(query)
    after, since = start_position(query), _at(query.since) if query.since is not None else 0
    found: list[Snapshot] = []
    stale: list[tuple[IndexEntry, Status | None]] = []
    seen = 0
    # At first no more than a page: mostly all of it is what was asked for.
    count = query.limit + 1
    while indexes:
        parts = source.scan(indexes, Slice(after, since, count))
        ahead = _merged(indexes, parts)
        peek_many = source.peek_many([place.task_id for place, _ in ahead[:count]])
        for (place, entries), look in zip(ahead, peek_many, strict=False):
            if len(found) == query.limit:
                return _page(source, found, stale, after)
            execution = _resolved(look, now)
            stale += [(entry, true) for entry in entries for true in _moved(entry, execution)]
            if execution is not None and matches(query, execution, place):
                found.append(look)
            after, seen = place, seen + 1
        if len(ahead) < count or seen == SCAN:
            return _page(source, found, stale, after if seen == SCAN else None)
        count = min(CHUNK, SCAN - seen)
    return Page(())


def matches(query: Query, execution: Execution, place: Position) -> bool:
    """Whether it is what was asked for, as it is now."""
    text = query.text.casefold() if query.text else ""
    return (
        (not query.status or execution.status in query.status)
        and (not query.phase or execution.phase in query.phase)
        and query.task in (None, execution.task)
        and query.owner in (None, execution.owner)
        and (text in execution.execution_id.casefold() or text in (execution.task or "").casefold())
        and (query.since is None or place.at >= _at(query.since))
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
    """Each place once, newest first, with where it was found: while it moves it may be in two."""
    entries = merge(
        *(
            [IndexEntry(place, name) for place in part]
            for name, part in zip(indexes, parts, strict=True)
        ),
        reverse=True,
    )
    return [
        (place, list(group)) for place, group in groupby(entries, key=lambda entry: entry.place)
    ]


def _resolved(look: Snapshot, now: datetime) -> Execution | None:
    try:
        return resolve(look, now)
    except (ExecutionNotFound, ExecutionExpired):
        return None


def _moved(entry: IndexEntry, execution: Execution | None) -> list[Status | None]:
    """Where an entry of an index belongs, if not there."""
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
    """``end``: the last place that was looked at, where there may be more."""
    if stale:
        source.repair(stale)
    return Page(tuple(found), None if end is None else make_cursor(end))


def start_position(query: Query) -> Position | None:
    """Where to begin: after the page before, and not later than ``until``."""
    # No id is smaller than the empty one: all that is of that very time comes before it.
    scan = [Position(_at(query.until), "")] if query.until is not None else []
    if query.cursor is not None:
        scan.append(parse_cursor(query.cursor))
    return min(scan, default=None)


def _at(time: datetime) -> int:
    """In 16 digits, as many as a store may count on."""
    return min(to_micros(time), 10**16 - 1)


def make_cursor(place: Position) -> str:
    """The cursor of the page that comes after a place. Whoever holds it can read the place."""
    return base64.urlsafe_b64encode(f"{place.at}.{place.task_id}".encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> Position:
    """The place that a cursor names. Raises ``InvalidRequest`` for what is no cursor."""
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
        raise InvalidRequest("cursor must be what a page before this one gave") from None
