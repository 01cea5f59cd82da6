"""The WebSocket of the contract's section 4, word for word, on every server, with real clients."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
import websocket
import websockets
from websockets.sync.client import connect as connect_websockets

from headway.server.streams.websocket import FLOOD_LIMIT, SocketViewer
from tests.support.fake_worker import FakeWorker
from tests.support.processes import WebServer
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

APP = "tests.acceptance.apps.streams:create_app()"
PREFIX = "/api/v1/executions"


class Watching:
    """A viewer over websocket-client: the library of the seed document."""

    def __init__(self, server: WebServer, execution_id: str, **options: Any) -> None:
        url = f"{server.ws_url}{PREFIX}/{execution_id}/progress/ws"
        self.socket = websocket.create_connection(url, timeout=60, **options)

    def next(self) -> Any:
        """The next frame."""
        return json.loads(self.socket.recv())

    def rest(self) -> tuple[list[Any], int | None, str]:
        """All frames up to the close, its code and its reason; the connection must be shut right
        after it.
        """
        frames: list[Any] = []
        while True:
            frame = self.socket.recv_frame()
            with contextlib.suppress(
                OSError
            ):  # the server has waited long enough for this word, and gone: what it said is here
                if frame.opcode == websocket.ABNF.OPCODE_PING:
                    self.socket.pong(frame.data)
                elif frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                    self.socket.send_close()
            if frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                # Not one byte may follow, an HTTP response least of all (web fact 2).
                assert self.socket.sock.recv(1000) == b""
                self.socket.shutdown()
                return (
                    frames,
                    struct.unpack("!H", frame.data[:2])[0] if frame.data else None,
                    frame.data[2:].decode(),
                )
            if frame.opcode == websocket.ABNF.OPCODE_TEXT:
                frames.append(json.loads(frame.data))


def kinds(frames: list[Any]) -> list[str]:
    return [frame["type"] for frame in frames]


@pytest.fixture(scope="module")
def backend() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server.keep()


@pytest.fixture(scope="module", params=["gevent", "gthread", "dev"])
def server(request: pytest.FixtureRequest, backend: ValkeyServer) -> Iterator[WebServer]:
    with WebServer(request.param, APP, env={"STREAMS_BACKEND": backend.url}) as server:
        yield server.keep()
        assert "Traceback" not in server.log()


@pytest.fixture(scope="module")
def runs(backend: ValkeyServer) -> FakeWorker:
    return FakeWorker.on(backend.url)


def test_from_publish_to_completed(server: WebServer, runs: FakeWorker) -> None:
    """A viewer is told ``status``, ``started``, each progress and ``completed``, then the socket
    closes with 1000.
    """
    run = runs.publish()
    viewer = Watching(server, run.id)
    first = viewer.next()
    assert (first["type"], first["execution_id"], first["status"], first["phase"]) == (
        "status",
        run.id,
        "pending",
        "queued",
    )
    assert first["progress"] is None
    assert first["timestamp"].endswith("Z")
    run.open()
    started = viewer.next()
    assert (started["type"], started["status"]) == ("started", "running")
    for number in range(1, 4):
        run.report(number, 3, f"step {number}", {"bad": "0"})
        frame = viewer.next()
        assert (frame["type"], frame["progress"]["current_step"], frame["progress"]["message"]) == (
            "progress",
            number,
            f"step {number}",
        )
    run.succeed({"rows": 3})
    frames, code, reason = viewer.rest()
    assert kinds(frames) == ["completed"]
    assert frames[0]["outputs"] == {"rows": 3}
    assert frames[0]["progress"]["percentage"] == 100.0
    assert (code, reason) == (1000, "Execution completed")


def test_already_terminal_at_connect(server: WebServer, runs: FakeWorker) -> None:
    """An execution that is over gives ``status``, the terminal frame and 1000 "Execution already
    completed".
    """
    run = runs.begin().fail()
    frames, code, reason = Watching(server, run.id).rest()
    assert kinds(frames) == ["status", "failed"]
    assert (code, reason) == (1000, "Execution already completed")


def test_unknown_id(server: WebServer) -> None:
    """An id that nobody published gives an ``error`` frame and 1008 "Execution not found"."""
    frames, code, reason = Watching(server, "nobody").rest()
    assert kinds(frames) == ["error"]
    assert frames[0]["code"] == "not_found"
    assert (code, reason) == (1008, "Execution not found")


def test_an_expired_execution(server: WebServer, runs: FakeWorker, backend: ValkeyServer) -> None:
    """One that was known and whose result is gone gives an ``error`` frame and 4410: not the 1008
    of one that never was.
    """
    run = runs.begin().succeed()
    backend.command("DEL", f"celery-task-meta-{run.id}")
    frames, code, reason = Watching(server, run.id).rest()
    assert kinds(frames) == ["error"]
    assert frames[0]["code"] == "expired"
    assert (code, reason) == (4410, "Execution has expired")
    assert requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60).status_code == 410


def test_websockets_library(server: WebServer, runs: FakeWorker) -> None:
    """The ``websockets`` library, which checks every byte of the closing, sees a clean 1000; sync
    and asyncio alike.
    """
    run = runs.begin()
    url = f"{server.ws_url}{PREFIX}/{run.id}/progress/ws"
    with connect_websockets(url, open_timeout=60, close_timeout=60) as viewer:
        assert json.loads(viewer.recv())["type"] == "status"
        run.report(1, 2).succeed()
        seen = [
            json.loads(message)["type"] for message in viewer
        ]  # raises unless the close is a normal one
        assert seen in (["progress", "completed"], ["completed"])
        assert viewer.close_code == 1000

    async def look() -> list[str]:
        async with websockets.connect(url, open_timeout=60, close_timeout=60) as late:
            return [json.loads(message)["type"] async for message in late]

    assert asyncio.run(look()) == ["status", "completed"]


def test_the_viewer_closes_first(server: WebServer, runs: FakeWorker) -> None:
    """A viewer that closes gets its close answered, and its place is free at once."""
    run = runs.begin()
    url = f"{server.ws_url}{PREFIX}/{run.id}/progress/ws"
    with connect_websockets(url, open_timeout=60, close_timeout=60) as viewer:
        viewer.recv()
        before = threads_of(server)
        viewer.close(1000, "enough")
        assert viewer.close_code == 1000
    until(lambda: viewers_of(server) == 0)
    if server.kind == "dev":  # the only one whose threads come and go with the viewers
        until(lambda: threads_of(server) < before)


def test_a_viewer_that_vanishes(server: WebServer, runs: FakeWorker) -> None:
    """A connection that breaks without a close frees its place at once."""
    run = runs.begin()
    viewer = Watching(server, run.id)
    viewer.next()
    viewer.socket.sock.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )  # a reset, not a goodbye
    viewer.socket.shutdown()
    until(lambda: viewers_of(server) == 0)


def test_many_viewers_of_one_execution(
    server: WebServer, runs: FakeWorker, backend: ValkeyServer
) -> None:
    """Twenty viewers cost one subscription, and each is told everything; afterwards there is none."""
    run = runs.begin()
    viewers = [Watching(server, run.id) for _ in range(20)]
    for viewer in viewers:
        assert viewer.next()["type"] == "status"
    channels = until(
        lambda: [name for name in backend.command("PUBSUB", "CHANNELS") if run.id.encode() in name]
    )
    assert len(channels) == 1
    assert backend.command("PUBSUB", "NUMSUB", channels[0])[1] == 1
    run.report(1, 2)
    for viewer in viewers:
        assert viewer.next()["progress"]["current"] == 1
    run.succeed()
    for viewer in viewers:
        frames, code, _ = viewer.rest()
        assert (kinds(frames), code) == (["completed"], 1000)
    until(lambda: backend.command("PUBSUB", "NUMSUB", channels[0])[1] == 0)


def test_large_frames_arrive_whole(server: WebServer, runs: FakeWorker) -> None:
    """Three ends of two megabytes each to a viewer that pings and reads late arrive whole, and its
    pongs between them.

    This is what came torn when simple-websocket wrote by itself (web fact 4). The one socket
    carries all three.
    """
    some = [runs.begin() for _ in range(3)]
    small = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),)
    viewer = websocket.create_connection(
        f"{server.ws_url}/api/v1/progress/ws", timeout=60, sockopt=small
    )
    viewer.send(json.dumps({"subscribe": [run.id for run in some]}))
    assert {json.loads(viewer.recv())["type"] for _ in some} == {"status"}
    for number, run in enumerate(some):
        run.succeed(f"{number}123456789" * 200_000)
        viewer.ping(f"ping {number}")
        until(
            lambda run=run: (
                requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60).json()["status"]
                == "completed"
            )
        )
    outputs: dict[str, str] = {}
    pongs: list[bytes] = []
    while len(outputs) < 3 or len(pongs) < 3:
        opcode, data = viewer.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_PONG:
            pongs.append(data)
        elif opcode == websocket.ABNF.OPCODE_TEXT:
            frame = json.loads(data)
            outputs[frame["execution_id"]] = frame["outputs"]
    assert outputs == {run.id: f"{number}123456789" * 200_000 for number, run in enumerate(some)}
    assert pongs == [b"ping 0", b"ping 1", b"ping 2"]
    viewer.close()


def test_what_a_viewer_sends_is_ignored(server: WebServer, runs: FakeWorker) -> None:
    """Small messages, pings and odd bytes from the viewer change nothing; a ping is answered."""
    run = runs.begin()
    viewer = Watching(server, run.id)
    viewer.next()
    viewer.socket.send("hello")
    viewer.socket.send_binary(b"\x00\xff")
    viewer.socket.ping("are you there")
    opcode, data = viewer.socket.recv_data(control_frame=True)
    while opcode != websocket.ABNF.OPCODE_PONG:  # the server pings too: the test app asks for that
        opcode, data = viewer.socket.recv_data(control_frame=True)
    assert data == b"are you there"
    run.succeed()
    frames, code, _ = viewer.rest()
    assert (kinds(frames), code) == (["completed"], 1000)


def test_a_message_that_is_too_large(server: WebServer, runs: FakeWorker) -> None:
    """A viewer that sends megabytes is closed with 1009, before they are kept."""
    viewer = Watching(server, runs.begin().id)
    viewer.next()
    # Its last byte is the one too many: what came behind the close would make a reset of it.
    viewer.socket.send("x" * (SocketViewer.max_message + 1))
    assert viewer.rest()[1] == 1009


def test_a_viewer_that_floods(server: WebServer, runs: FakeWorker) -> None:
    """A viewer that sends without end is closed with 4429."""
    viewer = Watching(server, runs.begin().id)
    viewer.next()
    # In one piece, which the server takes at once: what it found behind its close would make a
    # reset of that.
    message = websocket.ABNF.create_frame("x", websocket.ABNF.OPCODE_TEXT)
    viewer.socket.sock.sendall(b"".join(message.format() for _ in range(3 * FLOOD_LIMIT)))
    assert viewer.rest()[1] == 4429


def test_a_frame_that_breaks_the_protocol(server: WebServer, runs: FakeWorker) -> None:
    """Bytes that are no frame close with 1002, and the server goes on."""
    viewer = Watching(server, runs.begin().id)
    viewer.next()
    viewer.socket.sock.sendall(b"\xff\xff\xff\xff\xff\xff")
    assert viewer.rest()[1] == 1002


# Before the upgrade


def handshake(
    server: WebServer, *lines: str, path: str = f"{PREFIX}/x/progress/ws"
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a handshake made by hand."""
    host, port = server.address
    with socket.create_connection((host, port), timeout=60) as connection:
        request = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *lines, "", ""]
        connection.sendall("\r\n".join(request).encode())
        answer = b""
        while b"\r\n\r\n" not in answer and (more := connection.recv(65536)):
            answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *headers = head.decode().split("\r\n")
        named = dict(line.lower().split(": ", 1) for line in headers)
        while len(body) < int(named.get("content-length", 0)) and (more := connection.recv(65536)):
            body += more
        return int(status.split()[1]), named, body


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def test_broken_handshakes(server: WebServer) -> None:
    """A handshake that can't be one is answered in HTTP: 400 without a good key, 426 for another
    version or none at all.
    """
    assert handshake(server, *UPGRADE, "Sec-WebSocket-Version: 13")[0] == 400
    assert (
        handshake(server, *UPGRADE, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: abc")[0] == 400
    )
    status, headers, body = handshake(server, *UPGRADE, "Sec-WebSocket-Version: 8", KEY)
    assert (status, headers["sec-websocket-version"]) == (426, "13")
    assert json.loads(body)["status"] == 426
    status, headers, body = handshake(server)
    assert (status, headers["upgrade"]) == (426, "websocket")
    assert json.loads(body)["title"] == "Upgrade Required"


def test_foreign_origin(server: WebServer, runs: FakeWorker) -> None:
    """A page of another site gets HTTP 403 before the upgrade, the server's own page a socket."""
    run = runs.begin()
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        Watching(server, run.id, origin="https://evil.example")
    assert refused.value.status_code == 403
    viewer = Watching(server, run.id, origin=server.url)
    assert viewer.next()["type"] == "status"
    viewer.socket.close()


def test_nothing_is_compressed(server: WebServer, runs: FakeWorker) -> None:
    """The handshake accepts no extension: a frame is encoded once, and no bomb is unpacked."""
    path = f"{PREFIX}/{runs.begin().id}/progress/ws"
    lines = (
        *UPGRADE,
        "Sec-WebSocket-Version: 13",
        KEY,
        "Sec-WebSocket-Extensions: permessage-deflate",
    )
    status, headers, _ = handshake(server, *lines, path=path)
    assert status == 101
    assert "sec-websocket-extensions" not in headers


def test_the_apps_own_socket_stays_its_own(server: WebServer) -> None:
    """A socket of the app's own works beside ours, with its own options."""
    with connect_websockets(
        f"{server.ws_url}/echo", open_timeout=60, close_timeout=60
    ) as echo:  # it answers pings at any time
        echo.send("mine")
        assert echo.recv(60) == "mine"


def viewers_of(server: WebServer) -> int:
    """Seats taken, as ``/metrics`` says."""
    text = requests.get(f"{server.url}/api/v1/metrics", timeout=60).text
    return int(
        sum(
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("headway_viewers{")
        )
    )


def threads_of(server: WebServer) -> int:
    """System threads of the server and its children."""
    family = [psutil.Process(server.pid), *server.descendants()]
    return sum(process.num_threads() for process in family)
