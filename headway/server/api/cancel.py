"""Asking for an end over HTTP: ``POST /executions/{id}/cancel``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from headway.cancellation import request_cancel
from headway.core import serialize
from headway.errors import InvalidRequest
from headway.server.api.executions import uncached
from headway.server.auth import Action
from headway.server.http_helpers import read_body

if TYPE_CHECKING:
    from headway.server.extension import Headway


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route."""

    @blueprint.post("/executions/<execution_id>/cancel")
    def cancel(execution_id: str) -> Response:
        headway.policy.authorize(request, Action.CANCEL, headway.checked_id(execution_id))
        terminate = read_terminate(headway.settings.max_body)
        execution = request_cancel(
            headway.celery,
            headway.store,
            execution_id,
            terminate=terminate,
            timeout=headway.settings.broker_timeout,
            at=headway.clock(),
        )
        response = uncached(serialize.execution_json(execution), 202)
        if not execution.status.terminal:
            response.headers["Retry-After"] = str(headway.settings.retry_after)
        return response


def read_terminate(max_body: int) -> bool:
    """The body: nothing, or ``{"terminate": true}``."""
    if not request.content_length and "Transfer-Encoding" not in request.headers:
        return False
    body = read_body(max_body)
    if unknown := sorted(set(body) - {"terminate"}):
        raise InvalidRequest(
            f"The body may hold terminate, and not {', '.join(map(repr, unknown))[:200]}"
        )
    terminate = body.get("terminate", False)
    if not isinstance(terminate, bool):
        raise InvalidRequest("'terminate' must be true or false")
    return terminate
