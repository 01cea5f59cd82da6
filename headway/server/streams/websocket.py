"""One WebSocket and how it ends: the part that every socket of ours has in common."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import request
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
from headway.server.counters import Count
from headway.server.streams import rfc6455
from headway.server.streams.changes import Change, Frame
from headway.server.streams.connection import Bytes, ViewerConnection
from headway.server.streams.supervisor import GOING_DOWN

if TYPE_CHECKING:
    from headway.server.extension import Headway

log = logging.getLogger(__name__)

#: Messages that a viewer may send within `FLOOD_WINDOW` seconds.
FLOOD_LIMIT = 100
FLOOD_WINDOW = 10.0
#: Seconds that a viewer has to answer our close (web fact 2).
CLOSE_TIMEOUT = 2.0
#: Seconds between two looks at what still has to be sent before a close.
DRAIN_INTERVAL = 0.05

Close = tuple[int, str]

ALREADY_OVER: Close = (1000, "Execution already completed")
NOT_FOUND: Close = (1008, "Execution not found")  # 1008 means nothing else
FAULT: Close = (1011, "Something went wrong in the server")
FULL: Close = (1013, "Too many viewers, try again later")
NOT_AUTHENTICATED: Close = (4401, "A valid token or ticket is needed")
NOT_ALLOWED: Close = (4403, "Not allowed")
TOO_SLOW: Close = (4408, "The viewer does not read")
EXPIRED: Close = (4410, "Execution has expired")
FLOODING: Close = (4429, "Too many messages")

#: What an error means to a viewer.
CLOSES: dict[type[HeadwayError], Close] = {
    ExecutionNotFound: NOT_FOUND,
    InvalidRequest: NOT_FOUND,  # an id that can't be one
    ExecutionExpired: EXPIRED,
    NotAuthenticated: NOT_AUTHENTICATED,
    NotAllowed: NOT_ALLOWED,
    TooManyRequests: FULL,
    Unavailable: GOING_DOWN,
}
#: Which of them are told in an ``error`` frame as well, and its ``code``.
CODES: dict[Close, str] = {NOT_FOUND: "not_found", EXPIRED: "expired"}


class SocketViewer:
    """One WebSocket: what the hub and the keeper tell it goes out on its `ViewerConnection`, and its own thread
    waits for its end.

    Ending is asked for by any thread (`end`) and done by its own: only there can the close be
    awaited (web fact 2).
    """

    #: The largest message that a viewer may send, bytes; a larger one is answered with 1009.
    max_message = 16 * 1024

    def __init__(self, ws: Any, line: ViewerConnection, headway: Headway) -> None:
        self._ws = ws
        self._line = line
        self._clock = headway.clock
        self._counts = headway.hub.counts
        self._patience = headway.settings.ping_interval
        self._asked: float | None = None
        self._told = False
        self._ending: Close | None = None
        ws.max_message_size = self.max_message
        # simple-websocket wakes `receive` before it notes that a message was too large: who looks
        # in between sleeps for ever.
        line.on_left = ws.event.set
        if line.left:
            ws.event.set()
        if ws.ping_interval:
            # The app's SOCK_SERVER_OPTIONS apply to us as well. A ping that times out would close
            # with 1008, which means another thing here (web fact 5): the first one may go out, the
            # next is due in a day.
            ws.ping_interval = 86400.0

    # -- news.Viewer, by the hub's thread

    def tell(self, change: Change) -> None:
        """See `news.Viewer`."""
        if self._ending is not None:
            # the hub tells until the close is answered, and nothing may come after that: a new
            # attempt least of all
            return
        first = not self._told and change.execution is not None
        self._told |= first
        line = self._line
        for frame in change.frames:
            line.put(frame)
            if frame.ends:
                self.over(
                    change.execution_id,
                    ALREADY_OVER if first else (1000, f"Execution {frame.kind}"),
                )
        if line.overrun:
            self.end(*TOO_SLOW)

    def refuse(self, execution_id: str | None, error: HeadwayError) -> None:
        """See `news.Viewer`."""
        close = CLOSES.get(type(error), FAULT)
        if close in CODES:
            self.complain(CODES[close], str(error), execution_id)
        self.end(*close)

    def over(self, execution_id: str, close: Close) -> None:
        """The execution's last frame was sent: so was this stream's."""
        self.end(*close)

    def complain(self, code: str, message: str, execution_id: str | None) -> None:
        """Send an ``error`` frame."""
        self._line.put(Frame(frames.error_frame(code, message, self._clock(), execution_id)))
        if self._line.overrun:
            self.end(*TOO_SLOW)

    # -- keeper.Stream, by the keeper's thread

    def check(self, now: float) -> None:
        """Ping a quiet viewer, and let go of one that doesn't answer, or takes nothing of what
        waits for it.
        """
        line = self._line
        if self._ending is not None:
            # its close may be under way, and nothing may come after that, a ping least of all
            return
        if line.overrun or (line.waiting and now - line.moved > self._patience):
            self.end(*TOO_SLOW)
        elif self._asked is None or line.heard >= self._asked:
            self._asked = None
            if now - line.heard >= self._patience:
                self._asked = now
                line.put(Bytes(rfc6455.PING))
        elif now - self._asked >= self._patience:
            self.end(*TOO_SLOW)

    def end(self, code: int, reason: str) -> None:
        """See `keeper.Stream`. The first reason counts."""
        if self._ending is None:
            self._ending = (code, reason)
            if self._ending == TOO_SLOW:
                self._counts.add(Count.CUT_OFF)
            # Wakes `stay`. simple-websocket has no way to do that from outside: it waits for a
            # message, so it gets one.
            self._ws.input_buffer.append(None)
            self._ws.event.set()

    # -- its own thread

    def serve(self, look_on: Callable[[], None]) -> None:
        """Run the handler's work, and close by what came of it."""
        try:
            look_on()
        except HeadwayError as exc:
            self.refuse(request.view_args.get("execution_id") if request.view_args else None, exc)
            self.finish()
        except Exception:
            # After the 101 no error page can tell of it (web fact 1).
            log.exception("%s failed", request.path)
            self.end(*FAULT)
            self.finish()

    def stay(self) -> None:
        """Until the end, or until the viewer leaves; the seat is free afterwards."""
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
                self.heard(message)
        self.finish()

    def heard(self, message: str | bytes) -> None:
        """A message of the viewer: nothing is expected on this stream, and nothing answered."""

    def finish(self) -> None:
        """Close, with everything sent before, and let go of the connection."""
        if self._ending is not None:
            try:
                self._ws.close(*self._ending)
            except ConnectionClosed:
                log.debug("The viewer closed first")
        self._drain()
        self._ws.thread.join(CLOSE_TIMEOUT)
        self._drain()
        self._line.shut()

    def _drain(self) -> None:
        """Wait while the viewer reads what it hasn't yet: an end is never dropped, but one that
        stands still is.
        """
        patience = DRAIN_INTERVAL if self._ending == TOO_SLOW else self._patience
        # Who let too much pile up may not hold its seat by reading a little now and then.
        latest = time.monotonic() + CLOSE_TIMEOUT if self._ending == TOO_SLOW else float("inf")
        pause = threading.Event()
        while (
            self._line.waiting
            and time.monotonic() < latest
            and time.monotonic() - self._line.moved < patience
        ):
            pause.wait(DRAIN_INTERVAL)
