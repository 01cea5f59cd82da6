"""What the service adds to the extension: uploads, and the socket check of gunicorn.conf.py."""

from __future__ import annotations

import os
import runpy
import socket
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse

from app import demo
from headway.errors import Unavailable
from headway.server.api.start import TaskStarter
from tests.support.flask_app import MountedApp, mounted_app
from tests.support.processes import ROOT
from tests.unit.test_problems import assert_problem
from web import pages


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MountedApp]:
    monkeypatch.setenv("HEADWAY_DATA", str(tmp_path))
    with mounted_app(celery=Celery("uploads", broker="memory://", set_as_current=False)) as made:
        pages.register(made.app, made.headway)
        yield made


def upload(server: MountedApp) -> TestResponse:
    return server.client.post("/upload", data={"file": (BytesIO(b"id\n1\n"), "rows.csv")})


def kept(folder: Path) -> set[str]:
    return {file.name for file in (folder / "uploads").iterdir()}


class TestUpload:
    def test_upload_deletes_files_older_than_a_week(
        self, server: MountedApp, tmp_path: Path
    ) -> None:
        """Each upload deletes files and databases that are older than a week."""
        assert upload(server).status_code == 202
        (first,) = kept(tmp_path)
        for name, age in (("old.csv", 3600), ("old.sqlite3", 3600), ("young.csv", -3600)):
            (tmp_path / "uploads" / name).touch()
            then = time.time() - pages.RETENTION - age
            os.utime(tmp_path / "uploads" / name, (then, then))
        assert upload(server).status_code == 202
        names = kept(tmp_path)
        assert {first, "young.csv"} < names
        assert len(names) == 3

    def test_failed_save_leaves_no_file(self, server: MountedApp, tmp_path: Path) -> None:
        """If saving fails, the partial file is deleted."""

        def save(_: Any, place: Path) -> None:
            place.write_bytes(b"id")
            raise OSError(28, "No space left on device")

        with mock.patch.object(FileStorage, "save", save):
            assert_problem(upload(server), 500)
        assert kept(tmp_path) == set()

    def test_failed_publish_leaves_no_file(self, server: MountedApp, tmp_path: Path) -> None:
        """If the import cannot be published, the file is deleted."""
        with mock.patch.object(TaskStarter, "publish", side_effect=Unavailable()):
            assert_problem(upload(server), 503)
        assert kept(tmp_path) == set()


@pytest.mark.parametrize(
    ("host", "port", "bind"),
    [
        (None, None, "127.0.0.1:8000"),
        ("", "", "127.0.0.1:8000"),
        ("::1", "81", "[::1]:81"),
        ("0.0.0.0", None, "0.0.0.0:8000"),
    ],
)
def test_server_and_demo_bind_to_localhost_by_default(
    host: str | None, port: str | None, bind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without settings, the server and the demo listen on 127.0.0.1:8000."""
    for name, value in (("HOST", host), ("PORT", port)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(
            name, value
        )
    monkeypatch.setenv("HEADWAY_TOKENS", "a-token")
    assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["bind"] == bind
    with mock.patch.object(demo, "Interrupts"), mock.patch.object(demo, "Demo") as made:
        demo.main()
    address, number, _ = made.call_args.args
    assert bind == f"{f'[{address}]' if ':' in address else address}:{number}"


@pytest.mark.parametrize(("host", "served"), [("127.0.0.1", True), ("0.0.0.0", False), ("", True)])
def test_sockets_beyond_localhost_need_tokens(
    host: str, served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever created the socket, gunicorn serves it without tokens only on this machine."""
    monkeypatch.delenv("HEADWAY_TOKENS", raising=False)
    check = runpy.run_path(str(ROOT / "gunicorn.conf.py"))["check_sockets"]
    with socket.socket(socket.AF_INET if host else socket.AF_UNIX) as bound:
        bound.bind((host, 0) if host else str(tmp_path / "socket"))
        worker = SimpleNamespace(sockets=[bound], log=mock.Mock(), cfg=SimpleNamespace(address=[3]))
        if served:
            check(worker)
        else:
            with pytest.raises(SystemExit):
                check(worker)
            assert "HEADWAY_TOKENS" in str(worker.log.error.call_args)
