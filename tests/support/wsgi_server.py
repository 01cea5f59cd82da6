"""A Flask app over real sockets, in a thread of the test's own process: its fakes stay within
reach.
"""

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


def _kept_port() -> socket.socket:
    """A port that is bound and not listened at: who asks there is refused, and the system gives it
    to nobody else.
    """
    kept = socket.socket()
    kept.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # so that a server of ours may listen there meanwhile
    kept.bind(("127.0.0.1", 0))
    return kept


@contextmanager
def unreachable_url() -> Iterator[str]:
    """An address at which nobody listens, and nobody will."""
    with _kept_port() as kept:
        yield f"http://127.0.0.1:{kept.getsockname()[1]}"


def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give clients a minute where they have seconds: a server that is held up for as long is there
    all the same.
    """
    monkeypatch.setitem(Client.__init__.__kwdefaults__, "timeout", 60.0)
    monkeypatch.setattr("headway.client.stream.FIRST_FRAME_TIMEOUT", 60.0)
    monkeypatch.setattr("headway.client.http.PING", 60.0)


class _Quiet(WSGIRequestHandler):
    """A server that writes nothing."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Keep it."""


class _Server(ThreadedWSGIServer):
    """One that knows its connections, so that they can be cut."""

    def __init__(self, port: int, app: Any) -> None:
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        super().__init__("127.0.0.1", port, app, _Quiet)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection."""
        with self._lock:
            self._open.append(request)
        super().process_request(request, client_address)

    def cut(self) -> None:
        """Break those that were taken by now."""
        with self._lock:
            taken, self._open = self._open, []
        for connection in taken:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class WsgiServer:
    """``with WsgiServer(app) as serving: serving.url``; `cut` what is open, `stop` and `start` it
    again at the same port.

    Within the block the port stays its own, whether it listens or not.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self._port = 0
        self._place: socket.socket | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Listen, at the port of before."""
        self._server = _Server(self._port, self.app)
        self._port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="serving"
        )
        self._thread.start()
        return self

    def cut(self) -> None:
        """Break every connection, without a word."""
        assert self._server is not None
        self._server.cut()

    def stop(self) -> None:
        """Break every connection, and listen no more."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self.cut()
            self._server.server_close()
            self._server = self._thread = None

    def __enter__(self) -> Self:
        self._place = _kept_port()
        self._port = self._place.getsockname()[1]
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        assert self._place is not None
        self._place.close()
