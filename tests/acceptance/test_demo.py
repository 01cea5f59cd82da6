"""``python -m app.demo``: one command starts everything, and Ctrl-C stops everything."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import redis
import requests
import websocket

from tests.support.processes import ROOT, Process, running
from tests.support.valkey import free_port
from tests.support.wait import until

ADDRESS = r"^    (http://\S+)/$"

#: The demo with other time limits for its worker after SIGTERM and after SIGQUIT.
WITH_LIMITS = """
import signal, sys
from app import demo
demo.WORKER_SIGNALS = ((signal.SIGTERM, {term}), (signal.SIGQUIT, {quit}))
sys.exit(demo.main())
"""
#: Passes of a checksum job that doesn't end within a test.
ENDLESS = 1_000_000


class Demo(Process):
    """The demo on a free port. Its only Celery and Headway variables are in ``env``."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        super().__init__(
            [sys.executable, "-m", "app.demo"],
            env={"PORT": str(self.port), **(env or {})},
            name="demo",
        )
        self.family: list[psutil.Process] = []

    def ready(self) -> str:
        """Wait for the address. Remembers all processes of the demo."""
        url = self.wait_log(ADDRESS, within=100)[1]
        self.family = self.descendants()
        return url

    def log_of(self, part: str) -> Path:
        """The log file of the worker or the web server."""
        return ROOT / ".headway" / f"{part}-{self.port}.log"

    def close(self) -> None:
        """Stop the demo and remove its log files."""
        super().close()
        for part in ("worker", "web"):
            self.log_of(part).unlink(missing_ok=True)

    def gone(self) -> bool:
        """Whether all its processes have ended."""
        return not running(self.family)


def with_limits(demo: Demo, term: float, quit: float) -> None:
    """Give the worker other time limits: on a busy machine the demo's own may be too short."""
    demo.argv = [sys.executable, "-c", WITH_LIMITS.format(term=term, quit=quit)]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """A demo that isn't started yet."""
    made = Demo()
    yield made
    made.close()


def start(url: str, task: str, **kwargs: object) -> str:
    response = requests.post(
        f"{url}/api/v1/executions", json={"task": task, "kwargs": kwargs}, timeout=60
    )
    assert response.status_code == 202, response.text
    return str(response.json()["execution_id"])


def watch(url: str, execution_id: str) -> list[str]:
    """The types of all frames up to the terminal one."""
    address = f"{url.replace('http', 'ws', 1)}/api/v1/executions/{execution_id}/progress/ws"
    with closing(websocket.create_connection(address, timeout=60)) as stream:
        types = []
        while not types or types[-1] not in ("completed", "failed", "cancelled"):
            types.append(json.loads(stream.recv())["type"])
        return types


def test_demo_runs_a_job_and_stops_on_ctrl_c(demo: Demo) -> None:
    """It prints its address, a job completes, and Ctrl-C stops everything with exit code 0."""
    demo.start()
    url = demo.ready()
    assert url == f"http://127.0.0.1:{demo.port}"
    until(lambda: requests.get(f"{url}/readyz", timeout=60).status_code == 200)
    assert "Start a job" in requests.get(url, timeout=60).text
    frames = watch(url, start(url, "tasks.pipeline", files=40))
    assert frames[0] == "status"
    assert frames[-1] == "completed"
    assert any("valkey-server" in " ".join(process.cmdline()) for process in demo.family)

    demo.kill(signal.SIGINT)
    assert demo.wait() == 0
    assert demo.log().rstrip().endswith("Everything stopped.")
    assert "Traceback" not in demo.log()
    until(demo.gone, what="all processes of the demo to end")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", demo.port)) != 0


def test_sigterm_cancels_running_job(demo: Demo) -> None:
    """SIGTERM stops the demo without waiting for the end of a running job."""
    with_limits(demo, 4, 60)
    demo.start()
    url = demo.ready()
    running_job = start(url, "tasks.checksum", passes=ENDLESS)
    until(
        lambda: (
            requests.get(f"{url}/api/v1/executions/{running_job}", timeout=60).json()["status"]
            == "running"
        )
    )
    demo.kill(signal.SIGTERM)
    assert demo.wait(within=180) == 0
    assert "Traceback" not in demo.log()
    assert "Cold shutdown" in demo.log_of("worker").read_text()
    until(demo.gone, what="all processes of the demo to end")


def test_second_ctrl_c_stops_at_once(demo: Demo) -> None:
    """A second Ctrl-C kills everything, and the exit code is still 0."""
    with_limits(demo, 3600, 3600)
    demo.start()
    url = demo.ready()
    running_job = start(url, "tasks.checksum", passes=ENDLESS)
    until(
        lambda: (
            requests.get(f"{url}/api/v1/executions/{running_job}", timeout=60).json()["status"]
            == "running"
        )
    )
    demo.kill(signal.SIGINT)
    demo.wait_log("^Stopping")
    demo.kill(signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.log()
    assert "Cold shutdown" not in demo.log_of("worker").read_text(), (
        "the worker was given time to end"
    )
    until(demo.gone, what="all processes of the demo to end")


def test_ctrl_c_during_startup_stops_demo(demo: Demo) -> None:
    """It can be stopped at any time, also while it starts."""
    demo.start()
    demo.wait_log("^Result backend")
    demo.family = demo.descendants()
    demo.kill(signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.log()
    until(demo.gone, what="all processes of the demo to end")


def test_processes_end_with_killed_demo(demo: Demo) -> None:
    """A killed demo can't stop its processes, but they end."""
    demo.start()
    demo.ready()
    demo.kill(signal.SIGKILL)
    until(demo.gone, what="all processes of the demo to end")


@pytest.mark.parametrize("name", ["celery", "gunicorn", "valkey-server"])
def test_dead_process_stops_demo(demo: Demo, name: str) -> None:
    """If the worker, the web server or Valkey dies, the demo reports it and exits with 1."""
    demo.start()
    demo.ready()
    parts = [
        process
        for process in psutil.Process(demo.pid).children()
        if name in " ".join(process.cmdline())
    ]
    part = next(process for process in parts if process.name() != "sh")
    part.kill()
    assert demo.wait() == 1
    assert re.search(
        r"^headway: The (worker|web|embedded Valkey) (process|server) has ended",
        demo.log(),
        re.MULTILINE,
    )
    assert "Traceback" not in demo.log().split("headway: ")[0]
    until(demo.gone, what="all processes of the demo to end")


def test_port_in_use_is_reported(demo: Demo) -> None:
    """The error names the port and how to choose another one, and nothing is started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", demo.port))
        taken.listen()
        demo.start()
        assert demo.wait() == 1
    assert demo.log() == (
        f"headway: Port {demo.port} is already in use. "
        f"Choose another one: PORT={demo.port + 1} make demo\n"
    )


@pytest.mark.parametrize("port", ["none", "0", "70000"])
def test_invalid_port_is_refused(port: str) -> None:
    """A PORT that is no port number is an error."""
    with Demo({"PORT": port}) as demo:
        assert demo.wait() == 1
        assert demo.log() == f"headway: PORT must be a number from 1 to 65535, not {port!r}\n"


@pytest.mark.parametrize(
    ("variable", "what"),
    [("CELERY_BROKER_URL", "broker"), ("CELERY_RESULT_BACKEND", "result backend")],
)
@pytest.mark.parametrize("way", ["closed", "silent"])
def test_unreachable_server_is_reported(redis_url: str, variable: str, what: str, way: str) -> None:
    """A broker or backend that is down or hangs is named without its password."""
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/0"
        if way == "closed":
            silent.close()
        urls = {
            "CELERY_BROKER_URL": redis_url,
            "CELERY_RESULT_BACKEND": redis_url,
            variable: f"redis://:secret@{address}",
        }
        with Demo(urls) as demo:
            assert demo.wait(within=60) == 1
            output = demo.log()
    assert output.startswith(
        f"headway: The {what} at redis://:**@{address} is not reachable. "
        f"Start it, or set {variable} "
    )
    assert output.count("\n") == 1


def test_broker_url_is_used_for_both(redis_url: str) -> None:
    """With only CELERY_BROKER_URL set, Redis is the result backend too. No server is embedded."""
    with Demo({"CELERY_BROKER_URL": redis_url}) as demo:
        url = demo.ready()
        assert "CELERY_RESULT_BACKEND is not set: the same server" in demo.log()
        assert not any("valkey-server" in " ".join(process.cmdline()) for process in demo.family)
        execution_id = start(url, "tasks.unknown_length", limit=3)
        assert watch(url, execution_id)[-1] == "completed"
        with redis.Redis.from_url(redis_url) as client:
            assert client.exists(f"celery-task-meta-{execution_id}")
        demo.kill(signal.SIGINT)
        assert demo.wait() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_public_address_without_tokens_is_refused(host: str) -> None:
    """On another address than loopback the demo requires HEADWAY_TOKENS."""
    with Demo({"HOST": host}) as demo:
        assert demo.wait() == 1
        assert demo.log().startswith("headway: Headway would listen on")
        assert "HEADWAY_TOKENS" in demo.log()
        assert "Traceback" not in demo.log()


def test_public_address_with_tokens_is_served() -> None:
    """With tokens it listens on all addresses, and each request requires a token."""
    with Demo({"HOST": "0.0.0.0", "HEADWAY_TOKENS": "open-sesame"}) as demo:
        url = demo.ready()
        body = {"task": "tasks.unknown_length", "kwargs": {"limit": 1}}
        assert requests.post(f"{url}/api/v1/executions", json=body, timeout=60).status_code == 401
        allowed = {"Authorization": "Bearer open-sesame"}
        assert (
            requests.post(
                f"{url}/api/v1/executions", json=body, headers=allowed, timeout=60
            ).status_code
            == 202
        )
        demo.kill(signal.SIGTERM)
        assert demo.wait() == 0


def test_demo_runs_from_any_directory(demo: Demo, tmp_path: Path) -> None:
    """It finds its files in any working directory."""
    demo.cwd = tmp_path
    demo.env["PYTHONPATH"] = str(ROOT)
    demo.start()
    demo.ready()
    demo.kill(signal.SIGTERM)
    assert demo.wait() == 0
