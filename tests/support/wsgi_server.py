"""A Flask app over real sockets, in a thread of the test's process: the test can use its fakes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import pytest
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from headway.client import Client
from tests.support.timing import RESPONSE_TIMEOUT


def _reserve_port() -> socket.socket:
    """A port that is bound but not listening: connections are refused, and the system gives the
    port to no other process.
    """
    reserved = socket.socket()
    # With this option a server of the test may listen at the port.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


@contextmanager
def unreachable_url() -> Iterator[str]:
    """An address that refuses connections."""
    with _reserve_port() as reserved:
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give clients a minute instead of seconds: a slow server is not an unavailable one."""
    defaults = Client.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "timeout", RESPONSE_TIMEOUT)
    monkeypatch.setattr("headway.client.stream.FIRST_FRAME_TIMEOUT", RESPONSE_TIMEOUT)
    monkeypatch.setattr("headway.client.http.PING", RESPONSE_TIMEOUT)


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing."""


class _Server(ThreadedWSGIServer):
    """A server that keeps its connections, to be able to break them."""

    def __init__(self, port: int, app: Any) -> None:
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        super().__init__("127.0.0.1", port, app, _QuietHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Accept a connection."""
        with self._lock:
            self._open.append(request)
        super().process_request(request, client_address)

    def drop_connections(self) -> None:
        """Break the connections accepted so far."""
        with self._lock:
            accepted, self._open = self._open, []
        for connection in accepted:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class WsgiServer:
    """``with WsgiServer(app) as server: server.url``.

    The port stays reserved within the block, so that the test may `stop` and `start` the server.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self._port = 0
        self._reserved: socket.socket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Listen, at the same port as before."""
        self._server = _Server(self._port, self.app)
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="wsgi-server"
        )
        self._thread.start()
        return self

    def drop_connections(self) -> None:
        """Break every connection without a close."""
        assert self._server is not None
        self._server.drop_connections()

    def stop(self) -> None:
        """Break every connection and stop listening."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self.drop_connections()
            self._server.server_close()
            self._server = self._thread = None

    def __enter__(self) -> Self:
        self._reserved = _reserve_port()
        self._port = self._reserved.getsockname()[1]
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        assert self._reserved is not None
        self._reserved.close()
