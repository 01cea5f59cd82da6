"""One viewer's connection, with writes that never block.

simple-websocket uses it as its socket: the handshake, pongs and closes take the same path as our
frames, whole and in order. With simple-websocket's own writes, three large frames to a slow reader
arrived corrupt (web-facts#gevent-corrupts-large-frames). What the kernel does not take at once
waits in a `Backlog`, which merges reports; a flusher sends it when the client reads again.
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
from headway.server.streams.backlog import Backlog, Item

log = logging.getLogger(__name__)

#: Frames that may wait besides the report: ends, statuses, pongs. All of them are rare; a client
#: with so many waiting does not read.
MAX_WAITING = 64


class Outgoing(Item, Protocol):
    """What can be sent: a `Frame`, or `Bytes`."""

    @property
    def on_wire(self) -> bytes:
        """Whole WebSocket frames."""


class Bytes:
    """Bytes of the connection's own: handshake, ping, pong, close."""

    __slots__ = ("on_wire",)
    execution_id = None
    mergeable = False
    change = None

    def __init__(self, on_wire: bytes) -> None:
        self.on_wire = on_wire


class Flusher(Protocol):
    """Calls `ViewerConnection.flush` when the connection is writable, until nothing waits."""

    def schedule(self, connection: ViewerConnection) -> None:
        """Start. Called each time the first item starts to wait."""


class ViewerConnection:
    """See the module's docstring.

    ``sock`` is the server's connection, ``send_buffer`` the size of its kernel buffer in bytes,
    ``counts`` the counters of frames that are not sent. By default the kernel's buffer grows to
    some megabytes and hides a slow client: nothing would be merged, and every report would arrive
    late (web-facts#send-buffer-hides-slow-viewers).
    """

    def __init__(self, sock: Any, flusher: Flusher, send_buffer: int, counts: Counts) -> None:
        self._sock = sock
        # gevent's socket blocks when the kernel's buffer is full; its inner socket raises instead.
        self._raw: socket.socket = getattr(sock, "_sock", sock)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        if self._raw.family != socket.AF_UNIX:
            self._raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send = self._raw.send
        self._flusher = flusher
        self._counts = counts
        # Under gevent none of these methods yields to another greenlet, and a lock costs much
        # compared with a send.
        self._lock: AbstractContextManager[object] = (
            threading.Lock() if self._raw is sock else nullcontext()
        )
        self._head: memoryview | None = None
        self._backlog: Backlog[Outgoing] = Backlog()
        self._flushing = False
        #: Nothing more can be sent.
        self.closed = False
        #: Items that a reading client never has waiting. At most twice as many are kept.
        self.max_waiting = MAX_WAITING
        self._overflowed = False
        #: A close was enqueued, or the connection is closed: nothing may follow.
        self._sealed = False
        #: The handshake was answered: HTTP is over on this connection.
        self.upgraded = False
        #: The client's last byte was read; then `on_client_gone` is called.
        self.client_gone = False
        self.on_client_gone: Callable[[], None] | None = None
        #: When the client last sent something, in monotonic seconds.
        self.last_received_at = time.monotonic()
        #: When the kernel last took waiting bytes, or something started to wait.
        self.last_sent_at = self.last_received_at

    # -- called by simple-websocket

    def send(self, data: bytes) -> int:
        """Take whole frames. Never blocks, never raises."""
        if data:
            # The response to the handshake comes first, and is not a frame.
            self.enqueue(Bytes(data), last=self.upgraded and rfc6455.contains_close_frame(data))
        self.upgraded = True
        return len(data)

    def recv(self, size: int) -> bytes:
        """Wait for bytes from the client."""
        data: bytes = self._sock.recv(size)
        self.last_received_at = time.monotonic()
        return data

    def fileno(self) -> int:
        """The connection's file descriptor."""
        number: int = self._sock.fileno()
        return number

    def close(self) -> None:
        """simple-websocket reads no more. The server owns the connection and closes it."""
        self.client_gone = True
        if self.on_client_gone is not None:
            self.on_client_gone()

    # -- our own

    def enqueue(self, item: Outgoing, *, last: bool = False) -> None:
        """Send an item, or let it wait. Never blocks, never raises.

        ``last`` marks a close frame; later items are dropped. simple-websocket may reply to the
        client's close before the hub knows about it: data after that would be a protocol error.
        """
        with self._lock:
            if self._sealed:
                self._drop(item)
                return
            self._sealed = last
            if self._head is None:  # nearly always: nothing waits, so this path is short
                whole = item.on_wire
                try:
                    sent = self._send(whole, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    sent = 0
                except OSError as exc:
                    self._on_send_error(exc)
                    return
                if sent == len(whole):
                    return
                # Set the time before `_head`: another thread may see that something waits, and
                # check since when.
                self.last_sent_at = time.monotonic()
                self._head = memoryview(whole)[sent:]
            elif len(self._backlog) < 2 * self.max_waiting:
                if merged := self._backlog.put(item):
                    self._counts.add(Count.MERGED, merged)
            else:
                # simple-websocket answers pings itself while it reads, so the bound must be here.
                self._overflowed = True
                self._drop(item)
            starts = not self._flushing
            self._flushing = True
        if starts:
            self._flusher.schedule(self)

    @property
    def waiting(self) -> bool:
        """Whether something waits for the client to read."""
        return self._head is not None

    @property
    def overflowed(self) -> bool:
        """Whether more than ``max_waiting`` items wait, or an item was dropped: disconnect it."""
        return self._overflowed or (
            self._head is not None and len(self._backlog) > self.max_waiting
        )

    def flush(self) -> bool:
        """Send what can be sent. Returns True if nothing waits any more. For the flusher."""
        with self._lock:
            self._push()
            self._flushing = self._head is not None
            return not self._flushing

    def shutdown(self) -> None:
        """End the connection in both directions; a blocked read or flush returns."""
        with self._lock:
            self._discard_all()
        try:
            self._raw.shutdown(socket.SHUT_RDWR)
        except OSError as exc:
            log.debug("The connection was closed already: %s", exc)

    def _push(self) -> None:
        """Called with the lock held."""
        while self._head is not None and not self.closed:
            try:
                sent = self._send(self._head, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as exc:
                self._on_send_error(exc)
                return
            self.last_sent_at = time.monotonic()
            if sent < len(self._head):
                self._head = self._head[sent:]
                continue
            following = self._backlog.take()
            self._head = None if following is None else memoryview(following.on_wire)

    def _on_send_error(self, exc: OSError) -> None:
        self._discard_all()
        log.debug("The client is gone: %s", exc)

    def _discard_all(self) -> None:
        self.closed = self._sealed = True
        if self._head is not None:
            self._counts.add(Count.DROPPED)
        self._head = None
        while (item := self._backlog.take()) is not None:
            self._drop(item)

    def _drop(self, item: Outgoing) -> None:
        if not isinstance(item, Bytes):
            self._counts.add(Count.DROPPED)
