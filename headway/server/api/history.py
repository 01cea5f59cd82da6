"""``GET /executions/{id}/history``: the reports of an execution, for a plot and for whoever comes
late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from headway.core import serialize
from headway.server.api.executions import respond
from headway.server.auth import Action

if TYPE_CHECKING:
    from headway.server.extension import Headway


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route."""

    @blueprint.get("/executions/<execution_id>/history")
    def history(execution_id: str) -> Response:
        headway.policy.authorize(request, Action.READ, headway.checked_id(execution_id))
        found = headway.look(execution_id)
        kept = headway.store.history(execution_id)
        return respond(headway, found, lambda execution: serialize.history_json(execution, kept))
