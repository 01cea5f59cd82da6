"""The process of viewers that `load_clients` controls
(``python -m tests.support.load_client_process``).
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection, Listener
from typing import Any

from tests.support.load_clients import KEY, Leaving, Tally, ViewerSpec, raise_file_limit
from tests.support.timing import RESPONSE_TIMEOUT

#: Handshakes at the same time: a server's backlog of connections is finite.
MAX_HANDSHAKES = 50
#: The number of violations that a group keeps.
MAX_VIOLATIONS = 20

ENDS = frozenset({"completed", "failed", "cancelled"})

UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@lru_cache(maxsize=4096)
def parse(body: bytes) -> Any:
    """The JSON of a frame, cached: all viewers of an execution receive the same bytes."""
    return json.loads(body)


class _Group:
    def __init__(self) -> None:
        self.tally = Tally()
        self.viewers: set[_Viewer] = set()


class _Viewer:
    """One connection."""

    def __init__(self, process: _LoadClientProcess, group: _Group, spec: ViewerSpec) -> None:
        self.process, self.group, self.spec = process, group, spec
        self.socket: socket.socket | None = None
        self.buffer = bytearray()
        self.accepted = False
        self.first = True
        self.end: str | None = None
        self.code: int | None = None
        self.leaving = False
        self.progress: Any = None

    def connect(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if self.spec.behaviour == "hang":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(RESPONSE_TIMEOUT)  # a full backlog delays it
        self.socket.connect(self.spec.server)
        self.socket.setblocking(False)
        host = f"{self.spec.server[0]}:{self.spec.server[1]}"
        if self.spec.transport == "websocket":
            lines = [f"GET {self.spec.path} HTTP/1.1", f"Host: {host}", *UPGRADE]
        else:  # HTTP/1.0 has no chunked responses
            lines = [f"GET {self.spec.path} HTTP/1.0", f"Host: {host}", "Accept: text/event-stream"]
        self.socket.send("\r\n".join([*lines, "", ""]).encode())
        self.process.selector.register(self.socket, selectors.EVENT_READ, self)
        self.group.tally.waiting -= 1
        self.group.tally.silent += 1

    def readable(self) -> None:
        assert self.socket is not None
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.disconnected()
            return
        self.buffer += data
        if not self.accepted and not self._read_response():
            return
        if self.spec.behaviour == "hang":
            self.process.selector.unregister(self.socket)
            self._received_first()
            return
        while self.socket is not None and (
            self._read_frame() if self.spec.transport == "websocket" else self._read_event()
        ):
            pass

    def _read_response(self) -> bool:
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        expected = b"101" if self.spec.transport == "websocket" else b"200"
        if head.split(b" ", 2)[1] != expected:
            self.violation(f"the response to the handshake was {bytes(head[:200])!r}")
        self.buffer, self.accepted = rest, True
        self.process.handshakes -= 1
        return True

    def _read_frame(self) -> bool:
        """Take one frame from the buffer (RFC 6455, section 5.2; a server doesn't mask). False if
        there is no complete one.
        """
        buffer = self.buffer
        if len(buffer) < 2:
            return False
        length, start = buffer[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return False
            length = struct.unpack_from("!H" if start == 4 else "!Q", buffer, 2)[0]
        if len(buffer) < start + length:
            return False
        opcode, body = buffer[0], bytes(buffer[start : start + length])
        del buffer[: start + length]
        if self.code is not None:
            self.violation(f"{body[:200]!r} came after the close")
        elif opcode == 0x81:
            self.check(parse(body))
        elif opcode == 0x89:
            self.send(bytes((0x8A, 0x80 | length)) + b"\0\0\0\0" + body)
        elif opcode == 0x88:
            self.code = struct.unpack("!H", body[:2])[0] if body else 1005
            if not self.leaving:
                self.send(bytes((0x88, 0x80 | 2)) + b"\0\0\0\0" + body[:2])
        else:
            self.violation(f"opcode {opcode:#x}")
        return True

    def _read_event(self) -> bool:
        """Take one server-sent event from the buffer. False if there is no complete one."""
        event, found, rest = self.buffer.partition(b"\n\n")
        if not found:
            return False
        self.buffer = rest
        for line in bytes(event).split(b"\n"):
            if line.startswith(b"data: "):
                self.check(parse(line[6:]))
        return True

    def check(self, content: Any) -> None:
        """Check a frame against the frames before it."""
        kind, tally = content["type"], self.group.tally
        tally.frames[kind] += 1
        if self.first and kind not in ("status", "error"):
            self.violation(f"{kind} came first")
        if self.end is not None:
            self.violation(f"{kind} came after {self.end}")
        if content["execution_id"] not in self.spec.path:
            self.violation(f"a frame of {content['execution_id']}")
        self._received_first()
        if kind in ENDS:
            self.end = kind
            tally.ends[kind] += 1
        progress = content.get("progress")
        if progress is not None:
            if (
                kind == "progress"
                and self.progress is not None
                and progress["current"] <= self.progress["current"]
            ):
                self.violation(f"{progress['current']} came after {self.progress['current']}")
            self.progress = progress

    def _received_first(self) -> None:
        if self.first:
            self.first = False
            self.group.tally.silent -= 1
            self.group.tally.open += 1

    def send(self, data: bytes) -> None:
        """Send a few bytes, which always fit in the socket's buffer."""
        assert self.socket is not None
        try:
            self.socket.send(data)
        except OSError:
            return  # the connection is broken: the next read notices

    def leave(self, how: Leaving) -> None:
        self.leaving = True
        self.group.tally.left += 1
        if how == "close" and self.spec.transport == "websocket":
            self.send(bytes((0x88, 0x82)) + b"\0\0\0\0" + struct.pack("!H", 1000))
            return
        assert self.socket is not None
        # This option makes close() send a reset.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.disconnected()

    def disconnected(self) -> None:
        """Count the end of the connection."""
        assert self.socket is not None
        if self.spec.behaviour == "read" or not self.accepted:
            self.process.selector.unregister(self.socket)
        self.socket.close()
        self.socket = None
        tally = self.group.tally
        if not self.accepted:
            self.process.handshakes -= 1
        if self.first:
            tally.silent -= 1
        else:
            tally.open -= 1
        self.group.viewers.discard(self)
        if not self.leaving:
            tally.closes[self.code] += 1

    def violation(self, text: str) -> None:
        if len(self.group.tally.violations) < MAX_VIOLATIONS:
            self.group.tally.violations.append(f"{self.spec.path}: {text}")


class _LoadClientProcess:
    """All viewers of this process, and the control connection of the parent."""

    def __init__(self, control: Connection) -> None:
        self.control = control
        self.selector = selectors.DefaultSelector()
        self.groups: dict[str, _Group] = {}
        self.queue: deque[_Viewer] = deque()
        self.handshakes = 0

    def run(self) -> None:
        """Serve requests until the parent closes the connection."""
        self.selector.register(self.control, selectors.EVENT_READ)
        requests: dict[str, Callable[..., Any]] = {
            "open": self.open,
            "leave": self.leave,
            "tally": self.tally,
            "forget": self.forget,
        }
        while True:
            while self.queue and self.handshakes < MAX_HANDSHAKES:
                viewer = self.queue.popleft()
                self.handshakes += 1
                viewer.connect()
            for key, _ in self.selector.select():
                if key.data is not None:
                    if key.data.socket is not None:
                        key.data.readable()
                    continue
                try:
                    name, *arguments = self.control.recv()
                except (EOFError, OSError):
                    return
                self.control.send(requests[name](*arguments))

    def open(self, spec: ViewerSpec, name: str, count: int) -> None:
        group = self.groups.setdefault(name, _Group())
        for _ in range(count):
            viewer = _Viewer(self, group, spec)
            group.viewers.add(viewer)
            group.tally.waiting += 1
            self.queue.append(viewer)

    def leave(self, name: str, count: int, how: Leaving) -> int:
        open_viewers = [
            viewer
            for viewer in self.groups[name].viewers
            if not viewer.first and viewer.end is None and not viewer.leaving
        ]
        for viewer in open_viewers[:count]:
            viewer.leave(how)
        return len(open_viewers[:count])

    def tally(self, name: str) -> Tally:
        group = self.groups.get(name, _Group())
        last = (viewer.progress for viewer in group.viewers if not viewer.first)
        group.tally.currents = Counter(
            None if progress is None else progress["current"] for progress in last
        )
        return group.tally

    def forget(self, name: str) -> None:
        for viewer in list(self.groups.pop(name, _Group()).viewers):
            if viewer.socket is not None:
                viewer.leave("reset")


def main() -> None:
    """Accept the parent, and serve it."""
    raise_file_limit()
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        print(f"port {listener.address[1]}", flush=True)  # noqa: T201 - the parent reads it
        with listener.accept() as control:
            _LoadClientProcess(control).run()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # fast: don't free thousands of sockets and frames one by one
