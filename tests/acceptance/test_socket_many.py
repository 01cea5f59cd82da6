"""One socket for many executions, on every server."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import websocket

from tests.acceptance.test_socket import APP, PREFIX, SocketClient, viewers_of
from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.processes import WebServer
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

RESTRICTED_APP = "tests.acceptance.apps.streams:create_restricted_app()"


@pytest.fixture(scope="module")
def backend() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server.keep()


@pytest.fixture(scope="module", params=["gevent", "gthread", "dev"])
def server(request: pytest.FixtureRequest, backend: ValkeyServer) -> Iterator[WebServer]:
    with WebServer(request.param, APP, env={"STREAMS_BACKEND": backend.url}) as server:
        yield server.keep()
        assert "Traceback" not in server.log()


@pytest.fixture
def runs(backend: ValkeyServer) -> FakeWorker:
    return FakeWorker.on(backend.url)


class MultiClient:
    """A client of the socket for many executions."""

    def __init__(self, server: WebServer, ticket: str = "", **options: Any) -> None:
        url = f"{server.ws_url}/api/v1/progress/ws?ticket={ticket}"
        self.socket = websocket.create_connection(url, timeout=60, **options)

    def send(self, **commands: Any) -> None:
        self.socket.send(json.dumps(commands))

    def next(self) -> Any:
        return json.loads(self.socket.recv())


def test_one_socket_delivers_many_executions(server: WebServer, runs: FakeWorker) -> None:
    """Each subscription starts with ``status``; the socket is one viewer and outlives every end."""
    executions = [runs.begin() for _ in range(3)]
    viewer = MultiClient(server)
    viewer.send(subscribe=[run.id for run in executions])
    opened = [viewer.next() for _ in executions]
    assert {frame["execution_id"] for frame in opened} == {run.id for run in executions}
    assert {frame["type"] for frame in opened} == {"status"}
    until(lambda: viewers_of(server) == 1)  # earlier viewers may leave a moment later
    for run in executions:
        run.report(1, 2)
        frame = viewer.next()
        assert (frame["type"], frame["execution_id"]) == ("progress", run.id)
    executions[0].succeed("first")
    assert viewer.next()["outputs"] == "first"
    viewer.send(subscribe=[executions[1].id])  # already subscribed
    viewer.send(unsubscribe=[executions[1].id])
    viewer.send(subscribe=["unknown"])
    assert viewer.next()["code"] == "not_found"  # so the messages before are processed
    executions[1].report(2, 2)
    executions[2].report(2, 2)
    assert viewer.next()["execution_id"] == executions[2].id
    viewer.socket.close()
    until(lambda: viewers_of(server) == 0)


def test_close_ends_all_subscriptions(
    server: WebServer, runs: FakeWorker, backend: ValkeyServer
) -> None:
    """A closed socket ends its subscriptions upstream; an execution's end ends its own before."""
    executions = [runs.begin() for _ in range(5)]
    viewer = MultiClient(server)
    viewer.send(subscribe=[run.id for run in executions])
    for _ in executions:
        viewer.next()
    until(lambda: watched(backend, executions) == 5)
    executions[0].succeed()
    assert viewer.next()["type"] == "completed"
    until(lambda: watched(backend, executions) == 4)
    viewer.socket.close()
    until(lambda: watched(backend, executions) == 0)


def test_socket_needs_a_token(own_valkey: ValkeyServer) -> None:
    """With tokens configured, a socket without one gets 4401."""
    with WebServer(
        "gevent", APP, env={"STREAMS_BACKEND": own_valkey.url, "HEADWAY_TOKENS": "sesame"}
    ) as server:
        opcode, data = MultiClient(server).socket.recv_data()
        assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 4401)
        run = FakeWorker.on(own_valkey.url).begin()
        viewer = MultiClient(server, header=["Authorization: Bearer sesame"])
        viewer.send(subscribe=[run.id])
        assert viewer.next()["type"] == "status"


def test_subscriptions_outlive_the_ticket(own_valkey: ValkeyServer) -> None:
    """A ticket opens the socket only: after it has expired, its client may still subscribe."""
    env = {
        "STREAMS_BACKEND": own_valkey.url,
        "HEADWAY_TOKENS": "sesame",
        "HEADWAY_TICKET_LIFETIME": "3",
    }
    with WebServer("gevent", APP, env=env) as server:
        run = FakeWorker.on(own_valkey.url).begin()

        def open_with_ticket() -> tuple[str, MultiClient] | None:
            """A ticket and its client; None if the ticket expired on the way."""
            response = requests.post(
                f"{server.url}/api/v1/tickets",
                headers={"Authorization": "Bearer sesame"},
                timeout=60,
            )
            viewer = MultiClient(server, response.json()["ticket"])
            return None if is_refused(viewer) else (response.json()["ticket"], viewer)

        def is_refused(viewer: MultiClient) -> bool:
            # A refused connection may be closed already; its close frame can still be read.
            with contextlib.suppress(OSError):
                viewer.send(subscribe=["unknown"])
            while (frame := viewer.socket.recv_frame()).opcode == websocket.ABNF.OPCODE_PING:
                pass  # the server of this app pings
            if frame.opcode != websocket.ABNF.OPCODE_CLOSE:
                return False
            assert int.from_bytes(frame.data[:2], "big") == 4401
            viewer.socket.shutdown()
            return True

        def expired() -> bool:
            late = MultiClient(server, ticket)
            if is_refused(late):
                return True
            late.socket.close()
            return False

        ticket, viewer = until(open_with_ticket, what="a ticket to be used in its time")
        until(expired)
        viewer.send(subscribe=[run.id])
        assert viewer.next()["type"] == "status"
        viewer.socket.close()


def test_authorize_decides_per_execution(own_valkey: ValkeyServer) -> None:
    """``authorize`` decides for each execution, on every transport."""
    runs = FakeWorker.on(own_valkey.url)
    allowed, forbidden = runs.begin(), runs.begin()
    env = {"STREAMS_BACKEND": own_valkey.url, "STREAMS_ALLOWED": allowed.id}
    with WebServer("gevent", RESTRICTED_APP, env=env) as server:
        viewer = MultiClient(server)
        viewer.send(subscribe=[forbidden.id])
        refusal = viewer.next()
        assert (refusal["type"], refusal["code"], refusal["execution_id"]) == (
            "error",
            "not_allowed",
            forbidden.id,
        )
        viewer.send(subscribe=[allowed.id, forbidden.id])
        frames = {frame["execution_id"]: frame for frame in (viewer.next(), viewer.next())}
        assert frames[allowed.id]["type"] == "status"
        assert frames[forbidden.id]["code"] == "not_allowed"
        forbidden.report(1, 2)
        allowed.report(1, 2)
        frame = viewer.next()
        assert (frame["type"], frame["execution_id"]) == ("progress", allowed.id)
        viewer.socket.close()

        assert SocketClient(server, forbidden.id).read_to_close()[:2] == ([], 4403)
        single = SocketClient(server, allowed.id)
        assert single.next()["type"] == "status"
        single.socket.close()

        def events(run: FakeExecution) -> int:
            url = f"{server.url}{PREFIX}/{run.id}/progress/events"
            with requests.get(url, stream=True, timeout=60) as response:
                return response.status_code

        assert events(forbidden) == 403
        assert events(allowed) == 200


def test_client_that_pings_and_never_reads_is_disconnected(server: WebServer) -> None:
    """A client that pings and never reads is disconnected, although it is never quiet."""
    viewer = MultiClient(server, sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
    until(lambda: viewers_of(server) == 1)

    def disconnected() -> bool:
        try:
            for _ in range(200):
                viewer.socket.ping("x" * 120)
        except OSError:
            return True
        return viewers_of(server) == 0

    until(disconnected, within=60)
    until(lambda: viewers_of(server) == 0)
    viewer.socket.shutdown()


def watched(backend: ValkeyServer, executions: list[Any]) -> int:
    """How many of these the server watches upstream."""
    channels = backend.command("PUBSUB", "CHANNELS")
    return sum(any(run.id.encode() in channel for channel in channels) for run in executions)
