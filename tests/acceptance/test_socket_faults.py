"""WebSockets during outages, with slow clients, at the viewer limit, and when the server stops."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import threading
from typing import Any, Literal

import pytest
import requests
import websocket

from tests.acceptance.test_socket import APP, PREFIX, SocketClient, kinds, viewers_of
from tests.support.fake_worker import FakeWorker
from tests.support.processes import WebServer
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

KINDS = ["gevent", "gthread", "dev"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def runs(own_valkey: ValkeyServer) -> FakeWorker:
    return FakeWorker.on(own_valkey.url)


def serve(
    kind: Literal["gevent", "gthread", "dev"], backend: ValkeyServer, *args: str, **settings: str
) -> WebServer:
    """A server with its own settings."""
    return WebServer(kind, APP, env={"STREAMS_BACKEND": backend.url, **settings}, args=args)


def test_outage_is_error_then_status(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """An outage is one ``error`` frame; the socket stays, and gets ``status`` and the changes."""
    with serve("gevent", own_valkey) as server:
        run = runs.begin().report(1, 10)
        viewer = SocketClient(server, run.id)
        assert viewer.next()["type"] == "status"
        own_valkey.stop()
        frame = viewer.next()
        assert (frame["type"], frame["code"], frame["execution_id"]) == (
            "error",
            "unavailable",
            run.id,
        )
        late = SocketClient(server, run.id)
        assert late.next()["code"] == "unavailable"
        own_valkey.start()
        run.report(7, 10)
        for each in (viewer, late):
            frames = [each.next()]
            # The new status may precede the report.
            while frames[-1]["progress"]["current"] != 7:
                frames.append(each.next())
            assert frames[0]["type"] == "status"
            assert set(kinds(frames[1:])) <= {"progress"}
        run.succeed()
        for each in (viewer, late):
            frames, code, _ = each.read_to_close()
            assert (kinds(frames), code) == (["completed"], 1000)


def test_end_during_feed_outage_is_delivered(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """An end that the feed has missed is delivered after its reconnect."""
    with serve("gevent", own_valkey) as server:
        run = runs.begin().report(1, 10)
        viewer = SocketClient(server, run.id)
        assert viewer.next()["type"] == "status"
        with own_valkey.client() as client, client.pipeline(transaction=True) as pipeline:
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
            pipeline.execute()
        run.succeed("all of it")
        frames, code, _ = viewer.read_to_close()
        # The latter if a sweep found the end before the hub noticed the outage.
        assert kinds(frames) in (["error", "status", "completed"], ["completed"])
        assert frames[-1]["outputs"] == "all of it"
        assert code == 1000


def test_reports_to_a_slow_client_are_merged(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """To a client that reads late, reports are merged, and the end is not dropped; another client
    does not wait.
    """
    # A long interval: otherwise a client that reads so late may be disconnected.
    with serve(kind, own_valkey, HEADWAY_PING_INTERVAL="600") as server:
        run = runs.begin()
        slow = SocketClient(server, run.id, sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
        fast = SocketClient(server, run.id)
        assert slow.next()["type"] == fast.next()["type"] == "status"
        total = 1000
        for number in range(1, total + 1):
            run.report(number, total, "x" * 1900)
            if number % 50 == 0:
                while fast.next()["progress"]["current"] != number:
                    pass
        run.succeed("the end")
        assert fast.read_to_close()[1] == 1000
        frames, code, _ = slow.read_to_close()
        assert code == 1000
        assert kinds(frames)[-1] == "completed"
        assert frames[-1]["outputs"] == "the end"
        seen = [frame["progress"]["current"] for frame in frames[:-1]]
        assert seen == sorted(set(seen))
        assert seen[-1] == total
        # The buffers of both kernels hold old reports; the rest was merged to one.
        assert len(seen) < total // 4


def test_client_that_ignores_pings_is_disconnected(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """A client that does not reply to pings gets 4408; a quiet one that replies stays."""
    # Long enough for replies to arrive in time even if this process is held up for seconds.
    with serve(kind, own_valkey, HEADWAY_PING_INTERVAL="5") as server:
        run = runs.begin()
        frames: list[Any] = []
        responsive = SocketClient(server, run.id)
        thread = threading.Thread(
            target=lambda: frames.extend(responsive.read_to_close()), daemon=True
        )
        thread.start()  # websocket-client answers pings while it reads
        unresponsive = SocketClient(server, run.id)
        assert unresponsive.next()["type"] == "status"  # both are connected
        until(lambda: viewers_of(server) == 1, within=60)
        frame = unresponsive.socket.recv_frame()  # `recv` would reply to the waiting pings
        while frame.opcode != websocket.ABNF.OPCODE_CLOSE:
            frame = unresponsive.socket.recv_frame()
        assert int.from_bytes(frame.data[:2], "big") == 4408, "its buffers had room for the close"
        run.succeed()
        thread.join(60)
        assert frames[1] == 1000


def test_client_with_full_buffers_is_disconnected(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """A client whose buffers stay full is disconnected, and what waited for it is freed."""
    # Long enough to fill the buffers before a pong could be missed.
    with serve(kind, own_valkey, HEADWAY_PING_INTERVAL="5") as server:
        run = runs.begin()
        stuck = SocketClient(server, run.id, sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
        assert stuck.next()["type"] == "status"
        for number in range(200):
            run.report(number, 200, "x" * 1900)
            if number % 20 == 0:
                stuck.socket.send("x")
        attempts = itertools.count()

        def disconnected() -> bool:
            # It keeps sending, so that only its reading shows that it is stuck.
            if next(attempts) % 50 == 0:
                with contextlib.suppress(OSError):
                    stuck.socket.send("x")
            return viewers_of(server) == 0

        until(disconnected, within=60)
        with pytest.raises(
            (websocket.WebSocketConnectionClosedException, ConnectionResetError, AssertionError)
        ):
            stuck.read_to_close()


def test_viewer_beyond_the_limit_gets_1013(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """Beyond the limit a viewer gets 1013 and REST still works; a free slot can be taken."""
    with serve("gevent", own_valkey, HEADWAY_MAX_VIEWERS="3") as server:
        run = runs.begin()
        viewers = [SocketClient(server, run.id) for _ in range(3)]
        for viewer in viewers:
            viewer.next()
        frames, code, _ = SocketClient(server, run.id).read_to_close()
        assert (frames, code) == ([], 1013)
        held = requests.get(f"{server.url}{PREFIX}/{run.id}/progress?wait=5", timeout=60)
        assert held.status_code == 429
        assert requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60).status_code == 200
        viewers[0].socket.close()
        until(lambda: viewers_of(server) == 2)
        assert SocketClient(server, run.id).next()["type"] == "status"


def test_limit_leaves_threads_for_rest(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """Of 8 threads 6 serve viewers, whatever the setting: REST always has threads."""
    with serve("gthread", own_valkey, "--threads", "8", HEADWAY_MAX_VIEWERS="100") as server:
        run = runs.begin()
        viewers = [SocketClient(server, run.id) for _ in range(6)]
        for viewer in viewers:
            assert viewer.next()["type"] == "status"
        assert SocketClient(server, run.id).read_to_close()[1] == 1013
        assert requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60).status_code == 200


def test_socket_needs_token_or_ticket(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """With tokens configured, a socket without one gets 4401; a token or a ticket is accepted."""
    with serve("gthread", own_valkey, HEADWAY_TOKENS="sesame") as server:
        run = runs.begin()
        assert SocketClient(server, run.id).read_to_close()[:2] == ([], 4401)
        assert (
            SocketClient(server, run.id, header=["Authorization: Bearer wrong"]).read_to_close()[1]
            == 4401
        )
        assert (
            SocketClient(server, run.id, header=["Authorization: Bearer sesame"]).next()["type"]
            == "status"
        )
        response = requests.post(
            f"{server.url}/api/v1/tickets", headers={"Authorization": "Bearer sesame"}, timeout=60
        )
        url = f"{server.ws_url}{PREFIX}/{run.id}/progress/ws?ticket={response.json()['ticket']}"
        with_ticket = websocket.create_connection(url, timeout=60)
        assert json.loads(with_ticket.recv())["type"] == "status"


def test_forbidden_viewer_gets_4403(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """Without tokens, a viewer that comes through a proxy gets 4403."""
    with serve("dev", own_valkey) as server:
        run = runs.begin()
        assert SocketClient(server, run.id, header=["X-Forwarded-For: 192.0.2.1"]).read_to_close()[
            :2
        ] == (
            [],
            4403,
        )


# Going down


def types_and_code(viewer: SocketClient) -> tuple[list[str], int | None]:
    """The types of the frames, and the close code."""
    frames, code, _ = viewer.read_to_close()
    return kinds(frames), code


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_sigterm_ends_streams_with_1012(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """SIGTERM: WebSockets get 1012, and all streams end within the graceful timeout."""
    with serve(kind, own_valkey, "--graceful-timeout", "60") as server:
        run = runs.begin().report(1, 2)
        viewers = [SocketClient(server, run.id) for _ in range(3)]
        for viewer in viewers:
            assert viewer.next()["type"] == "status"
        events = requests.get(
            f"{server.url}{PREFIX}/{run.id}/progress/events", stream=True, timeout=60
        )
        held: list[requests.Response] = []
        etag = requests.get(f"{server.url}{PREFIX}/{run.id}/progress", timeout=60).headers["ETag"]
        url = f"{server.url}{PREFIX}/{run.id}/progress?wait=30"
        thread = threading.Thread(
            target=lambda: held.append(
                requests.get(url, headers={"If-None-Match": etag}, timeout=60)
            )
        )
        thread.start()
        until(lambda: viewers_of(server) == 5)
        server.kill(signal.SIGTERM)
        for viewer in viewers:
            assert types_and_code(viewer) == ([], 1012)
        assert b"event: status" in events.content  # reads to the end
        thread.join(60)
        assert held[0].status_code == 304
        assert server.wait() == 0


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_sighup_ends_streams_and_serves_again(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """SIGHUP (a new deployment): viewers get 1012, and the new worker serves their reconnects."""
    with serve(kind, own_valkey, "--graceful-timeout", "60") as server:
        run = runs.begin().report(1, 2)
        viewer = SocketClient(server, run.id)
        assert viewer.next()["type"] == "status"
        server.kill(signal.SIGHUP)
        assert types_and_code(viewer) == ([], 1012)

        def served() -> bool:
            # The old worker still accepts connections for a moment, and ends them with 1012 or
            # without a response.
            try:
                opcode, data = SocketClient(server, run.id).socket.recv_data()
            except (OSError, websocket.WebSocketException):
                return False
            return (
                opcode == websocket.ABNF.OPCODE_TEXT
                and json.loads(data)["progress"]["current"] == 1
            )

        until(served, within=60)


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_max_requests_ends_streams_with_1012(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """``max_requests``: a worker that is replaced ends its streams with 1012."""
    with serve(kind, own_valkey, "--graceful-timeout", "60", "--max-requests", "20") as server:
        run = runs.begin().report(1, 2)
        viewer = SocketClient(server, run.id)
        assert viewer.next()["type"] == "status"
        for _ in range(20):
            # gunicorn may drop the connections that it accepted last.
            with contextlib.suppress(requests.ConnectionError):
                requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60)
        assert types_and_code(viewer) == ([], 1012)
