"""The socket over a result backend without push, which is polled."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.acceptance.test_socket import APP, SocketClient, kinds
from tests.support.processes import WebServer


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_sql_backend_is_streamed(kind: Any, tmp_path: Path) -> None:
    """A task without Headway that stores its states in SQLite is shown from report to end."""
    url = f"db+sqlite:///{tmp_path}/results.sqlite"
    backend = Celery("sql", backend=url).backend
    task_id = uuid.uuid4().hex
    backend.store_result(task_id, {"current": 1, "total": 4}, "PROGRESS")
    with WebServer(
        kind, APP, env={"STREAMS_BACKEND": url, "HEADWAY_POLL_INTERVAL": "0.05"}
    ) as server:
        assert SocketClient(server, "unknown").read_to_close()[1] == 1008
        viewer = SocketClient(server, task_id)
        first = viewer.next()
        assert (first["type"], first["progress"]["percentage"]) == ("status", 25.0)
        for current in (2, 3):
            backend.store_result(task_id, {"current": current, "total": 4}, "PROGRESS")
            frame = viewer.next()
            assert (frame["type"], frame["progress"]["current"]) == ("progress", current)
        backend.store_result(task_id, {"rows": 4}, "SUCCESS")
        frames, code, _ = viewer.read_to_close()
        assert (kinds(frames), code) == (["completed"], 1000)
        assert frames[0]["outputs"] == {"rows": 4}
