"""The OpenAPI description, and the running app checked against all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from celery import Celery
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from headway.server.api import openapi
from tests.support.flask_app import MountedApp, mounted_app

load_all_checks()

#: Not checked: that everything that fits the schema is accepted. An id of control characters fits
#: and is a 422, a task must be startable, and arguments must fit the task.
EXCLUDED = ["positive_data_acceptance", "use_after_free", "ensure_resource_availability"]

PATHS = openapi.description("/api/v1", True, False)["paths"]
OPERATIONS = [(method, path) for path, methods in PATHS.items() for method in methods]
#: Operations with input, which may be invalid.
WITH_INPUT = [
    (method, path)
    for method, path in OPERATIONS
    if {"parameters", "requestBody"} & set(PATHS[path][method])
]
CALLS = [(*each, GenerationMode.POSITIVE) for each in OPERATIONS] + [
    (*each, GenerationMode.NEGATIVE) for each in WITH_INPUT
]


@pytest.fixture
def server() -> Iterator[MountedApp]:
    """An app with an execution in every state."""
    celery = Celery("described", broker="memory://", set_as_current=False)
    celery.task(name="tasks.any", shared=False)(lambda *args, **kwargs: None)
    # Everything is allowed: otherwise every generated call would get a 403. The wait is short to
    # keep the test fast; other tests check its length.
    with mounted_app(
        celery=celery,
        startable_tasks=["tasks.any"],
        max_wait=0.01,
        root_endpoints=True,
        authorize=lambda *_: True,
    ) as made:
        for execution_id in ("queued", "running", "failed", "done"):
            made.publish(execution_id)
        for execution_id in ("running", "failed", "done"):
            made.begin(execution_id)
            made.report(execution_id, 2, 5, "processing", batch="3")
        made.end(
            "failed",
            "FAILURE",
            {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
        )
        made.end("done", result=[1, 2])
        yield made


def operation(server: MountedApp, method: str, path: str) -> Any:
    return schemathesis.openapi.from_wsgi("/api/v1/openapi.json", server.app)[path][method.upper()]


def check(case: Case) -> None:
    case.call_and_validate(excluded_checks=CHECKS.get_by_names(EXCLUDED))


@pytest.mark.parametrize(("method", "path", "mode"), CALLS)
def test_generated_calls_match_the_description(
    server: MountedApp, method: str, path: str, mode: GenerationMode
) -> None:
    """Valid and invalid generated calls: every status, type, header and body is described."""
    described = operation(server, method, path)

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described.as_strategy(generation_mode=mode))
    def check_case(case: Case) -> None:
        check(case)

    check_case()


@pytest.mark.parametrize("execution_id", ["queued", "running", "failed", "done", "unknown"])
@pytest.mark.parametrize(
    "path", [path for _, path in OPERATIONS if path.endswith(("_id}", "/progress", "/history"))]
)
def test_response_of_every_state_is_described(
    server: MountedApp, path: str, execution_id: str
) -> None:
    """In every state of an execution, the response fits the description."""
    parameters = dict.fromkeys(re.findall(r"{(\w+)}", path), execution_id)
    check(operation(server, "get", path).Case(path_parameters=parameters))


def test_every_route_is_described(server: MountedApp) -> None:
    """Every route is described, except streams (not expressible) and the browser's modules."""
    described = {re.sub(r"{\w+}", "<>", path) for _, path in OPERATIONS}
    for rule in server.app.url_map.iter_rules():
        path = re.sub(r"<\w+>", "<>", rule.rule)
        at_root = path in ("/healthz", "/readyz", "/metrics", "/openapi.json")
        other = at_root or path.endswith(("/ws", "/events")) or rule.endpoint.endswith(".module")
        if rule.endpoint.startswith("headway") and not other:
            assert path in described


def test_description_follows_root_and_prefix(server: MountedApp) -> None:
    """The description follows the app's root path and the prefix."""
    document = server.client.get("/openapi.json", base_url="http://localhost/inner").get_json()
    assert document["servers"] == [{"url": "/inner"}]
    with mounted_app(url_prefix="/other", tensorlake=False, tokens="a-token") as other:
        document = other.client.get("/other/openapi.json").get_json()
        assert all(path.startswith("/other/") for path in document["paths"])
        assert document["security"] == [{"token": []}]


def test_refused_bodies_are_described(server: MountedApp) -> None:
    """What no generator makes: a body of another type, without a length, or too large."""
    chunked = {
        "HTTP_TRANSFER_ENCODING": "chunked",
        "wsgi.input_terminated": True,
        "CONTENT_LENGTH": "",
    }
    calls: list[dict[str, Any]] = [
        {"data": "x", "content_type": "text/plain"},
        {"content_type": "application/json", "environ_overrides": chunked},
        {"data": "x" * (server.headway.settings.max_body + 1), "content_type": "application/json"},
    ]
    statuses = [server.client.post("/api/v1/executions", **call).status_code for call in calls]
    assert statuses == [415, 411, 413]
    assert {str(status) for status in statuses} <= set(
        PATHS["/api/v1/executions"]["post"]["responses"]
    )
