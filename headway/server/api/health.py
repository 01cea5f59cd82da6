"""Is the process up, can it do its work, and what has it done: for whoever runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from headway.errors import Unavailable
from headway.server.api.executions import uncached
from headway.server.auth import Action
from headway.server.problems import problem

if TYPE_CHECKING:
    from headway.server.extension import Headway


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the routes. The two probes want no token: what asks them holds no secrets, and they tell
    nothing but yes or no.
    """

    @blueprint.get("/healthz")
    def healthz() -> Response:
        return uncached({"status": "ok"})

    @blueprint.get("/readyz")
    def readyz() -> Response:
        # Each ping is bounded by its port's own time limit: a probe that hangs is worse than one
        # that says no.
        checks = {"backend": _answers(headway.store.ping), "feed": _answers(headway.feed.ping)}
        away = [name for name, answers in checks.items() if not answers]
        if away:
            return problem(
                503,
                f"Not ready: no answer from the {' and the '.join(away)}",
                headers={"Retry-After": "2"},
                checks=checks,
            )
        return uncached({"status": "ready", "checks": checks})

    @blueprint.get("/metrics")
    def metrics() -> Response:
        headway.policy.authorize(request, Action.METRICS)
        response = Response(
            generate_latest(headway.metrics.registry), content_type=CONTENT_TYPE_LATEST
        )
        response.headers["Cache-Control"] = "no-store"
        return response


def _answers(ping: Callable[[], None]) -> bool:
    try:
        ping()
    except Unavailable:
        return False
    return True
