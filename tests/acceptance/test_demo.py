"""``python -m app.demo``: one command brings everything up, one Ctrl-C takes everything away."""

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

#: The demo, with other seconds that its worker has behind SIGTERM, and behind the SIGQUIT that cuts
#: off.
PATIENT = """
import signal, sys
from app import demo
demo.WORKER_STEPS = ((signal.SIGTERM, {term}), (signal.SIGQUIT, {cut}))
sys.exit(demo.main())
"""
#: Passes over its files that no test sees the last of.
ENDLESS = 1_000_000


class Demo(Process):
    """The demo on a free port, with nothing of Celery or Headway in its environment but ``env``."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        super().__init__(
            [sys.executable, "-m", "app.demo"],
            env={"PORT": str(self.port), **(env or {})},
            name="demo",
        )
        self.family: list[psutil.Process] = []

    def ready(self) -> str:
        """The address that it prints, once it does; all that it started is remembered."""
        url = self.wait_log(ADDRESS, within=100)[1]
        self.family = self.descendants()
        return url

    def log_of(self, part: str) -> Path:
        """Where the worker's or the web server's log is."""
        return ROOT / ".headway" / f"{part}-{self.port}.log"

    def close(self) -> None:
        """As every process, and the logs that it kept are taken away too."""
        super().close()
        for part in ("worker", "web"):
            self.log_of(part).unlink(missing_ok=True)

    def gone(self) -> bool:
        """Whether nothing of all that it started runs any more."""
        return not running(self.family)


def with_patience(demo: Demo, term: float, cut: float) -> None:
    """Let the worker have so many seconds: the demo's own few may pass before a process gets its
    turn.
    """
    demo.argv = [sys.executable, "-c", PATIENT.format(term=term, cut=cut)]


@pytest.fixture
def demo() -> Iterator[Demo]:
    """A demo that isn't started yet."""
    it = Demo()
    yield it
    it.close()


def start(url: str, task: str, **kwargs: object) -> str:
    answer = requests.post(
        f"{url}/api/v1/executions", json={"task": task, "kwargs": kwargs}, timeout=60
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["execution_id"])


def watch(url: str, execution_id: str) -> list[str]:
    """The types of all frames until the end."""
    address = f"{url.replace('http', 'ws', 1)}/api/v1/executions/{execution_id}/progress/ws"
    with closing(websocket.create_connection(address, timeout=60)) as stream:
        types = []
        while not types or types[-1] not in ("completed", "failed", "cancelled"):
            types.append(json.loads(stream.recv())["type"])
        return types


def test_from_start_to_end(demo: Demo) -> None:
    """It says where it is, a job started there is watched to its end, and Ctrl-C ends all of it in
    order, with exit code 0.
    """
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
    assert demo.log().rstrip().endswith("All ended.")
    assert "Traceback" not in demo.log()
    until(demo.gone, what="all that the demo started to end")
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", demo.port)) != 0


def test_it_ends_while_a_job_runs(demo: Demo) -> None:
    """SIGTERM cuts a running job off after a moment; it isn't waited for to its end, and nothing is
    left.
    """
    with_patience(demo, 4, 60)
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
    until(demo.gone, what="all that the demo started to end")


def test_a_second_ctrl_c_ends_at_once(demo: Demo) -> None:
    """Whoever can't wait presses Ctrl-C again: everything is killed, and that is no failure."""
    with_patience(demo, 3600, 3600)
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
    demo.wait_log("^Ending")
    demo.kill(signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.log()
    assert "Cold shutdown" not in demo.log_of("worker").read_text(), (
        "the worker was given time to end"
    )
    until(demo.gone, what="all that the demo started to end")


def test_ctrl_c_before_it_is_ready(demo: Demo) -> None:
    """It can be ended at any moment, also while it starts."""
    demo.start()
    demo.wait_log("^Result backend")
    demo.family = demo.descendants()
    demo.kill(signal.SIGINT)
    assert demo.wait() == 0
    assert "Traceback" not in demo.log()
    until(demo.gone, what="all that the demo started to end")


def test_nothing_survives_a_killed_demo(demo: Demo) -> None:
    """Killed outright, it can't take its processes away itself: they end all the same."""
    demo.start()
    demo.ready()
    demo.kill(signal.SIGKILL)
    until(demo.gone, what="all that the demo started to end")


@pytest.mark.parametrize("name", ["celery", "gunicorn", "valkey-server"])
def test_a_part_that_dies_ends_all(demo: Demo, name: str) -> None:
    """Where the worker, the web server or Valkey dies, the demo says so and ends with everything,
    exit code 1.
    """
    demo.start()
    demo.ready()
    mine = [
        process
        for process in psutil.Process(demo.pid).children()
        if name in " ".join(process.cmdline())
    ]
    part = next(process for process in mine if process.name() != "sh")
    part.kill()
    assert demo.wait() == 1
    assert re.search(
        r"^headway: The (worker|web|embedded Valkey) (process|server) has ended",
        demo.log(),
        re.MULTILINE,
    )
    assert "Traceback" not in demo.log().split("headway: ")[0]
    until(demo.gone, what="all that the demo started to end")


def test_a_port_that_is_taken(demo: Demo) -> None:
    """It says which port is taken and how to take another, and starts nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", demo.port))
        taken.listen()
        demo.start()
        assert demo.wait() == 1
    assert demo.log() == (
        f"headway: Port {demo.port} of 127.0.0.1 can't be had (Address already in use). "
        f"Take another one: PORT={demo.port + 1} make demo\n"
    )


@pytest.mark.parametrize("port", ["none", "0", "70000"])
def test_a_port_that_is_none(port: str) -> None:
    """A PORT that can't be one is refused by a sentence."""
    with Demo({"PORT": port}) as demo:
        assert demo.wait() == 1
        assert demo.log() == f"headway: PORT must be a number from 1 to 65535, not {port!r}\n"


@pytest.mark.parametrize(
    ("variable", "what"),
    [("CELERY_BROKER_URL", "broker"), ("CELERY_RESULT_BACKEND", "result backend")],
)
@pytest.mark.parametrize("way", ["closed", "silent"])
def test_a_server_that_gives_no_answer(redis_url: str, variable: str, what: str, way: str) -> None:
    """A broker or backend that isn't there, or hangs, is named by a sentence, without its password;
    nothing is started.
    """
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
            said = demo.log()
    assert said.startswith(
        f"headway: The {what} gives no answer at redis://:**@{address}. Start it, or set {variable} "
    )
    assert said.count("\n") == 1


def test_the_broker_that_is_set_is_used(redis_url: str) -> None:
    """With CELERY_BROKER_URL set, no server is embedded; Redis serves as the result backend too,
    and that is said.
    """
    with Demo({"CELERY_BROKER_URL": redis_url}) as demo:
        url = demo.ready()
        assert "CELERY_RESULT_BACKEND is not set, so it is the same server" in demo.log()
        assert not any("valkey-server" in " ".join(process.cmdline()) for process in demo.family)
        execution_id = start(url, "tasks.unknown_length", limit=3)
        assert watch(url, execution_id)[-1] == "completed"
        with redis.Redis.from_url(redis_url) as client:
            assert client.exists(f"celery-task-meta-{execution_id}")
        demo.kill(signal.SIGINT)
        assert demo.wait() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_this_machine_only_with_tokens(host: str) -> None:
    """On another address than loopback it refuses to start without HEADWAY_TOKENS, and says what to
    set.
    """
    with Demo({"HOST": host}) as demo:
        assert demo.wait() == 1
        assert demo.log().startswith("headway: Headway would listen on")
        assert "HEADWAY_TOKENS" in demo.log()
        assert "Traceback" not in demo.log()


def test_beyond_this_machine_with_tokens() -> None:
    """With tokens it listens everywhere, and every call wants one."""
    with Demo({"HOST": "0.0.0.0", "HEADWAY_TOKENS": "open-sesame"}) as demo:
        url = demo.ready()
        order = {"task": "tasks.unknown_length", "kwargs": {"limit": 1}}
        assert requests.post(f"{url}/api/v1/executions", json=order, timeout=60).status_code == 401
        allowed = {"Authorization": "Bearer open-sesame"}
        assert (
            requests.post(
                f"{url}/api/v1/executions", json=order, headers=allowed, timeout=60
            ).status_code
            == 202
        )
        demo.kill(signal.SIGTERM)
        assert demo.wait() == 0


def test_it_can_be_run_from_anywhere(demo: Demo, tmp_path: Path) -> None:
    """Its own files are found wherever it is started from."""
    demo.cwd = tmp_path
    demo.env["PYTHONPATH"] = str(ROOT)
    demo.start()
    demo.ready()
    demo.kill(signal.SIGTERM)
    assert demo.wait() == 0
