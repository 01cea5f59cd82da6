"""One WebSocket for many executions: ``{"subscribe": [ids]}`` and ``{"unsubscribe": [ids]}``; the
frames say whose they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request
from flask_sock import Sock

from headway.core import frames
from headway.errors import HeadwayError
from headway.server.auth import NOBODY, Action
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

if TYPE_CHECKING:
    from headway.server.extension import Headway

PATH = "/progress/ws"

#: Executions that one socket may watch at a time. It bounds what the socket remembers, and what is
#: said at once.
MAX_WATCHED = 1000

#: The ``code`` of the ``error`` frame of an execution that can't be watched.
REFUSALS: dict[Close, str] = {
    **CODES,
    NOT_AUTHENTICATED: "not_authenticated",
    NOT_ALLOWED: "not_allowed",
}

HELP = 'Send {"subscribe": [ids]} or {"unsubscribe": [ids]}'


def register(blueprint: Blueprint, headway: Headway, sock: Sock) -> None:
    """Add the route."""
    handshake.reject_http(blueprint, PATH, "plain_streams")

    def streams(ws: Any) -> None:
        viewer = ManyViewer(ws, handshake.line_of(request), headway)

        def look_on() -> None:
            viewer.who = headway.policy.authorize(request, Action.WATCH)
            with headway.hub.budget.seat(Transport.MANY), headway.hub.keeper.keeping(viewer):
                try:
                    viewer.stay()
                finally:
                    viewer.drop_all()

        viewer.serve(look_on)

    sock.route(PATH, bp=blueprint)(streams)


class ManyViewer(SocketViewer):
    """A socket whose viewer says what it wants to see. It is open until one side closes it; an
    execution's end ends its watch.
    """

    #: As many ids as may be watched, of the longest kind; or ten times as many UUIDs, which are
    #: refused in words, not by a close.
    max_message = 512 * 1024

    def __init__(self, ws: Any, line: ViewerConnection, headway: Headway) -> None:
        super().__init__(ws, line, headway)
        self._headway = headway
        self._watched: set[str] = set()
        #: Who opened the socket. Not found out again by each subscription: a ticket is good for the
        #: opening only.
        self.who = NOBODY
        line.max_waiting += 4 * MAX_WATCHED  # an outage is told of each

    def heard(self, message: str | bytes) -> None:
        """Do what a message says; one that says nothing is answered with an ``error`` frame."""
        try:
            wanted = json.loads(message)
        except (ValueError, RecursionError):
            wanted = None
        if (
            not isinstance(wanted, dict)
            or not wanted
            or not all(_is_order(*item) for item in wanted.items())
        ):
            self.complain("invalid", HELP, None)
            return
        for execution_id in wanted.get("unsubscribe", ()):
            self._drop(execution_id)
        self._subscribe(wanted.get("subscribe", ()))

    def refuse(self, execution_id: str | None, error: HeadwayError) -> None:
        """One execution that can't be seen is no reason to close on the others; without one, it is
        about the socket.
        """
        if execution_id is None:
            super().refuse(None, error)
            return
        self._watched.discard(execution_id)
        close = CLOSES.get(type(error), FAULT)
        self.complain(REFUSALS.get(close, "unavailable"), str(error), execution_id)

    def tell(self, change: Change) -> None:
        """See `news.Viewer`. An end takes its watch along before it is told: who asks again at once
        isn't watching any more.
        """
        if any(frame.ends for frame in change.frames):
            self._drop(change.execution_id)
        super().tell(change)

    def over(self, execution_id: str, close: Close) -> None:
        """The socket goes on."""

    def drop_all(self) -> None:
        """Watch nothing any more."""
        for execution_id in list(self._watched):
            self._drop(execution_id)

    def _subscribe(self, ids: Iterable[str]) -> None:
        """Watch what isn't watched yet. What finds no place is named in one frame: one for each
        could be thousands.
        """
        wanted = [each for each in dict.fromkeys(ids) if each not in self._watched]
        # Counted once: a place that a refusal frees meanwhile is free for the next message.
        places = MAX_WATCHED - len(self._watched)
        for execution_id in wanted[:places]:
            self._watch(execution_id)
        if wanted[places:]:
            text = f"One socket watches {MAX_WATCHED} executions at most; these are not watched"
            content = frames.error_frame("too_many", text, self._clock())
            self._line.put(Frame(content | {"execution_ids": wanted[places:]}))

    def _watch(self, execution_id: str) -> None:
        try:
            self._headway.policy.permit(
                self.who, request, Action.WATCH, self._headway.checked_id(execution_id)
            )
            self._watched.add(execution_id)
            self._headway.hub.attach(execution_id, self)
        except HeadwayError as exc:
            self.refuse(execution_id, exc)

    def _drop(self, execution_id: str) -> None:
        self._watched.discard(execution_id)
        self._headway.hub.detach(execution_id, self)


def _is_order(name: object, ids: object) -> bool:
    return (
        name in ("subscribe", "unsubscribe")
        and isinstance(ids, list)
        and all(isinstance(each, str) for each in ids)
    )
