"""A Flask app over real sockets, in a thread of the test's own process: its fakes stay within reach."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler


class _Quiet(WSGIRequestHandler):
    """A server that writes nothing."""

    def log(self, type: str, message: str, *args: Any) -> None:
        """Keep it."""


class _Server(ThreadedWSGIServer):
    """One that knows its connections, so that they can be cut."""

    def __init__(self, port: int, app: Any) -> None:
        self.open: list[socket.socket] = []
        super().__init__("127.0.0.1", port, app, _Quiet)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection."""
        self.open.append(request)
        super().process_request(request, client_address)


class Serving:
    """``with Serving(app) as serving: serving.url``; `cut` what is open, `stop` and `start` it again at the same port."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._port = 0
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
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, name="serving")
        self._thread.start()
        return self

    def cut(self) -> None:
        """Break every connection, without a word."""
        assert self._server is not None
        for connection in self._server.open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.open.clear()

    def stop(self) -> None:
        """Break every connection, and listen no more."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self.cut()
            self._server.server_close()
            self._server = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
