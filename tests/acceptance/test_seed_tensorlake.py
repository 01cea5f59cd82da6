"""The functions and the poll of the Tensorlake document, with import and address replaced."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

import headway
from tests.acceptance.apps import tensorlake
from tests.support.markdown import blocks
from tests.support.processes import Worker
from tests.support.service import Service


@pytest.fixture(scope="module")
def app(service: Service) -> Iterator[Celery]:
    """A worker with the document's functions as tasks, beside the service's."""
    url = service.valkey.url
    app = tensorlake.make_app(url)
    with Worker("tests.acceptance.apps.tensorlake", env={"TENSORLAKE_URL": url}) as worker:
        worker.keep()
        yield app
    app.close()


#: Task, arguments, what it returns, and its last progress.
CASES: list[tuple[str, list[Any], Any, dict[str, Any]]] = [
    (
        "my_function",
        ["x"],
        "done",
        {"current": 1, "total": 10, "message": "Starting processing...", "attributes": None},
    ),
    (
        "process_items",
        [["a", "b", "c"]],
        {"processed": 3},
        {"current": 3, "total": 3, "message": None, "attributes": None},
    ),
    (
        "multi_step_workflow",
        [],
        "complete",
        {"current": 3, "total": 3, "message": "Storing results...", "attributes": None},
    ),
    (
        "batch_processor",
        [["a", "bad", "c", "d"]],
        {"total": 4, "errors": 1},
        {
            "current": 4,
            "total": 4,
            "message": "Processing item 4",
            "attributes": {"error_count": "1", "success_rate": "75.0%"},
        },
    ),
    (
        "long_operation",
        [],
        "done",
        {"current": 100, "total": 100, "message": "Finished!", "attributes": None},
    ),
]


def poll(service: Service, application: str, request_id: str) -> dict[str, Any]:
    """The document's curl command, with our address."""
    (block,) = [block for block in blocks(tensorlake.PAGE) if block.language == "bash"]
    command = block.code.replace("https://api.tensorlake.ai", service.url)
    command = command.replace("{application}", application).replace("{request_id}", request_id)
    command = command.replace("curl ", "curl --silent --show-error --fail ")
    printed = subprocess.run(
        ["bash", "-ec", command], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    response: dict[str, Any] = json.loads(printed)
    return response


@pytest.mark.parametrize(
    ("task", "args", "returned", "last"), CASES, ids=[case[0] for case in CASES]
)
def test_function_runs_as_a_task(
    service: Service,
    app: Celery,
    *,
    task: str,
    args: list[Any],
    returned: Any,
    last: dict[str, Any],
) -> None:
    """Each function runs as a Celery task; the document's poll shows its last update."""
    result = app.send_task(task, args)
    assert result.get(timeout=60) == returned
    response = poll(service, "anything", result.id)
    timestamp = response.pop("timestamp")
    assert isinstance(timestamp, int)
    assert response == last


def test_every_function_is_run() -> None:
    """Every function of the document has a case."""
    defined = re.findall(r"^def (\w+)\(", "\n".join(tensorlake.sources()), re.MULTILINE)
    assert sorted(defined) == sorted(case[0] for case in CASES)


def test_response_has_the_documents_fields(service: Service, app: Celery) -> None:
    """The poll has exactly the fields of the document's example, of the same JSON type."""
    example = next(
        json.loads(block.code) for block in blocks(tensorlake.PAGE) if block.language == "json"
    )
    result = app.send_task("batch_processor", [["a"]])
    result.get(timeout=60)
    response = poll(service, "anything", result.id)
    assert {key: type(value) for key, value in response.items()} == {
        key: type(value) for key, value in example.items()
    }
    # Both are milliseconds since the epoch.
    assert abs(response["timestamp"] - example["timestamp"]) < 1e12


def test_update_has_the_documents_parameters() -> None:
    """`progress.update` has the document's parameters: order, names and defaults."""
    (text,) = [
        block.code
        for block in blocks(tensorlake.PAGE)
        if block.code.startswith("ctx.progress.update(\n    current:")
    ]
    documented: dict[str, Any] = {}
    exec(text.replace("ctx.progress.update(", "def update(").rstrip() + ": ...", documented)
    app = Celery("signature", set_as_current=False)
    headway.install(app)

    @app.task
    def get_update() -> Any:
        return headway.RequestContext.get().progress.update

    assert _parameters(get_update()) == _parameters(documented["update"])


def _parameters(function: Any) -> list[tuple[str, Any]]:
    return [
        (parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
    ]
