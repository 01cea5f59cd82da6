"""Errors as responses: each error has its status, and everything below the prefix is a problem."""

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
    # An unexpected stream would never end: do not read it.
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


def test_every_server_error_has_a_status() -> None:
    """Every error that the server can raise is in the table; those of the client are not."""
    every = {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.HeadwayError)
    }
    client_errors = {
        errors.ExecutionFailed,
        errors.ExecutionCancelled,
        errors.NotFinished,
        errors.UnexpectedResponse,
    }
    assert set(problems.STATUS) == every - client_errors


def test_statuses_are_those_of_the_contract() -> None:
    """The statuses are those of section 2 of the contract."""
    expected = {
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
    } == expected


def test_subclass_keeps_the_status_of_its_parent() -> None:
    """A subclass that is not in the table has its parent's status."""

    class MoreSpecific(errors.Unavailable):
        pass

    assert problems.http_status(MoreSpecific()) == 503


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
def test_unmatched_url_is_a_404_problem(server: MountedApp, method: str, path: str) -> None:
    """An unknown URL below the prefix, or like Tensorlake's, is a problem document."""
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
def test_unmatched_method_is_a_405_problem(method: str, path: str) -> None:
    """405 lists the allowed methods, below the prefix and at the root."""
    with mounted_app(root_endpoints=True) as server:
        response = server.client.open(path, method=method)
    assert_problem(response, 405)
    expected = {"POST", "OPTIONS"} if path.endswith("tickets") else {"GET", "HEAD", "OPTIONS"}
    assert expected <= set(response.headers["Allow"].split(", "))


def test_other_paths_keep_the_apps_responses(server: MountedApp) -> None:
    """Outside the prefix the app responds as before, even for paths that resemble ours."""
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


def test_error_handlers_of_the_app_stay_its_own() -> None:
    """The app's error handlers apply to its pages, and not to Headway's responses."""
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


def test_own_route_of_the_app_below_the_prefix_works(server: MountedApp) -> None:
    """An app may have its own routes below the prefix."""
    server.app.add_url_rule("/api/v1/mine", "mine", lambda: "mine")
    assert server.client.get("/api/v1/mine").get_data() == b"mine"


def test_router_redirect_is_not_an_error(server: MountedApp) -> None:
    """The router's redirect to a trailing slash is not treated as an error."""
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
def test_unexpected_error_is_500_without_its_text(
    server: MountedApp,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An unexpected error is a 500 without its text; its traceback is logged."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(server.store, "read", fail)
    with caplog.at_level(logging.ERROR, logger="headway"):
        body = assert_problem(server.client.get("/api/v1/executions/x"), 500)
    assert body["detail"] == problems.INTERNAL
    assert caplog.records[0].exc_info is not None


def test_backend_outage_is_503_with_retry_after(server: MountedApp) -> None:
    """503 with Retry-After, and without the driver's message."""
    server.store.away = True
    for path in (
        "/api/v1/executions/x",
        "/api/v1/executions/x/progress",
        "/applications/a/requests/x/progress",
    ):
        response = server.client.get(path)
        assert_problem(response, 503)
        assert int(response.headers["Retry-After"]) >= 1
        assert b"set to be unavailable" not in response.data


def test_errors_are_not_cacheable(server: MountedApp) -> None:
    """No cache may store an error."""
    assert server.client.get("/api/v1/executions/x").headers["Cache-Control"] == "no-store"
