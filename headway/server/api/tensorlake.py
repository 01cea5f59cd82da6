"""Tensorlake's progress endpoint, for clients written for it.

It is at the root, where those clients expect it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, request

from headway.core import serialize
from headway.models import Execution
from headway.server.api.executions import get_response
from headway.server.auth import Action
from headway.server.http_helpers import checked_id
from headway.server.services import Services
from headway.server.streams import sse

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

PATH = "/applications/<application>/requests/<request_id>/progress"
IN_NAMESPACE = "/v1/namespaces/<namespace>" + PATH


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the routes.

    A request is an execution. Any application and namespace is accepted: Celery has neither.
    """

    # No `defaults=` here: the router would redirect the long path to the short one.
    @blueprint.get(PATH)
    @blueprint.get(IN_NAMESPACE)
    def tensorlake_progress(
        application: str, request_id: str, namespace: str = "default"
    ) -> ResponseReturnValue:
        checked_id(namespace, "namespace")
        checked_id(application, "application")
        checked_id(request_id, "request id")
        if wants_stream():
            services.policy.authorize(request, Action.WATCH, request_id)
            stream: ResponseReturnValue = sse.stream(
                services, request_id, serialize.tensorlake_json
            )
            return stream
        response = get_response(services, request_id, _serialize)
        response.headers.add("Vary", "Accept")
        return response


def is_like(path: str) -> bool:
    """Whether a path looks like one of the two. No route matches if a name contains a slash."""
    before, _, after = path.partition("/applications/")
    return (
        (not before or before.startswith("/v1/namespaces/"))
        and "/requests/" in after
        and after.endswith("/progress")
    )


def wants_stream() -> bool:
    """Whether the client prefers events to JSON. A client that accepts anything gets JSON."""
    offered = ["application/json", "text/event-stream"]
    return request.accept_mimetypes.best_match(offered) == "text/event-stream"


def _serialize(execution: Execution) -> serialize.Json | None:
    return None if execution.progress is None else serialize.tensorlake_json(execution.progress)
