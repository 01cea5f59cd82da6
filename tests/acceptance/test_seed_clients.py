"""The clients of the Progress Query API document, their text taken from the page, unchanged but for
address and execution id.
"""

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

#: One execution is started twice at most: the document writes its example ids like this.
SAMPLE_ID = "exec_123456"

#: What the document's first snippets imported, and its later ones take for granted.
IMPORTED = """
import json
import requests
from websocket import create_connection
"""

#: What stands before the snippet with the bar, which shows nothing of its own while it runs: every
#: message is named as it comes.
TOLD = """
import websocket
class Told(websocket.WebSocket):
    def recv(self):
        message = super().recv()
        print("got", json.loads(message)["type"], flush=True)
        return message
def create_connection(url):
    return websocket.create_connection(url, class_=Told)
"""


@dataclass
class Play:
    """One running job and its strings."""

    service: Service
    app: Celery
    id: str

    def say(self, *words: str) -> None:
        """Tell the job what to do next."""
        self.service.valkey.command("RPUSH", f"puppet:{self.id}", *words)

    def running(self) -> Play:
        """Take the first step and wait until it is seen from outside."""
        self.say("step")
        until(
            lambda: (self.seen().get("progress") or {}).get("current_step") == 1,
            what="the first step to be seen",
        )
        return self

    def seen(self) -> dict[str, Any]:
        """What REST says of it."""
        return self.service.execution(self.id)

    def cancel(self) -> None:
        """End it as Celery does."""
        self.app.control.revoke(self.id, terminate=True)


@pytest.fixture(scope="module")
def puppets(service: Service) -> Iterator[Callable[[], Play]]:
    """Starts jobs that do what the test says, on a worker of their own beside the service's."""
    url = service.valkey.url
    app = puppet.make_app(url)
    with Worker("tests.acceptance.apps.puppet", env={"PUPPET_URL": url}, concurrency=3) as worker:
        worker.keep()
        yield lambda: Play(service, app, app.send_task("puppet.play", queue="puppet").id)
    app.close()


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Runs a snippet in a process of its own, with the service's address in place of the
    document's.
    """

    def start(code: str, **names: str) -> Process:
        file = tmp_path / f"{uuid.uuid4().hex}.py"
        file.write_text(IMPORTED + addressed(code, service))
        return stack.enter_context(_snippet(file, names))

    with ExitStack() as stack:
        yield start


def _snippet(file: Path, names: dict[str, str]) -> AbstractContextManager[Process]:
    return Process(
        [sys.executable, "-m", "tests.support.snippet", str(file), json.dumps(names)],
        name="snippet",
    )


def addressed(code: str, service: Service) -> str:
    """The document's address replaced: ``localhost:8000`` where it has one, a path alone where it
    has none.
    """
    return code.replace("localhost:8000", urlsplit(service.url).netloc).replace(
        'f"/api/v1', f'f"{service.url}/api/v1'
    )


def snippet(heading: str, language: str) -> str:
    """The block below a heading of the page."""
    (found,) = [
        block.code
        for block in blocks(PAGE)
        if (block.heading, block.language) == (heading, language)
    ]
    return found


def step_until(play: Play, done: Callable[[], object], client: Process | None = None) -> None:
    """One step after the other until the client has shown something: it may connect at any time in
    between.
    """

    def step() -> object:
        assert client is None or client.alive, client.log()
        if not done() and not play.service.valkey.command("LLEN", f"puppet:{play.id}"):
            play.say("step")
        return done()

    until(step, within=60, what="the client to show progress")


def test_rest_polling(puppets: Callable[[], Play], run: Callable[..., Process]) -> None:
    """The polling client prints percentages while it runs, and ends when the execution does."""
    play = puppets().running()
    client = run(snippet("Python - REST Polling", "python").replace(SAMPLE_ID, play.id))
    client.wait_log(r"^Progress: 2\.5%$")
    play.say("end")
    assert client.wait() == 0


@pytest.mark.parametrize(
    ("word", "end"), [("end", "completed"), ("fail", "failed"), ("cancel", "cancelled")]
)
def test_websocket_client(
    puppets: Callable[[], Play], run: Callable[..., Process], word: str, end: str
) -> None:
    """websocket-client is told of progress as it comes, then of the end, whichever it is."""
    play = puppets().running()
    client = run(snippet("Python - WebSocket", "python"), execution_id=play.id)
    step_until(play, lambda: "Progress: " in client.log(), client)
    play.cancel() if word == "cancel" else play.say(word)
    assert client.wait() == 0
    assert client.log().splitlines()[-1] == f"Done: {end}"


def test_rich_progress_bar(puppets: Callable[[], Play], run: Callable[..., Process]) -> None:
    """The rich bar moves with the execution and ends with it."""
    play = puppets().running()
    code = (
        TOLD
        + snippet("Progress Bar", "python")
        + "print('completed:', progress.tasks[0].completed)\n"
    )
    client = run(code, exec_id=play.id)
    client.wait_log("got status")
    play.say("step")
    client.wait_log("got progress")
    play.say("end")
    assert client.wait() == 0
    assert "Executing..." in client.log()
    assert "completed: 5.0" in client.log()


def test_three_executions_at_once(puppets: Callable[[], Play], run: Callable[..., Process]) -> None:
    """websockets with gather follows three executions, each to its own end."""
    plays = [puppets().running() for _ in range(3)]
    code = snippet("Monitor Multiple", "python")
    for number, play in enumerate(plays, 1):
        code = code.replace(f"exec_{number}", play.id)
    client = run(code)
    for play in plays:
        client.wait_log(rf"^\[{play.id}\] status$")
        step_until(play, lambda play=play: f"[{play.id}] progress" in client.log(), client)
    plays[0].say("end")
    plays[1].say("fail")
    plays[2].cancel()
    assert client.wait() == 0
    for play, end in zip(plays, ("completed", "failed", "cancelled"), strict=True):
        mine = [line for line in client.log().splitlines() if play.id in line]
        assert mine[0] == f"[{play.id}] status"
        assert mine[-1] == f"[{play.id}] {end}"
        assert set(mine[1:-1]) == {f"[{play.id}] progress"}


def test_error_handling(
    service: Service, puppets: Callable[[], Play], run: Callable[..., Process]
) -> None:
    """The careful function tells progress, none yet, an unknown execution and a dead network apart."""
    play = puppets()
    code = snippet("Error Handling", "python")
    asked = """
    print("none yet:", get_progress_safe(exec_id))
    """
    assert _output(run(code + _lines(asked), exec_id=play.id)) == ["none yet: None"]
    play.running()
    asked = """
    print("progress:", get_progress_safe(exec_id)["percentage"])
    try:
        get_progress_safe("nobody-ever-heard-of-it")
    except ValueError as exc:
        print("error:", exc)
    """
    assert _output(run(code + _lines(asked), exec_id=play.id)) == [
        "progress: 2.5",
        "error: Execution not found",
    ]
    elsewhere = code.replace(
        'f"/api', 'f"http://127.0.0.1:9/api'
    )  # nobody listens on the discard port
    told = _output(run(elsewhere + "print(get_progress_safe('x'))\n"))
    assert told[0].startswith("Network error: ")
    assert told[-1] == "None"
    play.say("end")


def test_curl(service: Service, puppets: Callable[[], Play]) -> None:
    """The two curl commands print progress and status as JSON."""
    play = puppets().running()
    commands = addressed(snippet("cURL - REST", "bash"), service).replace(SAMPLE_ID, play.id)
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
    assert (execution["execution_id"], execution["status"]) == (play.id, "running")
    assert execution["progress"] == progress
    play.say("end")


def test_answers_have_the_documents_fields(service: Service, puppets: Callable[[], Play]) -> None:
    """Both GETs answer with every field of the document's examples, of the same JSON type; 204 has
    no body.
    """
    play = puppets()
    nothing = requests.get(f"{service.url}/api/v1/executions/{play.id}/progress", timeout=60)
    assert (nothing.status_code, nothing.content) == (204, b"")
    play.running()
    for heading, path in (
        ("Get Execution Status (with Progress)", f"/api/v1/executions/{play.id}"),
        ("Get Progress Only", f"/api/v1/executions/{play.id}/progress"),
    ):
        example = json.loads(snippet(heading, "json"))
        answer = requests.get(service.url + path, timeout=60).json()
        assert _types(answer, example) == _types(example, example), heading
    play.say("end")


@pytest.mark.parametrize(("word", "shown"), [("end", "success"), ("fail", "error")])
def test_javascript(
    service: Service, puppets: Callable[[], Play], browser: Browser, word: str, shown: str
) -> None:
    """The JavaScript client in a browser moves its bar, then shows the outputs of a success or the
    error of a failure.
    """
    play = puppets().running()
    code = addressed(snippet("JavaScript - WebSocket", "javascript"), service)
    around = f"""(executionId) => {{
        window.seen = {{bar: [], success: null, error: null}};
        const updateProgressBar = value => window.seen.bar.push(value);
        const showSuccess = value => window.seen.success = value;
        const showError = value => window.seen.error = value;
        {code}
    }}"""
    page = browser.new_page()
    page.goto(service.url)  # a page of the same origin: a foreign one is refused
    page.evaluate(around, play.id)
    step_until(play, lambda: page.evaluate("window.seen.bar.length"))
    play.say(word)
    end = until(
        lambda: page.evaluate(f"window.seen.{shown}"), what=f"the page to be told of {shown}"
    )
    bar = page.evaluate("window.seen.bar")
    page.close()
    assert bar == sorted(bar)
    if word == "end":
        assert end == {"steps": play.seen()["progress"]["current_step"]}
    else:
        assert (end["type"], end["message"]) == ("ValueError", "the disk is full")


def test_every_snippet_is_run() -> None:
    """No code of the document is left out: a new block needs a test of its own."""
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


def _types(answer: Any, example: Any) -> Any:
    """The example's shape, filled with the types that the answer has there."""
    if isinstance(example, dict):
        return {key: _types(answer[key], value) for key, value in example.items()}
    return type(answer).__name__
