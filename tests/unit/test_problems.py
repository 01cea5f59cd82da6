"""Errors as answers: each error of the package has its status, everything below the prefix is a
problem document.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from headway import errors
from headway.server import problems
from tests.support.flask_app import MountedApp, mounted_app


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app() as made:
        yield made


def assert_problem(response: TestResponse, status: int, *words: str) -> dict[str, Any]:
    # A stream that shouldn't be there has no end to wait for.
    assert response.status_code == status, (
        response.status if response.is_streamed else response.get_data(as_text=True)
    )
    assert response.mimetype == "application/problem+json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    body: dict[str, Any] = response.get_json(force=True)
    assert body["status"] == status
    assert body["type"] == "about:blank"
    assert body["title"]
    for word in words:
        assert word in body["detail"]
    return body


def test_the_table_is_complete() -> None:
    """Every error that the server can raise has a status of its own in the table: all but those of
    the client.
    """
    every = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.HeadwayError)
    }
    clients = {
        errors.ExecutionFailed,
        errors.ExecutionCancelled,
        errors.NotFinished,
        errors.UnexpectedResponse,
    }
    assert set(problems.STATUS) == every - clients


def test_the_table_is_the_contracts() -> None:
    """The numbers are those of the contract, section 2."""
    wanted = {
        "NotAuthenticated": 401,
        "NotAllowed": 403,
        "ExecutionNotFound": 404,
        "ExecutionConflict": 409,
        "ExecutionExpired": 410,
        "InvalidRequest": 422,
        "TooManyRequests": 429,
        "NotSupported": 501,
        "Unavailable": 503,
    }
    assert {
        cls.__name__: int(status) for cls, status in problems.STATUS.items() if status != 500
    } == wanted


def test_a_more_special_error_keeps_its_status() -> None:
    """A subclass that the table doesn't name is answered as its parent."""

    class Special(errors.Unavailable):
        pass

    assert problems.http_status(Special()) == 503


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1"),
        ("GET", "/api/v1/"),
        ("GET", "/api/v1/nothing"),
        ("POST", "/api/v1/executions/a/b/c"),
        ("OPTIONS", "/api/v1/nothing"),
        ("GET", "/api/v1/executions/a%2Fb/progress/no"),
        ("GET", "/applications/a/requests/x%2Fy/progress"),
        ("POST", "/applications/a%2Fb/requests/x/progress"),
        ("GET", "/v1/namespaces/n%2Fm/applications/a/requests/x/progress"),
    ],
)
def test_an_unmatched_url(server: MountedApp, method: str, path: str) -> None:
    """What isn't there at all, below the prefix or where Tensorlake's clients ask, is a problem
    document too.
    """
    assert_problem(server.client.open(path, method=method), 404)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/v1/executions/x"),
        ("POST", "/api/v1/executions/x/progress"),
        ("GET", "/api/v1/tickets"),
        ("POST", "/applications/a/requests/x/progress"),
        ("DELETE", "/v1/namespaces/n/applications/a/requests/x/progress"),
        ("POST", "/healthz"),
    ],
)
def test_an_unmatched_method(method: str, path: str) -> None:
    """405 says which methods there are, below the prefix and at the root."""
    with mounted_app(root_endpoints=True) as server:
        response = server.client.open(path, method=method)
    assert_problem(response, 405)
    wanted = {"POST", "OPTIONS"} if path.endswith("tickets") else {"GET", "HEAD", "OPTIONS"}
    assert wanted <= set(response.headers["Allow"].split(", "))


def test_other_paths_are_left_alone(server: MountedApp) -> None:
    """Outside the prefix the app answers as it always did, near misses of our paths included."""
    server.app.add_url_rule("/healthz", "own", lambda: "mine")
    server.app.add_url_rule("/folder/", "folder", lambda: "mine")
    for path in (
        "/nothing",
        "/api",
        "/api/v10",
        "/api/v1x/executions",
        "/applications/a",
        "/applications/a/requests/x",
    ):
        assert server.client.get(path).mimetype == "text/html"
    for path in ("/healthz", "/folder/", "/folder"):
        assert server.client.post(path).mimetype == "text/html"


def test_the_apps_own_handlers_are_untouched() -> None:
    """An app with handlers of its own keeps them for its pages, and Headway's answers aren't
    theirs.
    """
    app = Flask("own")
    app.register_error_handler(404, lambda _: ("mine 404", 404))
    app.register_error_handler(405, lambda _: ("mine 405", 405))
    app.register_error_handler(415, lambda _: ("mine 415", 415))
    app.register_error_handler(422, lambda _: ("mine 422", 422))
    app.register_error_handler(Exception, lambda _: ("mine", 500))
    app.add_url_rule("/page", "page", lambda: {}["no"])
    with mounted_app(app) as server:
        for path, method, text in (
            ("/nothing", "GET", "mine 404"),
            ("/page", "POST", "mine 405"),
            ("/page", "GET", "mine"),
        ):
            assert server.client.open(path, method=method).get_data(as_text=True) == text
        assert_problem(server.client.get("/api/v1/nothing"), 404)
        assert_problem(server.client.post("/api/v1/executions/x"), 405)
        assert_problem(server.client.get("/api/v1/executions/x"), 404, "Execution 'x' not found")
        assert_problem(server.client.get("/api/v1/executions/" + "x" * 256), 422)
        assert_problem(server.client.post("/api/v1/executions", data="x"), 415)


def test_the_apps_own_routes_below_the_prefix_work(server: MountedApp) -> None:
    """An app may have routes of its own below the prefix."""
    server.app.add_url_rule("/api/v1/mine", "mine", lambda: "mine")
    assert server.client.get("/api/v1/mine").get_data() == b"mine"


def test_a_redirect_of_the_router_is_left_alone(server: MountedApp) -> None:
    """The router's own redirect to a trailing slash isn't taken for an error."""
    server.app.add_url_rule("/api/v1/folder/", "folder", lambda: "mine")
    assert server.client.get("/api/v1/folder").status_code == 308


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("redis://user:password@host"),
        errors.ConfigurationError("set this"),
        errors.UsageError("x"),
    ],
)
def test_a_fault_of_ours(
    server: MountedApp,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fault that nobody foresaw is told without its text, and logged with its traceback."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(server.store, "read", fail)
    with caplog.at_level(logging.ERROR, logger="headway"):
        body = assert_problem(server.client.get("/api/v1/executions/x"), 500)
    assert body["detail"] == problems.INTERNAL
    assert caplog.records[0].exc_info is not None


def test_the_backend_is_away(server: MountedApp) -> None:
    """503 says when to ask again, and nothing of the driver."""
    server.store.away = True
    for path in (
        "/api/v1/executions/x",
        "/api/v1/executions/x/progress",
        "/applications/a/requests/x/progress",
    ):
        response = server.client.get(path)
        assert_problem(response, 503)
        assert int(response.headers["Retry-After"]) >= 1
        assert b"told to be away" not in response.data


def test_errors_are_not_kept(server: MountedApp) -> None:
    """No cache may keep an error."""
    assert server.client.get("/api/v1/executions/x").headers["Cache-Control"] == "no-store"
