"""``GET /executions``: all executions, newest first, in pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

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
from headway.server.auth import Action
from headway.server.http_helpers import uncached
from headway.server.services import Services
from headway.stores.pagination import (
    Position,
    make_cursor,
    parse_cursor,
    position_of,
    start_position,
)

#: Executions per page.
DEFAULT_LIMIT, MAX_LIMIT = 50, 200
#: Pages of the store that are read, at most, to find executions that the caller may read.
MAX_PAGES = 5
#: Characters of a task's name, an owner or a search text, at most.
MAX_TEXT = 255

FILTERS = ("status", "phase", "task", "owner", "q", "since", "until", "limit", "cursor", "counts")

EnumT = TypeVar("EnumT", bound=StrEnum)


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the route."""

    @blueprint.get("/executions")
    def executions() -> Response:
        services.policy.authorize(request, Action.LIST)
        query, wants_counts = read_query(), _flag("counts")
        shown, cursor = _permitted(services, query)
        body: serialize.Json = {
            "executions": [listing_json(each) for each in shown],
            "cursor": cursor,
        }
        return uncached(body | ({"counts": _counts(services)} if wants_counts else {}))


def listing_json(execution: Execution) -> serialize.Json:
    """One line of a listing: the execution without its outputs, which may have any size."""
    line = serialize.execution_json(execution)
    del line["outputs"]
    return line


def read_query() -> Query:
    """Read the query parameters.

    Raises ``InvalidRequest``, which names the parameter and its valid values.
    """
    if unknown := sorted(set(request.args) - {*FILTERS, "ticket"}):
        raise InvalidRequest(
            f"Unknown filter {unknown[0][:100]!r}; the filters are {', '.join(FILTERS)}"
        )
    return Query(
        status=_enum("status", Status),
        phase=_enum("phase", Phase),
        task=_text("task"),
        owner=_text("owner"),
        text=_text("q"),
        since=_time("since"),
        until=_time("until"),
        limit=_limit(),
        cursor=request.args.get("cursor"),
    )


def _permitted(services: Services, query: Query) -> tuple[list[Execution], str | None]:
    """A page of what the caller may read, and the cursor of the next page.

    The store's own cursor contains the id of the last execution it read, which the caller may not
    be allowed to know. So the cursor names the last execution that is shown. If there is none, more
    pages are read, up to `PAGES`, and the cursor names a time only: it stands behind all newer
    executions, so that the next page neither repeats nor skips those of that time.
    """
    start, now, walk, pages = start_position(query), services.clock(), query, 0
    while True:
        page = services.store.query(walk)
        pages += 1
        seen = [
            (each, found)
            for each, found in _resolved(page.snapshots, now)
            if _may_see(services, found.execution_id)
        ]
        shown = [found for _, found in seen]
        end = parse_cursor(page.cursor) if page.cursor is not None else None
        if len(shown) <= query.limit and (end is None or _may_see(services, end.task_id)):
            return shown, page.cursor
        if named := [
            position_of(each.record) for each, _ in seen[: query.limit] if each.record is not None
        ]:
            return shown[: query.limit], make_cursor(named[-1])
        if end is None:
            return shown, None
        # Move to the end of that time at least: otherwise the next page would start here again.
        before = Position(end.at + 1, "")
        if (shown or pages >= MAX_PAGES) and (start is None or before < start):
            return shown[: query.limit], make_cursor(before)
        walk = replace(query, cursor=page.cursor, limit=MAX_LIMIT)


def _counts(services: Services) -> serialize.Json | None:
    """The number of executions per status; None for a caller who may not see all of them.

    Checking each execution would cost more than any page.
    """
    try:
        services.policy.authorize(request, Action.COUNT)
    except (NotAllowed, NotAuthenticated):
        return None
    found = services.store.counts()
    return {status.value: found[status] for status in Status}


def _may_see(services: Services, execution_id: str) -> bool:
    try:
        services.policy.authorize(request, Action.READ, execution_id)
    except (NotAllowed, NotAuthenticated):
        return False
    return True


def _resolved(snapshots: Iterable[Snapshot], now: datetime) -> Iterable[tuple[Snapshot, Execution]]:
    for snapshot in snapshots:
        try:
            yield snapshot, resolve(snapshot, now)
        except (ExecutionNotFound, ExecutionExpired):
            continue  # it expired while the page was built


def _enum(name: str, kind: type[EnumT]) -> frozenset[EnumT]:
    """``?status=running,failed``, or the parameter several times."""
    try:
        return frozenset(
            kind(word) for given in request.args.getlist(name) for word in given.split(",")
        )
    except ValueError:
        raise InvalidRequest(
            f"{name} must be one or more of {', '.join(kind)}, separated by commas"
        ) from None


def _text(name: str) -> str | None:
    given = request.args.get(name)
    if given is not None and (not 0 < len(given) <= MAX_TEXT or not given.isprintable()):
        raise InvalidRequest(f"{name} must be 1 to {MAX_TEXT} printable characters")
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
        # An unescaped plus sign arrives as a space.
        time = datetime.fromisoformat(given.replace(" ", "+"))
        if time.tzinfo is None or not given.isascii():
            raise ValueError(given)
        time = time.astimezone(UTC)
        if time.year < 1970:
            raise ValueError(given)
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"{name} must be a time with a time zone, such as 2026-01-31T12:00:00Z"
        ) from None
    return time


def _limit() -> int:
    given = request.args.get("limit", str(DEFAULT_LIMIT))
    if not (
        given.isascii()
        and given.isdecimal()
        and len(given) <= len(str(MAX_LIMIT))
        and 1 <= int(given) <= MAX_LIMIT
    ):
        raise InvalidRequest(f"limit must be a whole number from 1 to {MAX_LIMIT}")
    return int(given)
