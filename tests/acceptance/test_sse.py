"""The stream as server-sent events, on every server."""

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


class EventClient:
    """A client of server-sent events, after HTML's section on them."""

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
    # A client whose write takes longer than twice the interval is disconnected: leave a busy
    # machine enough time for one.
    with WebServer(
        request.param, APP, env={"STREAMS_BACKEND": backend.url, "HEADWAY_PING_INTERVAL": "3"}
    ) as server:
        yield server.keep()
        assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def runs(backend: ValkeyServer) -> FakeWorker:
    return FakeWorker.on(backend.url)


def test_events_carry_the_frames_of_the_socket(server: WebServer, runs: FakeWorker) -> None:
    """Events are the socket's frames, named by type, each with an id; the end ends the stream."""
    run = runs.publish()
    events = iter(EventClient(f"{server.url}{PREFIX}/{run.id}/progress/events"))
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


def test_last_event_id_gives_the_rest_or_204(server: WebServer, runs: FakeWorker) -> None:
    """With the id of the last event a client gets the rest; with that of the end, a 204."""
    run = runs.begin().succeed()
    url = f"{server.url}{PREFIX}/{run.id}/progress/events"
    seen = list(EventClient(url))
    assert [event["event"] for event in seen] == ["status", "completed"]
    assert next(iter(EventClient(url, **{"Last-Event-ID": seen[0]["id"]})))["event"] == "completed"
    again = requests.get(url, headers={"Last-Event-ID": seen[-1]["id"]}, timeout=60)
    assert (again.status_code, again.content) == (204, b"")
    until(lambda: viewers_of(server) == 0)


def test_refusals_are_problem_documents(server: WebServer) -> None:
    """An unknown id is a 404 and an invalid one a 422, before a stream starts."""
    assert (
        requests.get(f"{server.url}{PREFIX}/unknown/progress/events", timeout=60).status_code == 404
    )
    assert (
        requests.get(f"{server.url}{PREFIX}/{'a' * 300}/progress/events", timeout=60).status_code
        == 422
    )
    until(lambda: viewers_of(server) == 0)


def test_heartbeat_finds_a_client_that_left(server: WebServer, runs: FakeWorker) -> None:
    """A client that left frees its slot: a heartbeat finds out (web-facts#sse-notices-on-write)."""
    run = runs.begin()
    client = EventClient(f"{server.url}{PREFIX}/{run.id}/progress/events")
    assert next(iter(client))["event"] == "status"
    until(lambda: viewers_of(server) == 1)
    client.response.close()
    until(lambda: viewers_of(server) == 0)


def test_head_opens_no_stream(server: WebServer, runs: FakeWorker) -> None:
    """HEAD returns the headers of GET, and opens no stream."""
    run = runs.begin()
    response = requests.head(f"{server.url}{PREFIX}/{run.id}/progress/events", timeout=60)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/event-stream")
    until(lambda: viewers_of(server) == 0)


def test_tensorlake_stream_has_its_own_events(server: WebServer, runs: FakeWorker) -> None:
    """Tensorlake's path streams its own fields, each report once, until the end."""
    run = runs.begin()
    events = iter(EventClient(f"{server.url}/applications/app/requests/{run.id}/progress"))
    run.report(1, 2, "one")
    first = next(events)
    assert "event" not in first
    assert (first["data"]["current"], first["data"]["message"]) == (1, "one")
    assert isinstance(first["data"]["timestamp"], int)
    run.report(2, 2, "two")
    assert next(events)["data"]["current"] == 2
    run.succeed()
    assert list(events) == []
