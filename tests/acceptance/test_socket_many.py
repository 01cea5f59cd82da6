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

from tests.acceptance.test_socket import APP, PREFIX, Watching, viewers_of
from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.processes import WebServer
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

CHOOSY_APP = "tests.acceptance.apps.streams:create_choosy_app()"


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


class Many:
    """A viewer of many."""

    def __init__(self, server: WebServer, ticket: str = "", **options: Any) -> None:
        url = f"{server.ws_url}/api/v1/progress/ws?ticket={ticket}"
        self.socket = websocket.create_connection(url, timeout=60, **options)

    def say(self, **orders: Any) -> None:
        self.socket.send(json.dumps(orders))

    def next(self) -> Any:
        return json.loads(self.socket.recv())


def test_many_over_one_socket(server: WebServer, runs: FakeWorker) -> None:
    """Each execution that is asked for gives its frames, ``status`` first; the socket takes one
    seat and outlives their ends.
    """
    some = [runs.begin() for _ in range(3)]
    viewer = Many(server)
    viewer.say(subscribe=[run.id for run in some])
    opened = [viewer.next() for _ in some]
    assert {frame["execution_id"] for frame in opened} == {run.id for run in some}
    assert {frame["type"] for frame in opened} == {"status"}
    until(lambda: viewers_of(server) == 1)  # the seats of others may be given back a moment later
    for run in some:
        run.report(1, 2)
        frame = viewer.next()
        assert (frame["type"], frame["execution_id"]) == ("progress", run.id)
    some[0].succeed("first")
    assert viewer.next()["outputs"] == "first"
    viewer.say(subscribe=[some[1].id])  # again: nothing new
    viewer.say(unsubscribe=[some[1].id])
    viewer.say(subscribe=["nobody"])
    assert viewer.next()["code"] == "not_found"  # so the others were worked off
    some[1].report(2, 2)
    some[2].report(2, 2)
    assert viewer.next()["execution_id"] == some[2].id
    viewer.socket.close()
    until(lambda: viewers_of(server) == 0)


def test_nothing_is_watched_afterwards(
    server: WebServer, runs: FakeWorker, backend: ValkeyServer
) -> None:
    """When the socket goes, so do its subscriptions upstream; an execution's end takes its own
    along before that.
    """
    some = [runs.begin() for _ in range(5)]
    viewer = Many(server)
    viewer.say(subscribe=[run.id for run in some])
    for _ in some:
        viewer.next()
    until(lambda: watched(backend, some) == 5)
    some[0].succeed()
    assert viewer.next()["type"] == "completed"
    until(lambda: watched(backend, some) == 4)
    viewer.socket.close()
    until(lambda: watched(backend, some) == 0)


def test_tokens(own_valkey: ValkeyServer) -> None:
    """The lock is the same as everywhere: no token, 4401."""
    with WebServer(
        "gevent", APP, env={"STREAMS_BACKEND": own_valkey.url, "HEADWAY_TOKENS": "sesame"}
    ) as server:
        opcode, data = Many(server).socket.recv_data()
        assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 4401)
        run = FakeWorker.on(own_valkey.url).begin()
        viewer = Many(server, header=["Authorization: Bearer sesame"])
        viewer.say(subscribe=[run.id])
        assert viewer.next()["type"] == "status"


def test_a_ticket_opens_the_socket_and_no_more(own_valkey: ValkeyServer) -> None:
    """Who came in by a ticket goes on subscribing after the ticket has expired: it was to open the
    socket only.
    """
    env = {
        "STREAMS_BACKEND": own_valkey.url,
        "HEADWAY_TOKENS": "sesame",
        "HEADWAY_TICKET_LIFETIME": "3",
    }
    with WebServer("gevent", APP, env=env) as server:
        run = FakeWorker.on(own_valkey.url).begin()

        def let_in() -> tuple[str, Many] | None:
            """A ticket and who came in by it; None where it expired on the way."""
            answer = requests.post(
                f"{server.url}/api/v1/tickets",
                headers={"Authorization": "Bearer sesame"},
                timeout=60,
            )
            viewer = Many(server, answer.json()["ticket"])
            return None if is_refused(viewer) else (answer.json()["ticket"], viewer)

        def is_refused(viewer: Many) -> bool:
            with contextlib.suppress(
                OSError
            ):  # it was refused, and is gone: what is left to read says how
                viewer.say(subscribe=["nobody"])
            while (frame := viewer.socket.recv_frame()).opcode == websocket.ABNF.OPCODE_PING:
                pass  # the test app asks for those
            if frame.opcode != websocket.ABNF.OPCODE_CLOSE:
                return False
            assert int.from_bytes(frame.data[:2], "big") == 4401
            viewer.socket.shutdown()
            return True

        def expired() -> bool:
            late = Many(server, ticket)
            if is_refused(late):
                return True
            late.socket.close()
            return False

        ticket, viewer = until(let_in, what="a ticket to be used in its time")
        until(expired)
        viewer.say(subscribe=[run.id])
        assert viewer.next()["type"] == "status"
        viewer.socket.close()


def test_the_app_is_asked_about_each(own_valkey: ValkeyServer) -> None:
    """The app's rule decides on each execution, however it is watched: what it forbids is refused,
    what it allows streams.
    """
    runs = FakeWorker.on(own_valkey.url)
    allowed, forbidden = runs.begin(), runs.begin()
    env = {"STREAMS_BACKEND": own_valkey.url, "STREAMS_ALLOWED": allowed.id}
    with WebServer("gevent", CHOOSY_APP, env=env) as server:
        viewer = Many(server)
        viewer.say(subscribe=[forbidden.id])
        refusal = viewer.next()
        assert (refusal["type"], refusal["code"], refusal["execution_id"]) == (
            "error",
            "not_allowed",
            forbidden.id,
        )
        viewer.say(subscribe=[allowed.id, forbidden.id])
        frames = {frame["execution_id"]: frame for frame in (viewer.next(), viewer.next())}
        assert frames[allowed.id]["type"] == "status"
        assert frames[forbidden.id]["code"] == "not_allowed"
        forbidden.report(1, 2)
        allowed.report(1, 2)
        frame = viewer.next()
        assert (frame["type"], frame["execution_id"]) == ("progress", allowed.id)
        viewer.socket.close()

        assert Watching(server, forbidden.id).rest()[:2] == ([], 4403)
        single = Watching(server, allowed.id)
        assert single.next()["type"] == "status"
        single.socket.close()

        def events(run: FakeExecution) -> int:
            url = f"{server.url}{PREFIX}/{run.id}/progress/events"
            with requests.get(url, stream=True, timeout=60) as answer:
                return answer.status_code

        assert events(forbidden) == 403
        assert events(allowed) == 200


def test_one_that_pings_and_never_reads(server: WebServer) -> None:
    """A viewer that has us answer without end, and reads no answer, loses its place though it is
    never quiet.
    """
    viewer = Many(server, sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
    until(lambda: viewers_of(server) == 1)

    def cut_off() -> bool:
        try:
            for _ in range(200):
                viewer.socket.ping("x" * 120)
        except OSError:
            return True
        return viewers_of(server) == 0

    until(cut_off, within=60)
    until(lambda: viewers_of(server) == 0)
    viewer.socket.shutdown()


def watched(backend: ValkeyServer, some: list[Any]) -> int:
    """How many of these the server watches upstream."""
    channels = backend.command("PUBSUB", "CHANNELS")
    return sum(any(run.id.encode() in channel for channel in channels) for run in some)
