"""``GET /executions/{id}/history`` over the in-memory store and feed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headway.server.auth import Action
from tests.support.flask_app import MountedApp, mounted_app
from tests.unit.test_problems import assert_problem

HISTORY = "/api/v1/executions/x/history"


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app() as made:
        yield made


def publish_and_start(server: MountedApp) -> None:
    server.publish("x")
    server.begin("x")


def test_history_has_reports_of_all_attempts(server: MountedApp) -> None:
    """Each report with its attempt and time, oldest first, also after the end."""
    publish_and_start(server)
    server.report("x", 3, 10, "Fetching", batch="3")
    server.clock.tick(1.5)
    server.report("x", 4, 0)
    server.end("x", "FAILURE", {"exc_type": "E", "exc_message": ["no"]})
    server.begin("x")
    server.report("x", 12, 10)
    server.end("x")
    first = {
        "attempt": 1,
        "timestamp": "2026-01-02T03:04:05.000Z",
        "current": 3,
        "total": 10,
        "percentage": 30.0,
    }
    first |= {"indeterminate": False, "message": "Fetching", "attributes": {"batch": "3"}}
    second = {
        "attempt": 1,
        "timestamp": "2026-01-02T03:04:06.500Z",
        "current": 4,
        "total": 0,
        "percentage": 0.0,
    }
    second |= {"indeterminate": True, "message": None, "attributes": None}
    third = second | {
        "attempt": 2,
        "current": 12,
        "total": 10,
        "percentage": 100.0,
        "indeterminate": False,
    }
    assert server.client.get(HISTORY).json == {
        "execution_id": "x",
        "complete": True,
        "reports": [first, second, third],
    }


def test_history_of_queued_task_is_empty(server: MountedApp) -> None:
    """An empty history is complete."""
    server.publish("x")
    assert server.client.get(HISTORY).json == {"execution_id": "x", "complete": True, "reports": []}


def test_history_of_task_without_headway_is_incomplete(server: MountedApp) -> None:
    """Its progress is known, its earlier reports aren't."""
    server.store.put_result("x", {"status": "PROGRESS", "result": {"current": 3, "total": 10}})
    assert server.client.get(HISTORY).json == {
        "execution_id": "x",
        "complete": False,
        "reports": [],
    }


def test_long_history_is_thinned_out(server: MountedApp) -> None:
    """A thinned out history is marked as incomplete, and has its first and last report."""
    publish_and_start(server)
    for number in range(1500):
        server.clock.tick(1)
        server.report("x", number, 1500)
    body = server.client.get(HISTORY).json
    assert body["complete"] is False
    assert len(body["reports"]) <= 1000
    assert (body["reports"][0]["current"], body["reports"][-1]["current"]) == (0, 1499)


def test_unchanged_history_is_304(server: MountedApp) -> None:
    """The ETag changes with a report, and not with the end."""
    publish_and_start(server)
    server.report("x", 1, 5)
    cached = {"If-None-Match": server.client.get(HISTORY).headers["ETag"]}
    assert server.client.get(HISTORY, headers=cached).status_code == 304
    server.end("x")
    response = server.client.get(HISTORY, headers=cached)
    assert (response.status_code, response.headers["Cache-Control"]) == (304, "no-cache")
    assert "Retry-After" not in response.headers


def test_new_report_changes_etag(server: MountedApp) -> None:
    """While the task runs, the response says when to ask again."""
    publish_and_start(server)
    server.report("x", 1, 5)
    cached = {"If-None-Match": server.client.get(HISTORY).headers["ETag"]}
    server.report("x", 2, 5)
    response = server.client.get(HISTORY, headers=cached)
    assert response.status_code == 200
    assert "Retry-After" in response.headers


def test_history_has_problems_of_execution(server: MountedApp) -> None:
    """Unknown, malformed, expired and unavailable: as for the execution itself."""
    assert_problem(server.client.get(HISTORY), 404, "Execution 'x' not found")
    assert_problem(server.client.get(HISTORY.replace("x/h", "%0A/h")), 422, "printable")
    publish_and_start(server)
    server.report("x", 1, 5)
    server.end("x")
    server.clock.tick(86401)
    assert_problem(server.client.get(HISTORY), 410, "expired")
    server.store.away = True
    assert_problem(server.client.get(HISTORY), 503)


def test_history_requires_read_permission() -> None:
    """Authorization asks for the same action as for the execution."""
    requested: list[tuple[Action, str | None]] = []

    def authorize(identity: object, action: Action, execution_id: str | None) -> bool:
        requested.append((action, execution_id))
        return False

    with mounted_app(authorize=authorize) as server:
        publish_and_start(server)
        assert_problem(server.client.get(HISTORY), 403)
    assert requested == [(Action.READ, "x")]
