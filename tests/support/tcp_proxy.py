"""A TCP connection that a test can cut: in between a client and a server on this machine."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from types import TracebackType
from typing import Self

from tests.support.processes import Address


class TcpProxy:
    """Passes on what comes to ``port`` of 127.0.0.1, both ways, while it isn't cut. A context
    manager.
    """

    def __init__(self, to: Address) -> None:
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        #: Each end of a connection, and its other end.
        self._ends: dict[socket.socket, socket.socket] = {}
        self._whole = True
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="cable")

    def cut(self) -> None:
        """Reset every connection, and take no new one."""
        self._set(False)

    def mend(self) -> None:
        """Be whole again, for new connections."""
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

    def _set(self, whole: bool) -> None:
        with self._lock:
            self._whole = whole
            if not whole:
                for end in self._ends:
                    with contextlib.suppress(OSError):  # gone by itself
                        end.shutdown(socket.SHUT_RDWR)
        self._wake.send(b".")

    def _run(self) -> None:
        with selectors.DefaultSelector() as ready:
            for end in (self._listener, self._woken):
                ready.register(end, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in ready.select():
                    end = key.fileobj
                    assert isinstance(end, socket.socket)
                    if end is self._woken:
                        end.recv(100)
                    elif end is self._listener:
                        self._connect(ready)
                    elif end in self._ends:
                        self._pass_on(end, ready)
            for end in list(self._ends):
                self._drop(end, ready)

    def _connect(self, ready: selectors.BaseSelector) -> None:
        ours, _ = self._listener.accept()
        try:
            theirs = socket.create_connection(self._to, timeout=60) if self._whole else None
        except OSError:
            theirs = None
        if theirs is None:
            ours.close()
            return
        with self._lock:
            whole = self._whole  # it may have been cut meanwhile
            if whole:
                self._ends |= {ours: theirs, theirs: ours}
        for end in (ours, theirs):
            if whole:
                ready.register(end, selectors.EVENT_READ)
            else:
                end.close()

    def _pass_on(self, end: socket.socket, ready: selectors.BaseSelector) -> None:
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
