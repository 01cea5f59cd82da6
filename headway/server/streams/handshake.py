"""What a WebSocket needs from flask-sock and from the web server, around its handler.

Before the handler: a broken handshake is refused while HTTP is still possible
(web-facts#refuse-before-the-upgrade); a `ViewerConnection` replaces the socket that
simple-websocket would use; extensions are removed from the handshake, so that nothing is
compressed: frames can be shared, and there are no decompression bombs
(web-facts#no-websocket-compression). After the handler: HTTP is over on this connection, and the
server must not write a response after the close.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Request, Response, request
from wsproto.utilities import RemoteProtocolError

from headway.server.counters import Counts
from headway.server.problems import problem
from headway.server.streams import rfc6455
from headway.server.streams.connection import Flusher, ViewerConnection
from headway.server.streams.flusher import GreenletFlusher, SelectorFlusher

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: The WSGI variables in which servers pass the connection.
SOCKETS = ("werkzeug.socket", "gunicorn.socket")
CONNECTION_KEY = "headway.connection"

VERSION = "13"


class SocketControl:
    """The internals of simple-websocket's ``Server`` that we need. Tested with 1.1.0."""

    def __init__(self, ws: Any) -> None:
        self._ws = ws
        if ws.ping_interval:
            # The app's SOCK_SERVER_OPTIONS apply to our sockets too. A ping that times out would
            # close with 1008, which has another meaning here
            # (web-facts#ping-timeout-closes-with-1008): the next ping is due in a day.
            ws.ping_interval = 86400.0

    def limit_messages(self, size: int) -> None:
        """Set the largest message in bytes; a larger one is answered with 1009."""
        self._ws.max_message_size = size

    def wake(self) -> None:
        """Let a blocked ``receive`` check the connection's state."""
        self._ws.event.set()

    def interrupt(self) -> None:
        """Let a blocked ``receive`` return None. There is no public way: it waits for a message."""
        self._ws.input_buffer.append(None)
        self._ws.event.set()

    def join(self, timeout: float) -> None:
        """Wait for the reading thread: it ends when the client has answered our close."""
        self._ws.thread.join(timeout)


def install(blueprint: Blueprint, *, send_buffer: int, counts: Counts) -> None:
    """Prepare every WebSocket route of the blueprint.

    ``send_buffer`` (bytes) and ``counts``: see `ViewerConnection`.
    """
    selector_flusher, greenlet_flusher = SelectorFlusher(), GreenletFlusher()

    def before() -> Response | None:
        if (
            request.url_rule is None
            or not request.url_rule.websocket
            or request.method == "OPTIONS"
        ):
            return None
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        sock = _server_socket(request)
        flusher: Flusher = greenlet_flusher if hasattr(sock, "_sock") else selector_flusher
        connection = ViewerConnection(sock, flusher, send_buffer, counts)
        request.environ[CONNECTION_KEY] = connection
        for name in SOCKETS:
            if name in request.environ:
                request.environ[name] = connection
        request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        return None

    def after(response: Response) -> Response:
        connection: ViewerConnection | None = request.environ.get(CONNECTION_KEY)
        return _NoResponse() if connection is not None and connection.upgraded else response

    blueprint.before_request(before)
    blueprint.after_request(after)
    blueprint.register_error_handler(
        RemoteProtocolError, lambda error: problem(400, "The WebSocket handshake is not valid")
    )


def reject_http(blueprint: Blueprint, path: str, endpoint: str) -> None:
    """Answer a plain GET of a WebSocket's URL with 426."""

    def plain(**_: str) -> Response:
        return problem(
            426,
            "This URL accepts WebSocket connections only",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )

    blueprint.add_url_rule(path, endpoint, plain)


def connection_of(of: Request) -> ViewerConnection:
    """The connection that was prepared for this request."""
    connection: ViewerConnection = of.environ[CONNECTION_KEY]
    return connection


def _server_socket(of: Request) -> Any:
    return next((of.environ[name] for name in SOCKETS if name in of.environ), None)


def _refusal(of: Request) -> Response | None:
    """The HTTP response to a handshake that cannot be accepted; None for a good one."""
    if of.method != "GET":
        return problem(405, "A WebSocket handshake is a GET", headers={"Allow": "GET"})
    if of.headers.get("Sec-WebSocket-Version", "").strip() != VERSION:
        return problem(
            426,
            f"Only version {VERSION} of the WebSocket protocol is supported",
            headers={"Sec-WebSocket-Version": VERSION},
        )
    if not rfc6455.key_is_valid(of.headers.get("Sec-WebSocket-Key", "").strip()):
        return problem(400, "The handshake has no valid Sec-WebSocket-Key")
    sock = _server_socket(of)
    if sock is None:
        return problem(
            501,
            "This web server does not support WebSockets: use gunicorn with -k gevent or --threads",
        )
    if isinstance(sock, ssl.SSLSocket):
        # Non-blocking sends bypass the buffers of TLS, which no Python socket can do.
        return problem(501, "For WebSockets over TLS, end TLS at a proxy before this server")
    return None


class _NoResponse(Response):
    """Replaces the response that must not be written."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Each server has its own way to end a connection without a response. Otherwise werkzeug
        # would write a body after the close frame, and browsers would see 1006
        # (web-facts#development-server-breaks-the-close); gunicorn would wait for a request.
        if "werkzeug.socket" in environ:
            raise ConnectionAbortedError
        raise StopIteration
