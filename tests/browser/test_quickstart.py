"""The quickstart: its files in an empty folder, run by its own commands."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.markdown import blocks
from tests.support.processes import ROOT, Process

PAGE = ROOT / "docs" / "quickstart.md"
#: Milliseconds that anything may take on a busy machine.
END = 90_000


def command(beginning: str, *more: str) -> list[str]:
    """A command from the page, run in the environment of the tests."""
    lines = (
        line
        for block in blocks(PAGE)
        if block.language == "bash"
        for line in block.code.splitlines()
    )
    line = next(line for line in lines if line.startswith(beginning))
    name, *words = shlex.split(line)
    return [str(Path(sys.executable).with_name(name)), *words, *more]


@pytest.fixture
def folder(tmp_path: Path, redis_url: str) -> Path:
    """The files of the page, with a shorter pause per row."""
    for block in blocks(PAGE):
        if block.info.startswith("file: "):
            code = block.code.replace("redis://127.0.0.1:6379/0", redis_url).replace(
                "sleep(0.05)", "sleep(0.005)"
            )
            (tmp_path / block.info.removeprefix("file: ")).write_text(code)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[ExitStack]:
    """Stops the started processes."""
    with ExitStack() as stack:
        yield stack


def run(stack: ExitStack, folder: Path, beginning: str, *more: str) -> Process:
    env = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return stack.enter_context(
        Process(command(beginning, *more), env=env, cwd=folder, name=beginning)
    )


def test_quickstart_commands_work_as_documented(page: Page, folder: Path, start: ExitStack) -> None:
    """Button, bar and dashboard work; so does the server without a Flask app, and `celery call`."""
    run(start, folder, "celery -A jobs worker", "--pool", "solo").wait_log(r"ready\.")
    site = run(start, folder, "flask", "--port", "0").wait_log(
        r"Running on (http://127\.0\.0\.1:\d+)"
    )[1]
    page.goto(site)
    page.get_by_role("button", name="Copy 400 rows").click()
    expect(page.locator("headway-progress .status")).to_have_text("Done", timeout=END)
    expect(page.locator("headway-progress .amount")).to_have_text("400 of 400 rows", timeout=END)
    page.get_by_role("link", name="All jobs").click()
    expect(page.locator(".row")).to_contain_text("copy_rows", timeout=END)

    server = run(start, folder, "celery -A jobs headway web", "--port", "0")
    own = server.wait_log(r"Listening at: (http://127\.0\.0\.1:\d+)")[1]
    page.goto(own)
    expect(page.locator(".row")).to_have_count(1, timeout=END)
    called = run(start, folder, "celery -A jobs call")
    assert called.wait() == 0, called.log()
    expect(page.locator(".row")).to_have_count(2, timeout=END)
    assert re.fullmatch(r"[0-9a-f-]{36}", called.log().strip())
    watch = run(start, folder, "celery -A jobs headway watch --all")
    assert watch.wait() == 0, watch.log()
