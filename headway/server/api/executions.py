"""One execution over HTTP: its state, its progress, its history, its cancellation; and tickets."""

from __future__ import annotations

import math
from collections.abc import Callable

from flask import Blueprint, Response, request

from headway.cancellation import request_cancel
from headway.core import serialize
from headway.errors import InvalidRequest
from headway.models import Execution
from headway.server.auth import Action
from headway.server.http_helpers import checked_id, client_has, conditional, read_body, uncached
from headway.server.services import Services

#: An execution as a response body; None if there is nothing to show yet (204).
ExecutionSerializer = Callable[[Execution], serialize.Json | None]


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the routes."""

    @blueprint.get("/executions/<execution_id>")
    def execution(execution_id: str) -> Response:
        return get_response(services, execution_id, serialize.execution_json)

    @blueprint.get("/executions/<execution_id>/progress")
    def progress(execution_id: str) -> Response:
        return get_response(
            services, execution_id, lambda found: serialize.progress_json(found.progress)
        )

    @blueprint.get("/executions/<execution_id>/history")
    def history(execution_id: str) -> Response:
        services.policy.authorize(request, Action.READ, checked_id(execution_id))
        found = services.get_execution(execution_id)
        kept = services.store.history(execution_id)
        return _response(services, found, lambda execution: serialize.history_json(execution, kept))

    @blueprint.post("/executions/<execution_id>/cancel")
    def cancel(execution_id: str) -> Response:
        services.policy.authorize(request, Action.CANCEL, checked_id(execution_id))
        terminate = _read_terminate(services.settings.max_body)
        execution = request_cancel(
            services.celery,
            services.store,
            execution_id,
            terminate=terminate,
            timeout=services.settings.broker_timeout,
            at=services.clock(),
        )
        response = uncached(serialize.execution_json(execution), 202)
        if not execution.status.terminal:
            response.headers["Retry-After"] = str(services.settings.retry_after)
        return response

    @blueprint.post("/tickets")
    def ticket() -> Response:
        made = services.policy.ticket(services.policy.authorize(request, Action.TICKET))
        lifetime = services.settings.ticket_lifetime if made is not None else None
        return uncached({"ticket": made, "expires_in": lifetime})


def get_response(
    services: Services, execution_id: str, serializer: ExecutionSerializer
) -> Response:
    """Respond with one execution: at once, or with ``?wait=`` when it differs from what the client
    has.
    """
    services.policy.authorize(request, Action.READ, checked_id(execution_id))
    wait = _wait(services.settings.max_wait)
    if wait is None:
        return _response(services, services.get_execution(execution_id), serializer)

    def accept(found: Execution) -> bool:
        # A terminal state is never followed by anything newer: do not hold the poll.
        body = serializer(found)
        return found.status.terminal or (body is not None and not client_has(body))

    return _response(services, services.hub.wait(execution_id, accept, wait), serializer)


def _response(
    services: Services, execution: Execution, serializer: ExecutionSerializer
) -> Response:
    response = conditional(serializer(execution))
    if not execution.status.terminal:
        response.headers["Retry-After"] = str(services.settings.retry_after)
    return response


def _wait(longest: float) -> float | None:
    """Seconds of ``?wait=``, limited to ``longest``; None without the parameter."""
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


def _read_terminate(max_body: int) -> bool:
    """The body of a cancel: empty, or ``{"terminate": true}``."""
    if not request.content_length and "Transfer-Encoding" not in request.headers:
        return False
    body = read_body(max_body)
    if unknown := sorted(set(body) - {"terminate"}):
        raise InvalidRequest(
            f"The body may contain terminate only, not {', '.join(map(repr, unknown))[:200]}"
        )
    terminate = body.get("terminate", False)
    if not isinstance(terminate, bool):
        raise InvalidRequest("'terminate' must be true or false")
    return terminate
