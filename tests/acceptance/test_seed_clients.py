"""The clients of the Progress Query API document, run with address and execution id replaced."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from celery import Celery
from playwright.sync_api import Browser

from tests.acceptance.apps import puppet
from tests.support.markdown import blocks
from tests.support.processes import ROOT, Process, Worker
from tests.support.service import Service
from tests.support.wait import until

PAGE = ROOT / "tests" / "data" / "seeds" / "progress-query-api.md"

#: The id in the document's examples.
SAMPLE_ID = "exec_123456"

#: Imported by the document's first snippets, and needed by the later ones.
IMPORTS = """
import json
import requests
from websocket import create_connection
"""

#: Put before the snippet with the bar, which prints nothing while it runs: prints each message's
#: type.
PRINT_MESSAGES = """
import websocket
class PrintingSocket(websocket.WebSocket):
    def recv(self):
        message = super().recv()
        print("got", json.loads(message)["type"], flush=True)
        return message
def create_connection(url):
    return websocket.create_connection(url, class_=PrintingSocket)
"""


@dataclass
class PuppetRun:
    """One running puppet, and the test's commands for it."""

    service: Service
    app: Celery
    id: str

    def send(self, *commands: str) -> None:
        """Send the puppet commands."""
        self.service.valkey.command("RPUSH", f"puppet:{self.id}", *commands)

    def start(self) -> PuppetRun:
        """Take the first step, and wait until REST shows it."""
        self.send("step")
        until(
            lambda: (self.state().get("progress") or {}).get("current_step") == 1,
            what="the first step to be shown",
        )
        return self

    def state(self) -> dict[str, Any]:
        """What REST returns for it."""
        return self.service.execution(self.id)

    def cancel(self) -> None:
        """Revoke it with Celery."""
        self.app.control.revoke(self.id, terminate=True)


@pytest.fixture(scope="module")
def puppets(service: Service) -> Iterator[Callable[[], PuppetRun]]:
    """Starts puppets on their own worker, beside the service's."""
    url = service.valkey.url
    app = puppet.make_app(url)
    with Worker("tests.acceptance.apps.puppet", env={"PUPPET_URL": url}, concurrency=3) as worker:
        worker.keep()
        yield lambda: PuppetRun(service, app, app.send_task("puppet.play", queue="puppet").id)
    app.close()


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Runs a snippet in its own process, with the service's address."""

    def start(code: str, **names: str) -> Process:
        file = tmp_path / f"{uuid.uuid4().hex}.py"
        file.write_text(IMPORTS + with_address(code, service))
        return stack.enter_context(_snippet(file, names))

    with ExitStack() as stack:
        yield start


def _snippet(file: Path, names: dict[str, str]) -> AbstractContextManager[Process]:
    return Process(
        [sys.executable, "-m", "tests.support.snippet", str(file), json.dumps(names)],
        name="snippet",
    )


def with_address(code: str, service: Service) -> str:
    """Replace the document's address: ``localhost:8000``, or a path without a host."""
    return code.replace("localhost:8000", urlsplit(service.url).netloc).replace(
        'f"/api/v1', f'f"{service.url}/api/v1'
    )


def snippet(heading: str, language: str) -> str:
    """The code block below a heading of the document."""
    (found,) = [
        block.code
        for block in blocks(PAGE)
        if (block.heading, block.language) == (heading, language)
    ]
    return found


def step_until(
    puppet_run: PuppetRun, done: Callable[[], object], client: Process | None = None
) -> None:
    """Make steps until the client has shown something: it may connect at any time."""

    def step() -> object:
        assert client is None or client.alive, client.log()
        if not done() and not puppet_run.service.valkey.command("LLEN", f"puppet:{puppet_run.id}"):
            puppet_run.send("step")
        return done()

    until(step, within=60, what="the client to show progress")


def test_rest_polling_client_shows_percentages(
    puppets: Callable[[], PuppetRun], run: Callable[..., Process]
) -> None:
    """The polling client prints percentages, and ends with the execution."""
    puppet_run = puppets().start()
    client = run(snippet("Python - REST Polling", "python").replace(SAMPLE_ID, puppet_run.id))
    client.wait_log(r"^Progress: 2\.5%$")
    puppet_run.send("end")
    assert client.wait() == 0


@pytest.mark.parametrize(
    ("command", "end"), [("end", "completed"), ("fail", "failed"), ("cancel", "cancelled")]
)
def test_websocket_client_shows_progress_and_end(
    puppets: Callable[[], PuppetRun], run: Callable[..., Process], command: str, end: str
) -> None:
    """websocket-client receives the progress and the end, whichever it is."""
    puppet_run = puppets().start()
    client = run(snippet("Python - WebSocket", "python"), execution_id=puppet_run.id)
    step_until(puppet_run, lambda: "Progress: " in client.log(), client)
    puppet_run.cancel() if command == "cancel" else puppet_run.send(command)
    assert client.wait() == 0
    assert client.log().splitlines()[-1] == f"Done: {end}"


def test_rich_progress_bar_follows_the_execution(
    puppets: Callable[[], PuppetRun], run: Callable[..., Process]
) -> None:
    """The rich bar moves with the execution and ends with it."""
    puppet_run = puppets().start()
    code = (
        PRINT_MESSAGES
        + snippet("Progress Bar", "python")
        + "print('completed:', progress.tasks[0].completed)\n"
    )
    client = run(code, exec_id=puppet_run.id)
    client.wait_log("got status")
    puppet_run.send("step")
    client.wait_log("got progress")
    puppet_run.send("end")
    assert client.wait() == 0
    assert "Executing..." in client.log()
    assert "completed: 5.0" in client.log()


def test_three_executions_are_followed_at_once(
    puppets: Callable[[], PuppetRun], run: Callable[..., Process]
) -> None:
    """websockets with gather follows three executions, each to its own end."""
    puppet_runs = [puppets().start() for _ in range(3)]
    code = snippet("Monitor Multiple", "python")
    for number, puppet_run in enumerate(puppet_runs, 1):
        code = code.replace(f"exec_{number}", puppet_run.id)
    client = run(code)
    for puppet_run in puppet_runs:
        client.wait_log(rf"^\[{puppet_run.id}\] status$")
        step_until(
            puppet_run,
            lambda puppet_run=puppet_run: f"[{puppet_run.id}] progress" in client.log(),
            client,
        )
    puppet_runs[0].send("end")
    puppet_runs[1].send("fail")
    puppet_runs[2].cancel()
    assert client.wait() == 0
    for puppet_run, end in zip(puppet_runs, ("completed", "failed", "cancelled"), strict=True):
        lines = [line for line in client.log().splitlines() if puppet_run.id in line]
        assert lines[0] == f"[{puppet_run.id}] status"
        assert lines[-1] == f"[{puppet_run.id}] {end}"
        assert set(lines[1:-1]) == {f"[{puppet_run.id}] progress"}


def test_error_handling_distinguishes_the_cases(
    service: Service, puppets: Callable[[], PuppetRun], run: Callable[..., Process]
) -> None:
    """The function distinguishes progress, no report, an unknown id, and a network error."""
    puppet_run = puppets()
    code = snippet("Error Handling", "python")
    code_for_pending = """
    print("none yet:", get_progress_safe(exec_id))
    """
    assert _output(run(code + _lines(code_for_pending), exec_id=puppet_run.id)) == [
        "none yet: None"
    ]
    puppet_run.start()
    code_for_running = """
    print("progress:", get_progress_safe(exec_id)["percentage"])
    try:
        get_progress_safe("unknown")
    except ValueError as exc:
        print("error:", exc)
    """
    assert _output(run(code + _lines(code_for_running), exec_id=puppet_run.id)) == [
        "progress: 2.5",
        "error: Execution not found",
    ]
    # No server listens on the discard port.
    elsewhere = code.replace('f"/api', 'f"http://127.0.0.1:9/api')
    printed = _output(run(elsewhere + "print(get_progress_safe('x'))\n"))
    assert printed[0].startswith("Network error: ")
    assert printed[-1] == "None"
    puppet_run.send("end")


def test_curl_commands_print_json(service: Service, puppets: Callable[[], PuppetRun]) -> None:
    """The two curl commands print progress and status as JSON."""
    puppet_run = puppets().start()
    commands = with_address(snippet("cURL - REST", "bash"), service).replace(
        SAMPLE_ID, puppet_run.id
    )
    printed = subprocess.run(
        ["bash", "-ec", commands], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    decoder = json.JSONDecoder()
    progress, end = decoder.raw_decode(printed)
    execution, _ = decoder.raw_decode(printed[end:].lstrip())
    assert (progress["current_step"], progress["total_steps"], progress["current_step_name"]) == (
        1,
        puppet.TOTAL,
        "step 1",
    )
    assert (execution["execution_id"], execution["status"]) == (puppet_run.id, "running")
    assert execution["progress"] == progress
    puppet_run.send("end")


def test_responses_have_the_documents_fields(
    service: Service, puppets: Callable[[], PuppetRun]
) -> None:
    """Both GETs have every field of the examples, of the same JSON type; 204 has no body."""
    puppet_run = puppets()
    no_report = requests.get(
        f"{service.url}/api/v1/executions/{puppet_run.id}/progress", timeout=60
    )
    assert (no_report.status_code, no_report.content) == (204, b"")
    puppet_run.start()
    for heading, path in (
        ("Get Execution Status (with Progress)", f"/api/v1/executions/{puppet_run.id}"),
        ("Get Progress Only", f"/api/v1/executions/{puppet_run.id}/progress"),
    ):
        example = json.loads(snippet(heading, "json"))
        response = requests.get(service.url + path, timeout=60).json()
        assert _types(response, example) == _types(example, example), heading
    puppet_run.send("end")


@pytest.mark.parametrize(("command", "shown"), [("end", "success"), ("fail", "error")])
def test_javascript_client_shows_progress_and_outcome(
    service: Service, puppets: Callable[[], PuppetRun], browser: Browser, command: str, shown: str
) -> None:
    """In a browser, the client moves its bar, then shows the outputs or the error."""
    puppet_run = puppets().start()
    code = with_address(snippet("JavaScript - WebSocket", "javascript"), service)
    wrapper = f"""(executionId) => {{
        window.seen = {{bar: [], success: null, error: null}};
        const updateProgressBar = value => window.seen.bar.push(value);
        const showSuccess = value => window.seen.success = value;
        const showError = value => window.seen.error = value;
        {code}
    }}"""
    page = browser.new_page()
    page.goto(service.url)  # a page of the same origin: a foreign one is refused
    page.evaluate(wrapper, puppet_run.id)
    step_until(puppet_run, lambda: page.evaluate("window.seen.bar.length"))
    puppet_run.send(command)
    end = until(lambda: page.evaluate(f"window.seen.{shown}"), what=f"the page to receive {shown}")
    bar = page.evaluate("window.seen.bar")
    page.close()
    assert bar == sorted(bar)
    if command == "end":
        assert end == {"steps": puppet_run.state()["progress"]["current_step"]}
    else:
        assert (end["type"], end["message"]) == ("ValueError", "the disk is full")


def test_every_snippet_is_run() -> None:
    """A new code block of the document needs a test."""
    code = {
        (block.heading, block.language)
        for block in blocks(PAGE)
        if block.language in {"python", "javascript", "bash"}
    }
    notation = {
        ("Get Execution Status (with Progress)", "bash"),
        ("Get Progress Only", "bash"),
        ("Connect", "bash"),
    }
    run = {
        ("Python - REST Polling", "python"),
        ("Python - WebSocket", "python"),
        ("JavaScript - WebSocket", "javascript"),
        ("cURL - REST", "bash"),
        ("Progress Bar", "python"),
        ("Monitor Multiple", "python"),
        ("Error Handling", "python"),
    }
    assert code - notation == run


def _output(process: Process) -> list[str]:
    assert process.wait() == 0, process.log()
    return process.log().splitlines()


def _lines(text: str) -> str:
    return "\n" + "\n".join(line[4:] for line in text.splitlines())


def _types(response: Any, example: Any) -> Any:
    """The example's structure, with the types that the response has."""
    if isinstance(example, dict):
        return {key: _types(response[key], value) for key, value in example.items()}
    return type(response).__name__
