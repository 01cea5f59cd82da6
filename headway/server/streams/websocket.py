"""The WebSocket of one execution, and the parts that every WebSocket of ours shares."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Blueprint, request
from flask_sock import Sock
from simple_websocket import ConnectionClosed

from headway.core import frames
from headway.errors import (
    ExecutionExpired,
    ExecutionNotFound,
    HeadwayError,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
    TooManyRequests,
    Unavailable,
)
from headway.server.auth import Action
from headway.server.counters import Count
from headway.server.http_helpers import checked_id
from headway.server.services import Services
from headway.server.streams import handshake, rfc6455
from headway.server.streams.changes import Change, Frame
from headway.server.streams.connection import Bytes, ViewerConnection
from headway.server.streams.limits import Transport
from headway.server.streams.supervisor import GOING_DOWN

log = logging.getLogger(__name__)

PATH = "/executions/<execution_id>/progress/ws"

#: Messages that a client may send within `FLOOD_WINDOW` seconds.
FLOOD_LIMIT = 100
FLOOD_WINDOW = 10.0
#: Seconds that a client has to answer our close (web-facts#development-server-breaks-the-close).
CLOSE_TIMEOUT = 2.0
#: Seconds between two checks of what is still unsent before a close.
DRAIN_INTERVAL = 0.05

Close = tuple[int, str]

ALREADY_OVER: Close = (1000, "Execution already completed")
NOT_FOUND: Close = (1008, "Execution not found")  # 1008 has no other meaning here
FAULT: Close = (1011, "Internal server error")
FULL: Close = (1013, "Too many viewers, try again later")
NOT_AUTHENTICATED: Close = (4401, "A valid token or ticket is needed")
NOT_ALLOWED: Close = (4403, "Not allowed")
TOO_SLOW: Close = (4408, "The viewer does not read")
EXPIRED: Close = (4410, "Execution has expired")
FLOODING: Close = (4429, "Too many messages")

#: The close that each error leads to.
CLOSES: dict[type[HeadwayError], Close] = {
    ExecutionNotFound: NOT_FOUND,
    InvalidRequest: NOT_FOUND,  # an invalid id
    ExecutionExpired: EXPIRED,
    NotAuthenticated: NOT_AUTHENTICATED,
    NotAllowed: NOT_ALLOWED,
    TooManyRequests: FULL,
    Unavailable: GOING_DOWN,
}
#: The closes that an ``error`` frame announces, and its ``code``.
CODES: dict[Close, str] = {NOT_FOUND: "not_found", EXPIRED: "expired"}


def register(blueprint: Blueprint, services: Services, sock: Sock) -> None:
    """Add the route."""
    handshake.reject_http(blueprint, PATH, "plain_stream")

    def stream(ws: Any, execution_id: str) -> None:
        viewer = SocketViewer(ws, handshake.connection_of(request), services)

        def handler() -> None:
            services.policy.authorize(request, Action.WATCH, execution_id)
            checked_id(execution_id)
            hub = services.hub
            with hub.limiter.slot(Transport.SOCKET), hub.supervisor.supervise(viewer):
                hub.attach(execution_id, viewer)
                try:
                    viewer.serve_until_closed()
                finally:
                    hub.detach(execution_id, viewer)

        viewer.serve(handler)

    sock.route(PATH, bp=blueprint)(stream)


class SocketViewer:
    """One WebSocket. The hub and the supervisor write to its connection; its own thread waits.

    Any thread may request the end (`end`); the viewer's own thread closes, because only that
    thread can wait for the client's answer (web-facts#development-server-breaks-the-close).
    """

    #: The largest message that a client may send, in bytes; a larger one is answered with 1009.
    max_message = 16 * 1024

    def __init__(self, ws: Any, connection: ViewerConnection, services: Services) -> None:
        self._ws = ws
        self._control = handshake.SocketControl(ws)
        self._connection = connection
        self._clock = services.clock
        self._counts = services.hub.counts
        self._ping_interval = services.settings.ping_interval
        self._ping_sent_at: float | None = None
        self._sent_first = False
        self._ending: Close | None = None
        self._control.limit_messages(self.max_message)
        # simple-websocket wakes `receive` before it records that a message was too large: a
        # `receive` that checks in between would wait for ever. So it is woken once more.
        connection.on_client_gone = self._control.wake
        if connection.client_gone:
            self._control.wake()

    # -- Viewer: called by the hub's thread

    def deliver(self, change: Change) -> None:
        """See `Viewer`."""
        if self._ending is not None:
            # The hub delivers until the close is answered. Nothing may follow a close, least of
            # all a new attempt.
            return
        first = not self._sent_first and change.execution is not None
        self._sent_first |= first
        connection = self._connection
        for frame in change.frames:
            connection.enqueue(frame)
            if frame.terminal:
                close = ALREADY_OVER if first else (1000, f"Execution {frame.kind}")
                self.on_execution_end(change.execution_id, close)
        if connection.overflowed:
            self.end(*TOO_SLOW)

    def refuse(self, execution_id: str | None, error: HeadwayError) -> None:
        """See `Viewer`."""
        close = CLOSES.get(type(error), FAULT)
        if close in CODES:
            self.send_error(CODES[close], str(error), execution_id)
        self.end(*close)

    def on_execution_end(self, execution_id: str, close: Close) -> None:
        """The execution's last frame was sent: close the stream."""
        self.end(*close)

    def send_error(self, code: str, message: str, execution_id: str | None) -> None:
        """Send an ``error`` frame."""
        content = frames.error_frame(code, message, self._clock(), execution_id)
        self._connection.enqueue(Frame(content))
        if self._connection.overflowed:
            self.end(*TOO_SLOW)

    # -- Stream: called by the supervisor's thread

    def check(self, now: float) -> None:
        """Ping a quiet client. Disconnect one that does not answer, or does not read."""
        connection = self._connection
        if self._ending is not None:
            return  # its close may be on the way, and nothing may follow it
        stuck = connection.waiting and now - connection.last_sent_at > self._ping_interval
        if connection.overflowed or stuck:
            self.end(*TOO_SLOW)
        elif self._ping_sent_at is None or connection.last_received_at >= self._ping_sent_at:
            self._ping_sent_at = None
            if now - connection.last_received_at >= self._ping_interval:
                self._ping_sent_at = now
                connection.enqueue(Bytes(rfc6455.PING))
        elif now - self._ping_sent_at >= self._ping_interval:
            self.end(*TOO_SLOW)

    def end(self, code: int, reason: str) -> None:
        """See `Stream`. The first reason counts."""
        if self._ending is None:
            self._ending = (code, reason)
            if self._ending == TOO_SLOW:
                self._counts.add(Count.CUT_OFF)
            self._control.interrupt()  # wakes `serve_until_closed`

    # -- the viewer's own thread

    def serve(self, handler: Callable[[], None]) -> None:
        """Run the handler, and close according to its outcome."""
        try:
            handler()
        except HeadwayError as exc:
            self.refuse(request.view_args.get("execution_id") if request.view_args else None, exc)
            self.finish()
        except Exception:
            # After the 101 there is no error page (web-facts#refuse-before-the-upgrade).
            log.exception("%s failed", request.path)
            self.end(*FAULT)
            self.finish()

    def serve_until_closed(self) -> None:
        """Read messages until the stream ends or the client leaves, then close."""
        recent: list[float] = []
        while self._ending is None:
            try:
                message = self._ws.receive()
            except ConnectionClosed:
                break
            if message is None:
                continue
            now = time.monotonic()
            recent = [at for at in recent if now - at < FLOOD_WINDOW] + [now]
            if len(recent) > FLOOD_LIMIT:
                self.end(*FLOODING)
            else:
                self.on_message(message)
        self.finish()

    def on_message(self, message: str | bytes) -> None:
        """Handle a message of the client. This stream expects none and ignores it."""

    def finish(self) -> None:
        """Send what waits and the close, then shut the connection down."""
        if self._ending is not None:
            try:
                self._ws.close(*self._ending)
            except ConnectionClosed:
                log.debug("The client closed first")
        self._drain()
        self._control.join(CLOSE_TIMEOUT)
        self._drain()
        self._connection.shutdown()

    def _drain(self) -> None:
        """Wait while the client reads what is unsent: a terminal frame is never dropped.

        Stop if the client stops reading.
        """
        connection, too_slow = self._connection, self._ending == TOO_SLOW
        max_silence = DRAIN_INTERVAL if too_slow else self._ping_interval
        # A client that was disconnected as too slow must not keep its slot by reading a little.
        latest = time.monotonic() + CLOSE_TIMEOUT if too_slow else float("inf")
        pause = threading.Event()
        while (
            connection.waiting
            and time.monotonic() < latest
            and time.monotonic() - connection.last_sent_at < max_silence
        ):
            pause.wait(DRAIN_INTERVAL)
