"""The WebSocket of the contract's section 4, on every server, with real clients."""

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


class SocketClient:
    """A viewer over websocket-client, the library of the original API document."""

    def __init__(self, server: WebServer, execution_id: str, **options: Any) -> None:
        url = f"{server.ws_url}{PREFIX}/{execution_id}/progress/ws"
        self.socket = websocket.create_connection(url, timeout=60, **options)

    def next(self) -> Any:
        """The next frame."""
        return json.loads(self.socket.recv())

    def read_to_close(self) -> tuple[list[Any], int | None, str]:
        """All frames up to the close, its code and its reason. Nothing may follow the close."""
        frames: list[Any] = []
        while True:
            frame = self.socket.recv_frame()
            # The server does not wait for ever: it may be gone, and its frames are still here.
            with contextlib.suppress(OSError):
                if frame.opcode == websocket.ABNF.OPCODE_PING:
                    self.socket.pong(frame.data)
                elif frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                    self.socket.send_close()
            if frame.opcode == websocket.ABNF.OPCODE_CLOSE:
                # Nothing may follow, above all no HTTP response
                # (web-facts#development-server-breaks-the-close).
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


def test_viewer_gets_every_frame_until_completed(server: WebServer, runs: FakeWorker) -> None:
    """``status``, ``started``, each progress and ``completed``, then a close with 1000."""
    run = runs.publish()
    viewer = SocketClient(server, run.id)
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
    frames, code, reason = viewer.read_to_close()
    assert kinds(frames) == ["completed"]
    assert frames[0]["outputs"] == {"rows": 3}
    assert frames[0]["progress"]["percentage"] == 100.0
    assert (code, reason) == (1000, "Execution completed")


def test_terminal_execution_closes_with_1000(server: WebServer, runs: FakeWorker) -> None:
    """``status``, the terminal frame, and 1000 "Execution already completed"."""
    run = runs.begin().fail()
    frames, code, reason = SocketClient(server, run.id).read_to_close()
    assert kinds(frames) == ["status", "failed"]
    assert (code, reason) == (1000, "Execution already completed")


def test_unknown_id_closes_with_1008(server: WebServer) -> None:
    """An ``error`` frame, and 1008 "Execution not found"."""
    frames, code, reason = SocketClient(server, "unknown").read_to_close()
    assert kinds(frames) == ["error"]
    assert frames[0]["code"] == "not_found"
    assert (code, reason) == (1008, "Execution not found")


def test_expired_execution_closes_with_4410(
    server: WebServer, runs: FakeWorker, backend: ValkeyServer
) -> None:
    """An execution whose result is gone: an ``error`` frame and 4410, not 1008."""
    run = runs.begin().succeed()
    backend.command("DEL", f"celery-task-meta-{run.id}")
    frames, code, reason = SocketClient(server, run.id).read_to_close()
    assert kinds(frames) == ["error"]
    assert frames[0]["code"] == "expired"
    assert (code, reason) == (4410, "Execution has expired")
    assert requests.get(f"{server.url}{PREFIX}/{run.id}", timeout=60).status_code == 410


def test_websockets_library_sees_a_clean_close(server: WebServer, runs: FakeWorker) -> None:
    """The ``websockets`` library checks the closing handshake: 1000, sync and asyncio."""
    run = runs.begin()
    url = f"{server.ws_url}{PREFIX}/{run.id}/progress/ws"
    with connect_websockets(url, open_timeout=60, close_timeout=60) as viewer:
        assert json.loads(viewer.recv())["type"] == "status"
        run.report(1, 2).succeed()
        # The loop raises unless the close is a normal one.
        seen = [json.loads(message)["type"] for message in viewer]
        assert seen in (["progress", "completed"], ["completed"])
        assert viewer.close_code == 1000

    async def watch() -> list[str]:
        async with websockets.connect(url, open_timeout=60, close_timeout=60) as late:
            return [json.loads(message)["type"] async for message in late]

    assert asyncio.run(watch()) == ["status", "completed"]


def test_close_by_the_client_frees_its_slot(server: WebServer, runs: FakeWorker) -> None:
    """A client that closes gets a reply to its close, and its slot is free at once."""
    run = runs.begin()
    url = f"{server.ws_url}{PREFIX}/{run.id}/progress/ws"
    with connect_websockets(url, open_timeout=60, close_timeout=60) as viewer:
        viewer.recv()
        before = threads_of(server)
        viewer.close(1000, "done")
        assert viewer.close_code == 1000
    until(lambda: viewers_of(server) == 0)
    if server.kind == "dev":  # the only server with a thread per viewer
        until(lambda: threads_of(server) < before)


def test_broken_connection_frees_its_slot(server: WebServer, runs: FakeWorker) -> None:
    """A connection that breaks without a close frees its slot at once."""
    run = runs.begin()
    viewer = SocketClient(server, run.id)
    viewer.next()
    # A reset instead of a close.
    viewer.socket.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    viewer.socket.shutdown()
    until(lambda: viewers_of(server) == 0)


def test_many_viewers_share_one_subscription(
    server: WebServer, runs: FakeWorker, backend: ValkeyServer
) -> None:
    """Twenty viewers share one subscription, and each gets everything; afterwards it ends."""
    run = runs.begin()
    viewers = [SocketClient(server, run.id) for _ in range(20)]
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
        frames, code, _ = viewer.read_to_close()
        assert (kinds(frames), code) == (["completed"], 1000)
    until(lambda: backend.command("PUBSUB", "NUMSUB", channels[0])[1] == 0)


def test_large_frames_and_pongs_arrive_whole(server: WebServer, runs: FakeWorker) -> None:
    """Three ends of two megabytes on one socket, to a client that pings and reads late, arrive
    whole, with the pongs between them.

    With simple-websocket's own writes they arrived corrupt
    (web-facts#gevent-corrupts-large-frames).
    """
    executions = [runs.begin() for _ in range(3)]
    small = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),)
    viewer = websocket.create_connection(
        f"{server.ws_url}/api/v1/progress/ws", timeout=60, sockopt=small
    )
    viewer.send(json.dumps({"subscribe": [run.id for run in executions]}))
    assert {json.loads(viewer.recv())["type"] for _ in executions} == {"status"}
    for number, run in enumerate(executions):
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
    assert outputs == {
        run.id: f"{number}123456789" * 200_000 for number, run in enumerate(executions)
    }
    assert pongs == [b"ping 0", b"ping 1", b"ping 2"]
    viewer.close()


def test_messages_of_the_client_are_ignored(server: WebServer, runs: FakeWorker) -> None:
    """Messages and pings of the client change nothing; a ping gets its pong."""
    run = runs.begin()
    viewer = SocketClient(server, run.id)
    viewer.next()
    viewer.socket.send("hello")
    viewer.socket.send_binary(b"\x00\xff")
    viewer.socket.ping("hello?")
    opcode, data = viewer.socket.recv_data(control_frame=True)
    while opcode != websocket.ABNF.OPCODE_PONG:  # the server of this app pings too
        opcode, data = viewer.socket.recv_data(control_frame=True)
    assert data == b"hello?"
    run.succeed()
    frames, code, _ = viewer.read_to_close()
    assert (kinds(frames), code) == (["completed"], 1000)


def test_too_large_message_closes_with_1009(server: WebServer, runs: FakeWorker) -> None:
    """A client that sends megabytes gets 1009 before they are buffered."""
    viewer = SocketClient(server, runs.begin().id)
    viewer.next()
    # One byte too many and no more: unread bytes would turn the server's close into a reset.
    viewer.socket.send("x" * (SocketViewer.max_message + 1))
    assert viewer.read_to_close()[1] == 1009


def test_too_many_messages_close_with_4429(server: WebServer, runs: FakeWorker) -> None:
    """A client that sends without end gets 4429."""
    viewer = SocketClient(server, runs.begin().id)
    viewer.next()
    # In one piece, which the server reads at once: unread bytes would turn its close into a reset.
    message = websocket.ABNF.create_frame("x", websocket.ABNF.OPCODE_TEXT)
    viewer.socket.sock.sendall(b"".join(message.format() for _ in range(3 * FLOOD_LIMIT)))
    assert viewer.read_to_close()[1] == 4429


def test_invalid_frame_closes_with_1002(server: WebServer, runs: FakeWorker) -> None:
    """Bytes that are not a frame close with 1002."""
    viewer = SocketClient(server, runs.begin().id)
    viewer.next()
    viewer.socket.sock.sendall(b"\xff\xff\xff\xff\xff\xff")
    assert viewer.read_to_close()[1] == 1002


# Before the upgrade


def handshake(
    server: WebServer, *lines: str, path: str = f"{PREFIX}/x/progress/ws"
) -> tuple[int, dict[str, str], bytes]:
    """Send a handshake as text. Returns status, headers and body of the response."""
    host, port = server.address
    with socket.create_connection((host, port), timeout=60) as connection:
        request = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", *lines, "", ""]
        connection.sendall("\r\n".join(request).encode())
        response = b""
        while b"\r\n\r\n" not in response and (more := connection.recv(65536)):
            response += more
        head, _, body = response.partition(b"\r\n\r\n")
        status, *headers = head.decode().split("\r\n")
        named = dict(line.lower().split(": ", 1) for line in headers)
        while len(body) < int(named.get("content-length", 0)) and (more := connection.recv(65536)):
            body += more
        return int(status.split()[1]), named, body


UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def test_invalid_handshake_gets_an_http_error(server: WebServer) -> None:
    """400 without a valid key; 426 for another version, or without an upgrade."""
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


def test_foreign_origin_gets_403_before_the_upgrade(server: WebServer, runs: FakeWorker) -> None:
    """A page of another site gets HTTP 403; the server's own page gets a socket."""
    run = runs.begin()
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        SocketClient(server, run.id, origin="https://evil.example")
    assert refused.value.status_code == 403
    viewer = SocketClient(server, run.id, origin=server.url)
    assert viewer.next()["type"] == "status"
    viewer.socket.close()


def test_handshake_accepts_no_extension(server: WebServer, runs: FakeWorker) -> None:
    """Nothing is compressed (web-facts#no-websocket-compression)."""
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


def test_own_socket_of_the_app_works(server: WebServer) -> None:
    """A socket of the app works beside Headway's, with its own options."""
    # This client replies to pings at any time.
    with connect_websockets(f"{server.ws_url}/echo", open_timeout=60, close_timeout=60) as echo:
        echo.send("mine")
        assert echo.recv(60) == "mine"


def viewers_of(server: WebServer) -> int:
    """The number of viewers, from ``/metrics``."""
    text = requests.get(f"{server.url}/api/v1/metrics", timeout=60).text
    return int(
        sum(
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith("headway_viewers{")
        )
    )


def threads_of(server: WebServer) -> int:
    """The number of threads of the server and its child processes."""
    family = [psutil.Process(server.pid), *server.descendants()]
    return sum(process.num_threads() for process in family)
