"""``GET /executions/{id}/history``, over the fakes."""

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


def begun(server: MountedApp) -> None:
    server.publish("x")
    server.begin("x")


def test_the_course_over_two_attempts(server: MountedApp) -> None:
    """Each report with its attempt and its time, oldest first, after the end as well."""
    begun(server)
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


def test_nothing_yet(server: MountedApp) -> None:
    """A queued job has a history, of nothing."""
    server.publish("x")
    assert server.client.get(HISTORY).json == {"execution_id": "x", "complete": True, "reports": []}


def test_what_was_not_kept_is_not_complete(server: MountedApp) -> None:
    """A task of a worker without Headway: its progress is known, the way to it isn't."""
    server.store.put_result("x", {"status": "PROGRESS", "result": {"current": 3, "total": 10}})
    assert server.client.get(HISTORY).json == {
        "execution_id": "x",
        "complete": False,
        "reports": [],
    }


def test_thinned_out(server: MountedApp) -> None:
    """A long course says that some are missing, and has its begin and its end."""
    begun(server)
    for number in range(1500):
        server.clock.tick(1)
        server.report("x", number, 1500)
    body = server.client.get(HISTORY).json
    assert body["complete"] is False
    assert len(body["reports"]) <= 1000
    assert (body["reports"][0]["current"], body["reports"][-1]["current"]) == (0, 1499)


def test_who_has_it_already(server: MountedApp) -> None:
    """The same history is a 304; it changes with a report, and not with the end."""
    begun(server)
    server.report("x", 1, 5)
    known = {"If-None-Match": server.client.get(HISTORY).headers["ETag"]}
    assert server.client.get(HISTORY, headers=known).status_code == 304
    server.end("x")
    answer = server.client.get(HISTORY, headers=known)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (304, "no-cache")
    assert "Retry-After" not in answer.headers


def test_a_report_is_news(server: MountedApp) -> None:
    """With one more report it is another history, and while it runs it says when to come back."""
    begun(server)
    server.report("x", 1, 5)
    known = {"If-None-Match": server.client.get(HISTORY).headers["ETag"]}
    server.report("x", 2, 5)
    answer = server.client.get(HISTORY, headers=known)
    assert answer.status_code == 200
    assert "Retry-After" in answer.headers


def test_faults(server: MountedApp) -> None:
    """Unknown, malformed, expired and away: as the execution itself."""
    assert_problem(server.client.get(HISTORY), 404, "Execution 'x' not found")
    assert_problem(server.client.get(HISTORY.replace("x/h", "%0A/h")), 422, "printable")
    begun(server)
    server.report("x", 1, 5)
    server.end("x")
    server.clock.tick(86401)
    assert_problem(server.client.get(HISTORY), 410, "expired")
    server.store.away = True
    assert_problem(server.client.get(HISTORY), 503)


def test_only_for_who_may_read_it() -> None:
    """It is asked for as the execution itself is."""
    asked: list[tuple[Action, str | None]] = []

    def authorize(who: object, action: Action, execution_id: str | None) -> bool:
        asked.append((action, execution_id))
        return False

    with mounted_app(authorize=authorize) as server:
        begun(server)
        assert_problem(server.client.get(HISTORY), 403)
    assert asked == [(Action.READ, "x")]
