"""The socket when something is wrong: the backend away, a viewer that doesn't read, too many of
them, a server that goes down.
"""

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

from tests.acceptance.test_socket import APP, PREFIX, Watching, kinds, viewers_of
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
    """A server with settings of its own."""
    return WebServer(kind, APP, env={"STREAMS_BACKEND": backend.url, **settings}, args=args)


def test_backend_away_and_back(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """An outage is one ``error`` frame "unavailable"; the socket stays, and gets a fresh ``status``
    and the rest afterwards.
    """
    with serve("gevent", own_valkey) as server:
        run = runs.begin().report(1, 10)
        viewer = Watching(server, run.id)
        assert viewer.next()["type"] == "status"
        own_valkey.stop()
        frame = viewer.next()
        assert (frame["type"], frame["code"], frame["execution_id"]) == (
            "error",
            "unavailable",
            run.id,
        )
        late = Watching(server, run.id)
        assert late.next()["code"] == "unavailable"
        own_valkey.start()
        run.report(7, 10)
        for each in (viewer, late):
            frames = [each.next()]
            while (
                frames[-1]["progress"]["current"] != 7
            ):  # the fresh status may have come before the report
                frames.append(each.next())
            assert frames[0]["type"] == "status"
            assert set(kinds(frames[1:])) <= {"progress"}
        run.succeed()
        for each in (viewer, late):
            frames, code, _ = each.rest()
            assert (kinds(frames), code) == (["completed"], 1000)


def test_an_end_while_the_feed_is_away(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """The end that nobody could hear of is told after the feed's reconnect: nothing is lost over
    it.
    """
    with serve("gevent", own_valkey) as server:
        run = runs.begin().report(1, 10)
        viewer = Watching(server, run.id)
        assert viewer.next()["type"] == "status"
        with own_valkey.client() as client, client.pipeline(transaction=True) as together:
            together.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
            together.execute()
        run.succeed("all of it")
        frames, code, _ = viewer.rest()
        # The second where the hub looked by itself just then, and saw the end before it heard of
        # the cut.
        assert kinds(frames) in (["error", "status", "completed"], ["completed"])
        assert frames[-1]["outputs"] == "all of it"
        assert code == 1000


def test_slow_viewer_is_merged_to_the_newest(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """To a viewer that reads late, reports are merged to the newest and the end isn't dropped;
    another viewer doesn't wait.
    """
    with serve(
        kind, own_valkey, HEADWAY_PING_INTERVAL="600"
    ) as server:  # else one that reads as late as this may be cut off
        run = runs.begin()
        slow = Watching(server, run.id, sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
        quick = Watching(server, run.id)
        assert slow.next()["type"] == quick.next()["type"] == "status"
        total = 1000
        for number in range(1, total + 1):
            run.report(number, total, "x" * 1900)
            if number % 50 == 0:
                while quick.next()["progress"]["current"] != number:
                    pass
        run.succeed("the end")
        assert quick.rest()[1] == 1000
        frames, code, _ = slow.rest()
        assert code == 1000
        assert kinds(frames)[-1] == "completed"
        assert frames[-1]["outputs"] == "the end"
        seen = [frame["progress"]["current"] for frame in frames[:-1]]
        assert seen == sorted(set(seen))
        assert seen[-1] == total
        # What the kernel of either side holds is old; the rest is one.
        assert len(seen) < total // 4


def test_viewer_that_reads_nothing_is_cut_off(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """A viewer that neither reads nor answers a ping loses its place; one that does, though nothing
    happens, keeps it.
    """
    # So long that who answers is heard in time, though this process may have no turn for seconds.
    with serve(kind, own_valkey, HEADWAY_PING_INTERVAL="5") as server:
        run = runs.begin()
        frames: list[Any] = []
        answering = Watching(server, run.id)
        thread = threading.Thread(target=lambda: frames.extend(answering.rest()), daemon=True)
        thread.start()  # websocket-client answers pings while it reads
        deaf = Watching(server, run.id)
        assert deaf.next()["type"] == "status"  # both have a seat
        until(lambda: viewers_of(server) == 1, within=60)
        frame = deaf.socket.recv_frame()  # `recv` would answer the pings that wait
        while frame.opcode != websocket.ABNF.OPCODE_CLOSE:
            frame = deaf.socket.recv_frame()
        assert int.from_bytes(frame.data[:2], "big") == 4408, "its buffers had room for the close"
        run.succeed()
        thread.join(60)
        assert frames[1] == 1000


def test_viewer_with_a_full_buffer_is_cut_off(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """A viewer whose buffers are full and stay so is cut off as well, and what waited for it is
    given back.
    """
    # So long that the buffers are full before anybody could miss an answer.
    with serve(kind, own_valkey, HEADWAY_PING_INTERVAL="5") as server:
        run = runs.begin()
        stuck = Watching(server, run.id, sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),))
        assert stuck.next()["type"] == "status"
        for number in range(200):
            run.report(number, 200, "x" * 1900)
            if number % 20 == 0:
                stuck.socket.send("x")
        talk = itertools.count()

        def cut_off() -> bool:
            # It goes on talking, so that it is heard of though it doesn't read.
            if next(talk) % 50 == 0:
                with contextlib.suppress(OSError):
                    stuck.socket.send("x")
            return viewers_of(server) == 0

        until(cut_off, within=60)
        with pytest.raises(
            (websocket.WebSocketConnectionClosedException, ConnectionResetError, AssertionError)
        ):
            stuck.rest()


def test_too_many_viewers(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """Beyond the limit a viewer gets 1013, REST still answers, and a place that is left can be
    taken again.
    """
    with serve("gevent", own_valkey, HEADWAY_MAX_VIEWERS="3") as server:
        run = runs.begin()
        viewers = [Watching(server, run.id) for _ in range(3)]
        for viewer in viewers:
            viewer.next()
        frames, code, _ = Watching(server, run.id).rest()
        assert (frames, code) == ([], 1013)
        held = requests.get(f"{server.url}{PREFIX}/{run.id}/progress?wait=5", timeout=60)
        assert held.status_code == 429
        assert requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60).status_code == 200
        viewers[0].socket.close()
        until(lambda: viewers_of(server) == 2)
        assert Watching(server, run.id).next()["type"] == "status"


def test_the_limit_lies_below_what_threads_can_hold(
    own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """With 8 threads there are seats for 6, whatever was asked for: REST is never starved of the
    last threads.
    """
    with serve("gthread", own_valkey, "--threads", "8", HEADWAY_MAX_VIEWERS="100") as server:
        run = runs.begin()
        viewers = [Watching(server, run.id) for _ in range(6)]
        for viewer in viewers:
            assert viewer.next()["type"] == "status"
        assert Watching(server, run.id).rest()[1] == 1013
        assert requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60).status_code == 200


def test_tokens(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """Where tokens are set, a socket without one is closed with 4401; with one, or with a ticket,
    it is let in.
    """
    with serve("gthread", own_valkey, HEADWAY_TOKENS="sesame") as server:
        run = runs.begin()
        assert Watching(server, run.id).rest()[:2] == ([], 4401)
        assert Watching(server, run.id, header=["Authorization: Bearer wrong"]).rest()[1] == 4401
        assert (
            Watching(server, run.id, header=["Authorization: Bearer sesame"]).next()["type"]
            == "status"
        )
        answer = requests.post(
            f"{server.url}/api/v1/tickets", headers={"Authorization": "Bearer sesame"}, timeout=60
        )
        url = f"{server.ws_url}{PREFIX}/{run.id}/progress/ws?ticket={answer.json()['ticket']}"
        with_ticket = websocket.create_connection(url, timeout=60)
        assert json.loads(with_ticket.recv())["type"] == "status"


def test_not_allowed(own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """Whoever may not look is closed with 4403: here a viewer that came through a proxy to a server
    without tokens.
    """
    with serve("dev", own_valkey) as server:
        run = runs.begin()
        assert Watching(server, run.id, header=["X-Forwarded-For: 192.0.2.1"]).rest()[:2] == (
            [],
            4403,
        )


# Going down


def gone(viewer: Watching) -> tuple[list[str], int | None]:
    """The frames' types and the close code."""
    frames, code, _ = viewer.rest()
    return kinds(frames), code


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_term_ends_with_1012(kind: Any, own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """gunicorn's TERM: viewers get 1012, event streams and held polls end, and the graceful timeout
    isn't sat out.
    """
    with serve(kind, own_valkey, "--graceful-timeout", "60") as server:
        run = runs.begin().report(1, 2)
        viewers = [Watching(server, run.id) for _ in range(3)]
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
            assert gone(viewer) == ([], 1012)
        assert b"event: status" in events.content  # read to its end
        thread.join(60)
        assert held[0].status_code == 304
        assert server.wait() == 0


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_hup_ends_with_1012_and_serves_on(
    kind: Any, own_valkey: ValkeyServer, runs: FakeWorker
) -> None:
    """gunicorn's HUP (a new deployment): viewers get 1012, and who comes back is served by the new
    worker.
    """
    with serve(kind, own_valkey, "--graceful-timeout", "60") as server:
        run = runs.begin().report(1, 2)
        viewer = Watching(server, run.id)
        assert viewer.next()["type"] == "status"
        server.kill(signal.SIGHUP)
        assert gone(viewer) == ([], 1012)

        def served() -> bool:
            # The old worker still accepts for a moment, and sends away whom it gets, or ends before
            # it reads a word.
            try:
                opcode, data = Watching(server, run.id).socket.recv_data()
            except (OSError, websocket.WebSocketException):
                return False
            return (
                opcode == websocket.ABNF.OPCODE_TEXT
                and json.loads(data)["progress"]["current"] == 1
            )

        until(served, within=60)


@pytest.mark.parametrize("kind", ["gevent", "gthread"])
def test_max_requests_ends_with_1012(kind: Any, own_valkey: ValkeyServer, runs: FakeWorker) -> None:
    """gunicorn's ``max_requests``: a worker that is replaced sends its viewers away."""
    with serve(kind, own_valkey, "--graceful-timeout", "60", "--max-requests", "20") as server:
        run = runs.begin().report(1, 2)
        viewer = Watching(server, run.id)
        assert viewer.next()["type"] == "status"
        for _ in range(20):
            with contextlib.suppress(
                requests.ConnectionError
            ):  # gunicorn may drop whom it accepted last
                requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60)
        assert gone(viewer) == ([], 1012)
