"""What a WebSocket needs from flask-sock and from the server below it, around its handler (web
facts 1 to 6).

Before: a broken handshake is refused while HTTP can still be spoken; a `ViewerConnection` stands where
simple-websocket looks for the socket; and the extensions are taken out of the handshake, so that
nothing is compressed: no frame of ours is made once per viewer, and no bomb of theirs is unpacked.
After: HTTP is over on this connection, and the server must not write a response behind the close.
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

#: Where servers put the connection.
SOCKETS = ("werkzeug.socket", "gunicorn.socket")
LINE = "headway.line"

VERSION = "13"


def install(blueprint: Blueprint, *, send_buffer: int, counts: Counts) -> None:
    """Prepare every WebSocket route of the blueprint. ``send_buffer`` in bytes, and ``counts``: see
    `ViewerConnection`.
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
        connection = _connection(request)
        flusher: Flusher = greenlet_flusher if hasattr(connection, "_sock") else selector_flusher
        line = ViewerConnection(connection, flusher, send_buffer, counts)
        request.environ[LINE] = line
        for name in SOCKETS:
            if name in request.environ:
                request.environ[name] = line
        request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        return None

    def after(response: Response) -> Response:
        line: ViewerConnection | None = request.environ.get(LINE)
        return _NoResponse() if line is not None and line.upgraded else response

    blueprint.before_request(before)
    blueprint.after_request(after)
    blueprint.register_error_handler(
        RemoteProtocolError, lambda error: problem(400, "This is no WebSocket handshake")
    )


def reject_http(blueprint: Blueprint, path: str, endpoint: str) -> None:
    """Tell a plain GET of a socket's URL what it is."""

    def plain(**_: str) -> Response:
        return problem(
            426,
            "This URL speaks WebSocket only",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )

    blueprint.add_url_rule(path, endpoint, plain)


def line_of(of: Request) -> ViewerConnection:
    """The prepared connection."""
    line: ViewerConnection = of.environ[LINE]
    return line


def _connection(of: Request) -> Any:
    return next((of.environ[name] for name in SOCKETS if name in of.environ), None)


def _refusal(of: Request) -> Response | None:
    """Why this handshake can't be answered, as an HTTP response; None where it can."""
    if of.method != "GET":
        return problem(405, "A WebSocket begins with GET", headers={"Allow": "GET"})
    if of.headers.get("Sec-WebSocket-Version", "").strip() != VERSION:
        return problem(
            426,
            f"Only version {VERSION} of the protocol is spoken here",
            headers={"Sec-WebSocket-Version": VERSION},
        )
    if not rfc6455.key_is_valid(of.headers.get("Sec-WebSocket-Key", "").strip()):
        return problem(400, "The handshake has no valid Sec-WebSocket-Key")
    connection = _connection(of)
    if connection is None:
        return problem(
            501, "This web server can't carry WebSockets: use gunicorn with -k gevent or --threads"
        )
    if isinstance(connection, ssl.SSLSocket):
        # What is sent without waiting has to bypass TLS' own buffers, which no socket of Python's
        # can do.
        return problem(501, "WebSockets over TLS want a proxy that ends TLS before this server")
    return None


class _NoResponse(Response):
    """Stands for the response that must not be written."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Each server's own word for "this connection is done with" (web fact 2): werkzeug would
        # write the body behind the close frame, and a browser would see 1006; gunicorn would wait
        # for another request.
        if "werkzeug.socket" in environ:
            raise ConnectionAbortedError
        raise StopIteration
