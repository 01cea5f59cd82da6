"""The WebSocket of one execution: `core.frames` over flask-sock, with the closes of the contract's
section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, request
from flask_sock import Sock

from headway.server.auth import Action
from headway.server.streams import handshake, websocket_multi
from headway.server.streams.limits import Transport
from headway.server.streams.websocket import SocketViewer

if TYPE_CHECKING:
    from headway.server.extension import Headway

PATH = "/executions/<execution_id>/progress/ws"


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route."""
    handshake.install(
        blueprint, send_buffer=headway.settings.send_buffer, counts=headway.hub.counts
    )
    handshake.reject_http(blueprint, PATH, "plain_stream")

    def stream(ws: Any, execution_id: str) -> None:
        viewer = SocketViewer(ws, handshake.line_of(request), headway)

        def look_on() -> None:
            headway.policy.authorize(request, Action.WATCH, execution_id)
            headway.checked_id(execution_id)
            with headway.hub.budget.seat(Transport.SOCKET), headway.hub.keeper.keeping(viewer):
                headway.hub.attach(execution_id, viewer)
                try:
                    viewer.stay()
                finally:
                    headway.hub.detach(execution_id, viewer)

        viewer.serve(look_on)

    sock = Sock()  # never init_app: an app may have a Sock of its own (web fact 3)
    sock.route(PATH, bp=blueprint)(stream)
    websocket_multi.register(blueprint, headway, sock)
