"""Tensorlake's poll, for clients that were written for it. It stands at the root, where those
clients look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, request

from headway.core import serialize
from headway.models import Execution
from headway.server.api.executions import answer
from headway.server.auth import Action
from headway.server.streams import sse

if TYPE_CHECKING:
    from flask.typing import ResponseReturnValue

    from headway.server.extension import Headway

PATH = "/applications/<application>/requests/<request_id>/progress"
IN_NAMESPACE = "/v1/namespaces/<namespace>" + PATH


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the routes. A request is an execution; the names of application and namespace can be any:
    Celery has neither.
    """

    # No `defaults=` here: the router would redirect the long path to the short one.
    @blueprint.get(PATH)
    @blueprint.get(IN_NAMESPACE)
    def tensorlake_progress(
        application: str, request_id: str, namespace: str = "default"
    ) -> ResponseReturnValue:
        headway.checked_id(namespace, "namespace")
        headway.checked_id(application, "application")
        headway.checked_id(request_id, "request id")
        if wants_stream():
            headway.policy.authorize(request, Action.WATCH, request_id)
            stream: ResponseReturnValue = sse.stream(headway, request_id, serialize.tensorlake_json)
            return stream
        response = answer(headway, request_id, _shape)
        response.headers.add("Vary", "Accept")
        return response


def is_like(path: str) -> bool:
    """Whether a path looks like one of the two, whatever its names are: with a slash in one of
    them, nothing is there.
    """
    before, _, after = path.partition("/applications/")
    return (
        (not before or before.startswith("/v1/namespaces/"))
        and "/requests/" in after
        and after.endswith("/progress")
    )


def wants_stream() -> bool:
    """Whether the client asks for events rather than JSON; one that takes anything gets JSON."""
    offered = ["application/json", "text/event-stream"]
    return request.accept_mimetypes.best_match(offered) == "text/event-stream"


def _shape(execution: Execution) -> serialize.Json | None:
    return None if execution.progress is None else serialize.tensorlake_json(execution.progress)
