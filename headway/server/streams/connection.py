"""One viewer's connection, written to without ever waiting.

simple-websocket takes it for the socket: handshake, pongs and closes go through the same door as
our frames, whole and in order. With its own sending three large frames to a slow reader arrived
torn (web fact 4). What the kernel doesn't take at once waits in a `Backlog`, where reports merge to
the newest, and a flusher sends it when the reader reads.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from headway.server.counters import Count, Counts
from headway.server.streams import rfc6455
from headway.server.streams.changes import Backlog, ProgressChange

log = logging.getLogger(__name__)

#: Frames that may wait besides the report: ends, statuses, pongs. None of them comes often; a
#: viewer with so many reads nothing.
MAX_WAITING = 64


class Outgoing(Protocol):
    """What can be sent: a `news.Frame`, or `Bytes`."""

    @property
    def execution_id(self) -> str | None:
        """Whose it is."""

    @property
    def merges(self) -> bool:
        """Whether a newer one may take its place."""

    @property
    def step(self) -> ProgressChange | None:
        """See `news.Frame.step`."""

    @property
    def on_wire(self) -> bytes:
        """Whole frames, as bytes."""


class Bytes:
    """Frames of the connection's own: handshake, ping, pong, close."""

    __slots__ = ("on_wire",)
    execution_id = None
    merges = False
    step = None

    def __init__(self, on_wire: bytes) -> None:
        self.on_wire = on_wire


class Flusher(Protocol):
    """Calls `ViewerConnection.flush` when the connection takes bytes again, until nothing waits."""

    def look_after(self, line: ViewerConnection) -> None:
        """Begin. Called once each time that something begins to wait."""


class ViewerConnection:
    """See the module's text. ``sock`` is the server's connection; ``send_buffer`` what its kernel
    may hold, in bytes; ``counts`` are told what of the frames isn't sent.

    The kernel's own buffer would grow to some megabytes and hide a slow viewer: nothing would
    merge, and every report would be old (web fact 9).
    """

    def __init__(self, sock: Any, flusher: Flusher, send_buffer: int, counts: Counts) -> None:
        self._sock = sock
        # gevent's socket waits by itself where the kernel takes no more; its inner one says so.
        self._raw: socket.socket = getattr(sock, "_sock", sock)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if self._raw.family != socket.AF_UNIX:
            self._raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send = self._raw.send
        self._flusher = flusher
        self._counts = counts
        # Under gevent nothing that is done with it gives way to another greenlet, and its lock is
        # dear beside a send.
        self._lock: AbstractContextManager[object] = (
            threading.Lock() if self._raw is sock else nullcontext()
        )
        self._head: memoryview | None = None
        self._backlog: Backlog[Outgoing] = Backlog()
        self._flushing = False
        #: Nothing more can be sent.
        self.broken = False
        #: More than any viewer that reads would have waiting; twice as many is what is held at
        #: most.
        self.max_waiting = MAX_WAITING
        self._lost = False
        #: The close was taken, or the line is broken: nothing may follow.
        self._closed = False
        #: The handshake was answered: HTTP is over on this connection.
        self.upgraded = False
        #: The last was read from the viewer, and what is then to be called.
        self.left = False
        self.on_left: Callable[[], None] | None = None
        #: When something last came from the viewer, monotonic seconds.
        self.heard = time.monotonic()
        #: When the kernel last took some of what waits, or something began to wait.
        self.moved = self.heard

    # -- what simple-websocket calls

    def send(self, data: bytes) -> int:
        """Take whole frames. Never waits, never raises."""
        if data:
            # The handshake's answer comes first, and is no frame.
            self.put(Bytes(data), last=self.upgraded and rfc6455.contains_close_frame(data))
        self.upgraded = True
        return len(data)

    def recv(self, size: int) -> bytes:
        """Wait for bytes of the viewer."""
        data: bytes = self._sock.recv(size)
        self.heard = time.monotonic()
        return data

    def fileno(self) -> int:
        """The connection's descriptor."""
        number: int = self._sock.fileno()
        return number

    def close(self) -> None:
        """simple-websocket has read the last of it. The connection belongs to the server, which
        closes it.
        """
        self.left = True
        if self.on_left is not None:
            self.on_left()

    # -- ours

    def put(self, item: Outgoing, *, last: bool = False) -> None:
        """Send it, or let it wait. Never waits itself, never raises. Nothing is sent behind the
        ``last``.

        A close is that. It may be simple-websocket's answer to the viewer's own, of which nobody
        else knows yet: the hub goes on telling, and a client would be told of a broken protocol.
        """
        with self._lock:
            if self._closed:
                self._drop(item)
                return
            self._closed = last
            if (
                self._head is None
            ):  # nothing waits: so it is nearly always, and so this way is short
                whole = item.on_wire
                try:
                    sent = self._send(whole, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                except OSError as exc:
                    self._lose(exc)
                    return
                if sent == len(whole):
                    return
                self.moved = (
                    time.monotonic()
                )  # before anybody can see that something waits, and ask since when
                self._head = memoryview(whole)[sent:]
            elif len(self._backlog) < 2 * self.max_waiting:
                if merged := self._backlog.put(item):
                    self._counts.add(Count.MERGED, merged)
            else:
                # simple-websocket answers pings for as long as it reads, and nobody is asked: the
                # bound must be here.
                self._lost = True
                self._drop(item)
            begins = not self._flushing
            self._flushing = True
        if begins:
            self._flusher.look_after(self)

    @property
    def waiting(self) -> bool:
        """Whether something waits for the viewer to read."""
        return self._head is not None

    @property
    def overrun(self) -> bool:
        """Whether more than ``max_waiting`` wait for a viewer, or something was lost to it: it is
        to be let go.
        """
        return self._lost or (self._head is not None and len(self._backlog) > self.max_waiting)

    def flush(self) -> bool:
        """Send what can be sent; True where nothing waits any more. For the flusher."""
        with self._lock:
            self._push()
            self._flushing = self._head is not None
            return not self._flushing

    def shut(self) -> None:
        """End the connection both ways; a read or a flush that waits on it returns."""
        with self._lock:
            self._break()
        try:
            self._raw.shutdown(socket.SHUT_RDWR)
        except OSError as exc:
            log.debug("The viewer was gone already: %s", exc)

    def _push(self) -> None:
        """Called with the lock held."""
        while self._head is not None and not self.broken:
            try:
                sent = self._send(self._head, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as exc:
                self._lose(exc)
                return
            self.moved = time.monotonic()
            if sent < len(self._head):
                self._head = self._head[sent:]
                continue
            following = self._backlog.take()
            self._head = None if following is None else memoryview(following.on_wire)

    def _lose(self, exc: OSError) -> None:
        self._break()
        log.debug("The viewer has gone: %s", exc)

    def _break(self) -> None:
        self.broken = self._closed = True
        if self._head is not None:
            self._counts.add(Count.DROPPED)
        self._head = None
        while (item := self._backlog.take()) is not None:
            self._drop(item)

    def _drop(self, item: Outgoing) -> None:
        if not isinstance(item, Bytes):
            self._counts.add(Count.DROPPED)
