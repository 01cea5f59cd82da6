"""The two GETs of the Progress Query API, and the ticket."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from headway.core import serialize
from headway.errors import InvalidRequest
from headway.models import Execution
from headway.server.auth import Action

if TYPE_CHECKING:
    from headway.server.extension import Headway

#: An execution as a body; None: nothing to say yet (204).
Shape = Callable[[Execution], serialize.Json | None]


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the routes."""

    @blueprint.get("/executions/<execution_id>")
    def execution(execution_id: str) -> Response:
        return answer(headway, execution_id, serialize.execution_json)

    @blueprint.get("/executions/<execution_id>/progress")
    def progress(execution_id: str) -> Response:
        return answer(headway, execution_id, lambda found: serialize.progress_json(found.progress))

    @blueprint.post("/tickets")
    def ticket() -> Response:
        made = headway.policy.ticket(headway.policy.authorize(request, Action.TICKET))
        lifetime = headway.settings.ticket_lifetime if made is not None else None
        return uncached({"ticket": made, "expires_in": lifetime})


def answer(headway: Headway, execution_id: str, shape: Shape) -> Response:
    """One execution in some shape: now, or with ``?wait=`` when there is something newer than the
    caller has.
    """
    headway.policy.authorize(request, Action.READ, headway.checked_id(execution_id))
    wait = _wait(headway.settings.max_wait)
    if wait is None:
        return respond(headway, headway.look(execution_id), shape)

    def is_news(found: Execution) -> bool:
        # After the end nothing newer comes, whatever the caller has.
        body = shape(found)
        return found.status.terminal or (
            body is not None
            and not request.if_none_match.contains_weak(_etag(serialize.encode(body)))
        )

    return respond(headway, headway.hub.wait(execution_id, is_news, wait), shape)


def uncached(body: serialize.Json, status: int = 200) -> Response:
    """An answer to this call alone."""
    response = Response(serialize.encode(body), status=status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def respond(headway: Headway, execution: Execution, shape: Shape) -> Response:
    """An execution in some shape, for a caller who may have it already."""
    body = shape(execution)
    if body is None:
        response = Response(status=204)
        del response.headers["Content-Type"]
    else:
        encoded = serialize.encode(body)
        response = Response(encoded, mimetype="application/json")
        response.set_etag(_etag(encoded))
    response.headers["Cache-Control"] = "no-cache"
    if not execution.status.terminal:
        response.headers["Retry-After"] = str(headway.settings.retry_after)
    if body is not None:
        response.make_conditional(request)
    return response


def _etag(encoded: bytes) -> str:
    """Strong: the same tag is the same bytes, from any web process."""
    return hashlib.sha256(encoded).hexdigest()[:32]


def _wait(longest: float) -> float | None:
    given = request.args.get("wait")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InvalidRequest(f"wait must be a number of seconds from 0 to {longest:g}")
    return min(seconds, longest)
