"""The installed command line: Celery's sub-command and the program, on real jobs, and `web`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import requests

from headway import Client
from tests.support.processes import ROOT, Process, environment
from tests.support.service import Service

CELERY = [sys.executable, "-m", "celery", "-A", "app", "headway"]


def program() -> str:
    """The console script of the package."""
    return str(Path(sys.executable).with_name("headway"))


def run(argv: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        env=environment(env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


@pytest.fixture(params=["celery -A app headway", "headway --url"])
def command(request: pytest.FixtureRequest, service: Service) -> list[str]:
    return CELERY if request.param.startswith("celery") else [program(), "--url", service.url]


def test_watch_follows_real_jobs_to_their_ends(service: Service, command: list[str]) -> None:
    """`watch` follows a job that succeeds and one that fails, and exits with 1."""
    (Path(service.data) / "file").write_text("some bytes")
    good = service.start("tasks.checksum", path=service.data)
    bad = service.start("tasks.checksum", path="/")
    done = run([*command, "watch", good, bad], service.env)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith(f"{good}  tasks.checksum  succeeded") for line in lines)
    assert any(line.startswith(f"{bad}  tasks.checksum  failed") for line in lines)
    done = run([*command, "watch", "--json", good], service.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == [
        "status",
        "completed",
    ]
    listed = [
        json.loads(line)
        for line in run([*command, "ls", "--json", "-q", bad], service.env).stdout.splitlines()
    ]
    assert [each["phase"] for each in listed] == ["failed"]


def test_ctrl_c_ends_the_watch_and_not_the_job(service: Service) -> None:
    """SIGINT ends `watch` with 130 and without a traceback, and the job continues."""
    # More passes than the test has time for: the job runs until it is cancelled.
    running = service.start("tasks.checksum", passes=1_000_000)
    with Process([*CELERY, "watch", running], env=service.env, name="watch") as watch:
        watch.wait_log(running)
        watch.kill(signal.SIGINT)
        assert watch.wait() == 130
        assert "Traceback" not in watch.log()
    assert run([*CELERY, "cancel", "--yes", running], service.env).returncode == 0
    with Client(service.url) as client:
        assert [event.status for event in client.watch(running, timeout=60) if event.terminal] == [
            "cancelled"
        ]


def test_doctor_finds_nothing_in_the_service(service: Service) -> None:
    """The service of this repository has no configuration problem."""
    done = run([*CELERY, "doctor"], service.env)
    assert (done.returncode, done.stdout) == (0, "No problems found.\n")


def test_web_serves_dashboard_and_api_with_tokens(service: Service) -> None:
    """`web` serves dashboard and API on localhost, stops on SIGTERM and Ctrl-C, and requires its
    tokens.
    """
    execution_id = service.start("tasks.checksum", path=service.data)
    command = [*CELERY, "web", "--port", "0"]
    with Process(command, env=service.env, name="web") as web:
        url = web.wait_log(r"Listening at: (http://127\.0\.0\.1:\d+)", within=60)[1]
        with Client(url) as client:
            assert client.wait(execution_id, timeout=60)
        page = requests.get(f"{url}/", timeout=60)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        web.kill(signal.SIGTERM)
        assert web.wait() == 0
        assert "MonkeyPatchWarning" not in web.log()
    with Process(command, env=service.env | {"HEADWAY_TOKENS": "secret"}, name="web") as web:
        url = web.wait_log(r"Listening at: (http://127\.0\.0\.1:\d+)", within=60)[1]
        assert (
            requests.get(f"{url}/api/v1/executions/{execution_id}", timeout=60).status_code == 401
        )
        with Client(url, "secret") as client:
            assert client.get(execution_id).status == "completed"
        os.killpg(web.pid, signal.SIGINT)  # like a terminal, which signals the group
        assert web.wait() == 0
        assert "Traceback" not in web.log()
    done = run([*command, "--host", "0.0.0.0"], service.env)  # refused before it binds
    assert done.returncode == 2
    assert "which is open to the network" in done.stderr
    assert "Listening" not in done.stderr
