"""A TCP proxy between a client and a local server, which a test can disconnect."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self

from tests.support.processes import Address
from tests.support.timing import RESPONSE_TIMEOUT


class TcpProxy:
    """Forwards connections to ``port`` of 127.0.0.1 while it is connected. A context manager."""

    def __init__(self, to: Address) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        #: Each end of a connection -> the other end.
        self._ends: dict[socket.socket, socket.socket] = {}
        self._connected = True
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="tcp-proxy")

    def disconnect(self) -> None:
        """Break every connection, and refuse new ones."""
        self._set(False)

    def reconnect(self) -> None:
        """Accept new connections again."""
        self._set(True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed = True
        self._set(False)
        self._thread.join()
        for end in (self._listener, self._wake, self._woken):
            end.close()

    def _set(self, connected: bool) -> None:
        with self._lock:
            self._connected = connected
            if not connected:
                for end in self._ends:
                    with contextlib.suppress(OSError):  # closed already
                        end.shutdown(socket.SHUT_RDWR)
        self._wake.send(b".")

    def _run(self) -> None:
        with selectors.DefaultSelector() as ready:
            for end in (self._listener, self._woken):
                ready.register(end, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in ready.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if source is self._woken:
                        source.recv(100)
                    elif source is self._listener:
                        self._connect(ready)
                    elif source in self._ends:
                        self._forward(source, ready)
            for end in list(self._ends):
                self._drop(end, ready)

    def _connect(self, ready: selectors.BaseSelector) -> None:
        ours, _ = self._listener.accept()
        try:
            theirs = (
                socket.create_connection(self._to, timeout=RESPONSE_TIMEOUT)
                if self._connected
                else None
            )
        except OSError:
            theirs = None
        if theirs is None:
            ours.close()
            return
        with self._lock:
            connected = self._connected  # the test may have disconnected it by now
            if connected:
                self._ends |= {ours: theirs, theirs: ours}
        for end in (ours, theirs):
            if connected:
                ready.register(end, selectors.EVENT_READ)
            else:
                end.close()

    def _forward(self, end: socket.socket, ready: selectors.BaseSelector) -> None:
        try:
            data = end.recv(65536)
            if data:
                self._ends[end].sendall(data)
        except OSError:
            data = b""
        if not data:
            self._drop(end, ready)

    def _drop(self, end: socket.socket, ready: selectors.BaseSelector) -> None:
        with self._lock:
            other = self._ends.pop(end, None)
            if other is None:
                return
            self._ends.pop(other, None)
        for each in (end, other):
            ready.unregister(each)
            each.close()
