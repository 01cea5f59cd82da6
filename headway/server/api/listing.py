"""``GET /executions``: what there is, newest first, in pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from flask import Blueprint, Response, request

from headway.core import serialize
from headway.core.registry import Snapshot
from headway.core.states import resolve
from headway.errors import (
    ExecutionExpired,
    ExecutionNotFound,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
)
from headway.models import Execution, Phase, Query, Status
from headway.server.api.executions import uncached
from headway.server.auth import Action
from headway.stores.pagination import Position, make_cursor, parse_cursor, place_of, start_position

if TYPE_CHECKING:
    from headway.server.extension import Headway

#: Executions on a page: unless told otherwise, and at most.
LIMIT, MOST = 50, 200
#: Of the store's pages, at most this many for one of which the caller may read nothing.
PAGES = 5
#: Of a task's name, an owner and a text, in characters.
MAX_WORD = 255

FILTERS = ("status", "phase", "task", "owner", "q", "since", "until", "limit", "cursor", "counts")

WordT = TypeVar("WordT", bound=StrEnum)


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route."""

    @blueprint.get("/executions")
    def executions() -> Response:
        headway.policy.authorize(request, Action.LIST)
        query, wants_counts = read_query(), _flag("counts")
        shown, cursor = _permitted(headway, query)
        body: serialize.Json = {
            "executions": [listing_json(each) for each in shown],
            "cursor": cursor,
        }
        return uncached(body | ({"counts": _counts(headway)} if wants_counts else {}))


def listing_json(execution: Execution) -> serialize.Json:
    """One line of a listing: the execution without what it returned, which may be of any size."""
    line = serialize.execution_json(execution)
    del line["outputs"]
    return line


def read_query() -> Query:
    """The request's query. Raises ``InvalidRequest``, which names the parameter and what it may be."""
    if unknown := sorted(set(request.args) - {*FILTERS, "ticket"}):
        raise InvalidRequest(
            f"There is no filter {unknown[0][:100]!r}; there are {', '.join(FILTERS)}"
        )
    return Query(
        status=_words("status", Status),
        phase=_words("phase", Phase),
        task=_text("task"),
        owner=_text("owner"),
        text=_text("q"),
        since=_time("since"),
        until=_time("until"),
        limit=_limit(),
        cursor=request.args.get("cursor"),
    )


def _permitted(headway: Headway, query: Query) -> tuple[list[Execution], str | None]:
    """A page of what the caller may read, and a cursor that names nothing else: a store's own names
    what it looked at last.

    It names the last one that is shown, then. Where none is, the walk goes on for a while, and the
    cursor tells a time: after all that is newer, so that the next page neither repeats nor leaves
    out what is of that very time.
    """
    start, now, walk, pages = start_position(query), headway.clock(), query, 0
    while True:
        page = headway.store.query(walk)
        pages += 1
        seen = [
            (each, found)
            for each, found in _resolved(page.snapshots, now)
            if _may_see(headway, found.execution_id)
        ]
        shown = [found for _, found in seen]
        end = parse_cursor(page.cursor) if page.cursor is not None else None
        if len(shown) <= query.limit and (end is None or _may_see(headway, end.task_id)):
            return shown, page.cursor
        if named := [
            place_of(each.record) for each, _ in seen[: query.limit] if each.record is not None
        ]:
            return shown[: query.limit], make_cursor(named[-1])
        if end is None:
            return shown, None
        # At least to the end of one time, or the next page would begin where this one did.
        before = Position(end.at + 1, "")
        if (shown or pages >= PAGES) and (start is None or before < start):
            return shown[: query.limit], make_cursor(before)
        walk = replace(query, cursor=page.cursor, limit=MOST)


def _counts(headway: Headway) -> serialize.Json | None:
    """How many there are of each status; None for whom they aren't all: to look at each would cost
    more than any page.
    """
    try:
        headway.policy.authorize(request, Action.COUNT)
    except (NotAllowed, NotAuthenticated):
        return None
    found = headway.store.counts()
    return {status.value: found[status] for status in Status}


def _may_see(headway: Headway, execution_id: str) -> bool:
    try:
        headway.policy.authorize(request, Action.READ, execution_id)
    except (NotAllowed, NotAuthenticated):
        return False
    return True


def _resolved(snapshots: Iterable[Snapshot], now: datetime) -> Iterable[tuple[Snapshot, Execution]]:
    for snapshot in snapshots:
        try:
            yield snapshot, resolve(snapshot, now)
        except (ExecutionNotFound, ExecutionExpired):
            continue  # it went while the page was made


def _words(name: str, kind: type[WordT]) -> frozenset[WordT]:
    """``?status=running,failed``, or the parameter several times."""
    try:
        return frozenset(
            kind(word) for given in request.args.getlist(name) for word in given.split(",")
        )
    except ValueError:
        raise InvalidRequest(
            f"{name} must be one or more of {', '.join(kind)}, with commas between"
        ) from None


def _text(name: str) -> str | None:
    given = request.args.get(name)
    if given is not None and (not 0 < len(given) <= MAX_WORD or not given.isprintable()):
        raise InvalidRequest(f"{name} must be 1 to {MAX_WORD} printable characters")
    return given


def _flag(name: str) -> bool:
    given = request.args.get(name, "false")
    if given not in ("true", "false"):
        raise InvalidRequest(f"{name} must be true or false")
    return given == "true"


def _time(name: str) -> datetime | None:
    given = request.args.get(name)
    if given is None:
        return None
    try:
        # A plus sign that wasn't escaped arrives as a blank.
        time = datetime.fromisoformat(given.replace(" ", "+"))
        if time.tzinfo is None or not given.isascii():
            raise ValueError(given)
        time = time.astimezone(UTC)
        if time.year < 1970:
            raise ValueError(given)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name} must be a time with its zone, such as 2026-01-31T12:00:00Z"
        ) from None
    return time


def _limit() -> int:
    given = request.args.get("limit", str(LIMIT))
    if not (
        given.isascii()
        and given.isdecimal()
        and len(given) <= len(str(MOST))
        and 1 <= int(given) <= MOST
    ):
        raise InvalidRequest(f"limit must be a whole number from 1 to {MOST}")
    return int(given)
