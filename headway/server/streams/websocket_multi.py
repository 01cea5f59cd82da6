"""One WebSocket for many executions: ``{"subscribe": [ids]}`` and ``{"unsubscribe": [ids]}``.

Each frame names its execution.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from flask import Blueprint, request
from flask_sock import Sock

from headway.core import frames
from headway.errors import HeadwayError
from headway.server.auth import ANONYMOUS, Action
from headway.server.http_helpers import checked_id
from headway.server.services import Services
from headway.server.streams import handshake
from headway.server.streams.changes import Change, Frame
from headway.server.streams.connection import ViewerConnection
from headway.server.streams.limits import Transport
from headway.server.streams.websocket import (
    CLOSES,
    CODES,
    FAULT,
    NOT_ALLOWED,
    NOT_AUTHENTICATED,
    Close,
    SocketViewer,
)

PATH = "/progress/ws"

#: Executions that one socket may watch at a time: bounds what it remembers and sends at once.
MAX_WATCHED = 1000

#: The ``code`` of the ``error`` frame of an execution that cannot be watched.
REFUSALS: dict[Close, str] = {
    **CODES,
    NOT_AUTHENTICATED: "not_authenticated",
    NOT_ALLOWED: "not_allowed",
}

HELP = 'Send {"subscribe": [ids]} or {"unsubscribe": [ids]}'


def register(blueprint: Blueprint, services: Services, sock: Sock) -> None:
    """Add the route."""
    handshake.reject_http(blueprint, PATH, "plain_streams")

    def streams(ws: Any) -> None:
        viewer = MultiViewer(ws, handshake.connection_of(request), services)

        def handler() -> None:
            viewer.who = services.policy.authorize(request, Action.WATCH)
            hub = services.hub
            with hub.limiter.slot(Transport.MANY), hub.supervisor.supervise(viewer):
                try:
                    viewer.serve_until_closed()
                finally:
                    viewer.unsubscribe_all()

        viewer.serve(handler)

    sock.route(PATH, bp=blueprint)(streams)


class MultiViewer(SocketViewer):
    """A socket whose client subscribes to executions.

    It stays open until one side closes it; the end of an execution ends its subscription.
    """

    #: Room for as many ids as may be watched, of the largest size; or for ten times as many UUIDs,
    #: which are then refused with an ``error`` frame and not with a close.
    max_message = 512 * 1024

    def __init__(self, ws: Any, connection: ViewerConnection, services: Services) -> None:
        super().__init__(ws, connection, services)
        self._services = services
        self._watched: set[str] = set()
        #: The identity that opened the socket. Later subscriptions use it: a ticket is valid for
        #: the opening only.
        self.who = ANONYMOUS
        connection.max_waiting += 4 * MAX_WATCHED  # an outage is sent for each execution

    def on_message(self, message: str | bytes) -> None:
        """Subscribe and unsubscribe. An invalid message is answered with an ``error`` frame."""
        try:
            commands = json.loads(message)
        except (ValueError, RecursionError):
            commands = None
        if (
            not isinstance(commands, dict)
            or not commands
            or not all(_is_command(*item) for item in commands.items())
        ):
            self.send_error("invalid", HELP, None)
            return
        for execution_id in commands.get("unsubscribe", ()):
            self._unsubscribe(execution_id)
        self._subscribe(commands.get("subscribe", ()))

    def refuse(self, execution_id: str | None, error: HeadwayError) -> None:
        """Refuse one execution with an ``error`` frame, or the socket itself with a close."""
        if execution_id is None:
            super().refuse(None, error)
            return
        self._watched.discard(execution_id)
        close = CLOSES.get(type(error), FAULT)
        self.send_error(REFUSALS.get(close, "unavailable"), str(error), execution_id)

    def deliver(self, change: Change) -> None:
        """See `Viewer`.

        A terminal frame ends the subscription before it is sent: the client may subscribe again at
        once, and that must count as a new subscription.
        """
        if any(frame.terminal for frame in change.frames):
            self._unsubscribe(change.execution_id)
        super().deliver(change)

    def on_execution_end(self, execution_id: str, close: Close) -> None:
        """The socket stays open."""

    def unsubscribe_all(self) -> None:
        """End all subscriptions."""
        for execution_id in list(self._watched):
            self._unsubscribe(execution_id)

    def _subscribe(self, ids: Iterable[str]) -> None:
        """Watch what is not watched yet. One frame names all ids beyond the limit."""
        new = [each for each in dict.fromkeys(ids) if each not in self._watched]
        # Counted once: a place that a refusal frees meanwhile is for the next message.
        places = MAX_WATCHED - len(self._watched)
        for execution_id in new[:places]:
            self._watch(execution_id)
        if new[places:]:
            text = f"One socket watches at most {MAX_WATCHED} executions; these are not watched"
            content = frames.error_frame("too_many", text, self._clock())
            self._connection.enqueue(Frame(content | {"execution_ids": new[places:]}))

    def _watch(self, execution_id: str) -> None:
        services = self._services
        try:
            checked_id(execution_id)
            services.policy.permit(self.who, request, Action.WATCH, execution_id)
            self._watched.add(execution_id)
            services.hub.attach(execution_id, self)
        except HeadwayError as exc:
            self.refuse(execution_id, exc)

    def _unsubscribe(self, execution_id: str) -> None:
        self._watched.discard(execution_id)
        self._services.hub.detach(execution_id, self)


def _is_command(name: object, ids: object) -> bool:
    return (
        name in ("subscribe", "unsubscribe")
        and isinstance(ids, list)
        and all(isinstance(each, str) for each in ids)
    )
