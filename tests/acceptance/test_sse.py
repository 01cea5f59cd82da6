"""The same stream as server-sent events, on every server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.acceptance.test_socket import APP, PREFIX, viewers_of
from tests.support.fake_worker import FakeWorker
from tests.support.processes import WebServer
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


class Listening:
    """A client of server-sent events, by the rules of HTML's section on them."""

    def __init__(self, url: str, **headers: str) -> None:
        self.response = requests.get(
            url, headers={"Accept": "text/event-stream", **headers}, stream=True, timeout=60
        )
        assert self.response.headers["Content-Type"].startswith("text/event-stream")
        self._lines = self.response.iter_lines(chunk_size=1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        event: dict[str, Any] = {}
        for line in self._lines:
            name, _, value = line.decode().partition(": ")
            if not line and "data" in event:
                yield event | {"data": json.loads(event["data"])}
            if not line:
                event = {}
            elif name:
                event[name] = value


@pytest.fixture(scope="module")
def backend() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server.keep()


@pytest.fixture(scope="module", params=["gevent", "gthread", "dev"])
def server(request: pytest.FixtureRequest, backend: ValkeyServer) -> Iterator[WebServer]:
    # Twice as long may a write take before its client is cut off: not less than a busy machine may
    # need for one.
    with WebServer(
        request.param, APP, env={"STREAMS_BACKEND": backend.url, "HEADWAY_PING_INTERVAL": "3"}
    ) as server:
        yield server.keep()
        assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def runs(backend: ValkeyServer) -> FakeWorker:
    return FakeWorker.on(backend.url)


def test_the_same_stream(server: WebServer, runs: FakeWorker) -> None:
    """Events carry the socket's frames, named as their types, each with an id; the stream ends
    after the end.
    """
    run = runs.publish()
    events = iter(Listening(f"{server.url}{PREFIX}/{run.id}/progress/events"))
    seen = [next(events)]
    run.open()
    seen.append(next(events))
    run.report(1, 2)
    seen.append(next(events))
    run.succeed({"rows": 2})
    seen += events
    assert [event["event"] for event in seen] == ["status", "started", "progress", "completed"]
    assert [event["data"]["type"] for event in seen] == [event["event"] for event in seen]
    assert all(event["id"] for event in seen)
    assert seen[-1]["data"]["outputs"] == {"rows": 2}
    until(lambda: viewers_of(server) == 0)


def test_who_comes_back(server: WebServer, runs: FakeWorker) -> None:
    """A client that comes back with the id of what it saw last is told the rest; with the id of the
    end, to stay away (204).
    """
    run = runs.begin().succeed()
    url = f"{server.url}{PREFIX}/{run.id}/progress/events"
    seen = list(Listening(url))
    assert [event["event"] for event in seen] == ["status", "completed"]
    assert next(iter(Listening(url, **{"Last-Event-ID": seen[0]["id"]})))["event"] == "completed"
    again = requests.get(url, headers={"Last-Event-ID": seen[-1]["id"]}, timeout=60)
    assert (again.status_code, again.content) == (204, b"")
    until(lambda: viewers_of(server) == 0)


def test_refusals_are_plain_answers(server: WebServer) -> None:
    """An unknown id is a 404 and a malformed one a 422, as problem documents, before any stream
    begins.
    """
    assert (
        requests.get(f"{server.url}{PREFIX}/nobody/progress/events", timeout=60).status_code == 404
    )
    assert (
        requests.get(f"{server.url}{PREFIX}/{'a' * 300}/progress/events", timeout=60).status_code
        == 422
    )
    until(lambda: viewers_of(server) == 0)


def test_a_client_that_has_gone_is_noticed(server: WebServer, runs: FakeWorker) -> None:
    """Though nothing happens, a client that left frees its place: heartbeats find it out (web fact
    14).
    """
    run = runs.begin()
    listening = Listening(f"{server.url}{PREFIX}/{run.id}/progress/events")
    assert next(iter(listening))["event"] == "status"
    until(lambda: viewers_of(server) == 1)
    listening.response.close()
    until(lambda: viewers_of(server) == 0)


def test_head(server: WebServer, runs: FakeWorker) -> None:
    """HEAD says what GET would send, and holds nothing open."""
    run = runs.begin()
    answer = requests.head(f"{server.url}{PREFIX}/{run.id}/progress/events", timeout=60)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    until(lambda: viewers_of(server) == 0)


def test_tensorlakes_stream(server: WebServer, runs: FakeWorker) -> None:
    """Tensorlake's path streams its own shape, each report once, until the end."""
    run = runs.begin()
    events = iter(Listening(f"{server.url}/applications/app/requests/{run.id}/progress"))
    run.report(1, 2, "one")
    first = next(events)
    assert "event" not in first
    assert (first["data"]["current"], first["data"]["message"]) == (1, "one")
    assert isinstance(first["data"]["timestamp"], int)
    run.report(2, 2, "two")
    assert next(events)["data"]["current"] == 2
    run.succeed()
    assert list(events) == []
