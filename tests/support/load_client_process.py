"""What runs in a process of viewers (``python -m tests.support.load_client_process``); `fleet`
commands it.
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

from tests.support.load_clients import KEY, Farewell, Tally, ViewerSpec, raise_file_limit

#: Handshakes that one process lets wait for their answer at a time: a server's backlog of
#: connections is finite.
AT_ONCE = 50
#: Mistakes of a group that are kept in words.
FAULTS_KEPT = 20

ENDS = frozenset({"completed", "failed", "cancelled"})

UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)


@lru_cache(maxsize=4096)
def parsed(body: bytes) -> Any:
    """All viewers of an execution get the same bytes."""
    return json.loads(body)


class _Group:
    def __init__(self) -> None:
        self.tally = Tally()
        self.viewers: set[_Viewer] = set()


class _Viewer:
    """One connection."""

    def __init__(self, ocean: _LoadClientProcess, group: _Group, look: ViewerSpec) -> None:
        self.ocean, self.group, self.look = ocean, group, look
        self.socket: socket.socket | None = None
        self.buffer = bytearray()
        self.answered = False
        self.first = True
        self.end: str | None = None
        self.code: int | None = None
        self.leaving = False
        self.progress: Any = None

    def connect(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if self.look.manner == "hang":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(60)  # a full backlog lets it wait
        self.socket.connect(self.look.server)
        self.socket.setblocking(False)
        host = f"{self.look.server[0]}:{self.look.server[1]}"
        if self.look.skin == "websocket":
            lines = [f"GET {self.look.path} HTTP/1.1", f"Host: {host}", *UPGRADE]
        else:  # 1.0: nothing is chunked
            lines = [f"GET {self.look.path} HTTP/1.0", f"Host: {host}", "Accept: text/event-stream"]
        self.socket.send("\r\n".join([*lines, "", ""]).encode())
        self.ocean.selector.register(self.socket, selectors.EVENT_READ, self)
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
            self.gone()
            return
        self.buffer += data
        if not self.answered and not self._answer():
            return
        if self.look.manner == "hang":
            self.ocean.selector.unregister(self.socket)
            self._seen()
            return
        while self.socket is not None and (
            self._websocket() if self.look.skin == "websocket" else self._event()
        ):
            pass

    def _answer(self) -> bool:
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return False
        wanted = b"101" if self.look.skin == "websocket" else b"200"
        if head.split(b" ", 2)[1] != wanted:
            self.fault(f"the handshake was answered with {bytes(head[:200])!r}")
        self.buffer, self.answered = rest, True
        self.ocean.handshakes -= 1
        return True

    def _websocket(self) -> bool:
        """Take one frame from the buffer (RFC 6455, section 5.2; a server doesn't mask); False
        where none is whole.
        """
        buffer = self.buffer
        if len(buffer) < 2:
            return False
        length, begin = buffer[1], 2
        if length >= 126:
            begin = 4 if length == 126 else 10
            if len(buffer) < begin:
                return False
            length = struct.unpack_from("!H" if begin == 4 else "!Q", buffer, 2)[0]
        if len(buffer) < begin + length:
            return False
        opcode, body = buffer[0], bytes(buffer[begin : begin + length])
        del buffer[: begin + length]
        if self.code is not None:
            self.fault(f"{body[:200]!r} came behind the close")
        elif opcode == 0x81:
            self.frame(parsed(body))
        elif opcode == 0x89:
            self.send(bytes((0x8A, 0x80 | length)) + b"\0\0\0\0" + body)
        elif opcode == 0x88:
            self.code = struct.unpack("!H", body[:2])[0] if body else 1005
            if not self.leaving:
                self.send(bytes((0x88, 0x80 | 2)) + b"\0\0\0\0" + body[:2])
        else:
            self.fault(f"opcode {opcode:#x}")
        return True

    def _event(self) -> bool:
        event, found, rest = self.buffer.partition(b"\n\n")
        if not found:
            return False
        self.buffer = rest
        for line in bytes(event).split(b"\n"):
            if line.startswith(b"data: "):
                self.frame(parsed(line[6:]))
        return True

    def frame(self, content: Any) -> None:
        """Check it against what was shown before."""
        kind, tally = content["type"], self.group.tally
        tally.frames[kind] += 1
        if self.first and kind not in ("status", "error"):
            self.fault(f"{kind} came first")
        if self.end is not None:
            self.fault(f"{kind} came behind {self.end}")
        if content["execution_id"] not in self.look.path:
            self.fault(f"a frame of {content['execution_id']}")
        self._seen()
        if kind in ENDS:
            self.end = kind
            tally.ends[kind] += 1
        said = content.get("progress")
        if said is not None:
            if (
                kind == "progress"
                and self.progress is not None
                and said["current"] <= self.progress["current"]
            ):
                self.fault(f"{said['current']} was told after {self.progress['current']}")
            self.progress = said

    def _seen(self) -> None:
        if self.first:
            self.first = False
            self.group.tally.silent -= 1
            self.group.tally.open += 1

    def send(self, data: bytes) -> None:
        """A few bytes: they always fit."""
        assert self.socket is not None
        try:
            self.socket.send(data)
        except OSError:
            return  # the server has gone; the next read says so

    def leave(self, how: Farewell) -> None:
        self.leaving = True
        self.group.tally.left += 1
        if how == "close" and self.look.skin == "websocket":
            self.send(bytes((0x88, 0x82)) + b"\0\0\0\0" + struct.pack("!H", 1000))
            return
        assert self.socket is not None
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # a reset, not a goodbye
        self.gone()

    def gone(self) -> None:
        """The connection is over."""
        assert self.socket is not None
        if self.look.manner == "read" or not self.answered:
            self.ocean.selector.unregister(self.socket)
        self.socket.close()
        self.socket = None
        tally = self.group.tally
        if not self.answered:
            self.ocean.handshakes -= 1
        if self.first:
            tally.silent -= 1
        else:
            tally.open -= 1
        self.group.viewers.discard(self)
        if not self.leaving:
            tally.closes[self.code] += 1

    def fault(self, text: str) -> None:
        if len(self.group.tally.faults) < FAULTS_KEPT:
            self.group.tally.faults.append(f"{self.look.path}: {text}")


class _LoadClientProcess:
    """All viewers of this process, and the line to the parent."""

    def __init__(self, line: Connection) -> None:
        self.line = line
        self.selector = selectors.DefaultSelector()
        self.groups: dict[str, _Group] = {}
        self.queue: deque[_Viewer] = deque()
        self.handshakes = 0

    def run(self) -> None:
        """Until the parent hangs up."""
        self.selector.register(self.line, selectors.EVENT_READ)
        orders: dict[str, Callable[..., Any]] = {
            "open": self.open,
            "leave": self.leave,
            "tally": self.tally,
            "forget": self.forget,
        }
        while True:
            while self.queue and self.handshakes < AT_ONCE:
                viewer = self.queue.popleft()
                self.handshakes += 1
                viewer.connect()
            for key, _ in self.selector.select():
                if key.data is not None:
                    if key.data.socket is not None:
                        key.data.readable()
                    continue
                try:
                    order, *words = self.line.recv()
                except (EOFError, OSError):
                    return
                self.line.send(orders[order](*words))

    def open(self, look: ViewerSpec, name: str, count: int) -> None:
        group = self.groups.setdefault(name, _Group())
        for _ in range(count):
            viewer = _Viewer(self, group, look)
            group.viewers.add(viewer)
            group.tally.waiting += 1
            self.queue.append(viewer)

    def leave(self, name: str, count: int, how: Farewell) -> int:
        here = [
            viewer
            for viewer in self.groups[name].viewers
            if not viewer.first and viewer.end is None and not viewer.leaving
        ]
        for viewer in here[:count]:
            viewer.leave(how)
        return len(here[:count])

    def tally(self, name: str) -> Tally:
        group = self.groups.get(name, _Group())
        shown = (viewer.progress for viewer in group.viewers if not viewer.first)
        group.tally.currents = Counter(
            None if progress is None else progress["current"] for progress in shown
        )
        return group.tally

    def forget(self, name: str) -> None:
        for viewer in list(self.groups.pop(name, _Group()).viewers):
            if viewer.socket is not None:
                viewer.leave("vanish")


def main() -> None:
    """Serve one parent."""
    raise_file_limit()
    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        print(f"port {listener.address[1]}", flush=True)  # noqa: T201 - the parent reads it
        with listener.accept() as line:
            _LoadClientProcess(line).run()


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # thousands of sockets and frames are no use any more
