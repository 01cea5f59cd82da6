"""Endpoints for operators: liveness, readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from headway.errors import Unavailable
from headway.server.auth import Action
from headway.server.http_helpers import uncached
from headway.server.problems import problem
from headway.server.services import Services


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the routes.

    The two probes need no token: probes hold no secrets, and the response is only yes or no.
    """

    @blueprint.get("/healthz")
    def healthz() -> Response:
        return uncached({"status": "ok"})

    @blueprint.get("/readyz")
    def readyz() -> Response:
        # Each ping has the time limit of its store or feed: a hanging probe is worse than a 503.
        checks = {
            "backend": _is_reachable(services.store.ping),
            "feed": _is_reachable(services.feed.ping),
        }
        away = [name for name, reachable in checks.items() if not reachable]
        if away:
            return problem(
                503,
                f"Not ready: no response from the {' and the '.join(away)}",
                headers={"Retry-After": "2"},
                checks=checks,
            )
        return uncached({"status": "ready", "checks": checks})

    @blueprint.get("/metrics")
    def metrics() -> Response:
        services.policy.authorize(request, Action.METRICS)
        response = Response(
            generate_latest(services.metrics.registry), content_type=CONTENT_TYPE_LATEST
        )
        response.headers["Cache-Control"] = "no-store"
        return response


def _is_reachable(ping: Callable[[], None]) -> bool:
    try:
        ping()
    except Unavailable:
        return False
    return True
