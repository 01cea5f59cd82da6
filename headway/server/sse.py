"""The same stream as server-sent events, for clients that can't or needn't open a WebSocket."""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from headway.core import frames
from headway.core.frames import Json
from headway.errors import HeadwayError, Unavailable
from headway.records import Execution
from headway.server.auth import Action
from headway.server.capacity import Skin
from headway.server.counts import Count, Counts
from headway.server.news import Backlog, Change, Frame, Step
from headway.server.upgrade import SOCKETS

if TYPE_CHECKING:
    from headway.server.extension import Headway

log = logging.getLogger(__name__)

PATH = "/executions/<execution_id>/progress/events"

#: Seconds that the first read may take before the answer is 503.
FIRST_READ = 5.0
#: Milliseconds that a browser waits before it comes back: each stream draws its own, so that not all come at once.
RETRY = (2000, 10000)

#: An execution as the data of an event; None: nothing to say.
Shape = Callable[[Execution], Json | None]

_LAST_EVENT_ID = re.compile(r"(\d{1,9})-(\w+)")


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route."""

    @blueprint.get(PATH)
    def events(execution_id: str) -> Response:
        headway.policy.authorize(request, Action.WATCH, headway.checked_id(execution_id))
        return stream(headway, execution_id)


def stream(headway: Headway, execution_id: str, shape: Shape | None = None) -> Response:
    """The answer that goes on. The caller has authorized it.

    Without ``shape`` the events are the contract's frames, each named as its ``type``; with it, they are what it makes of the
    execution, unnamed. Ends after the execution's end. Raises what `states.resolve` raises, ``Unavailable`` and
    ``TooManyRequests``, all of them before the answer begins.
    """
    if request.method == "HEAD":
        return _response(iter(()))
    hub = headway.hub
    viewer = EventViewer(shape, headway.settings.ping_interval, hub.counts)
    with ExitStack() as leaving:
        leaving.enter_context(hub.budget.seat(Skin.EVENTS))
        leaving.enter_context(hub.keeper.keeping(viewer))
        leaving.callback(hub.detach, execution_id, viewer)
        hub.attach(execution_id, viewer)
        opened = viewer.opened()
        if _knows_the_end(request.headers.get("Last-Event-ID", ""), opened):
            # The one answer that stops a browser from coming back (HTML, "server-sent events").
            return Response(status=204)
        response = _response(viewer.events())
        # Not in the generator's finally: one that was never begun has none.
        response.call_on_close(leaving.pop_all().close)
    return response


class EventViewer:
    """One event stream: the hub fills its backlog, the server's thread writes it out at the client's pace."""

    def __init__(self, shape: Shape | None, heartbeat: float, counts: Counts) -> None:
        self._shape = shape
        self._heartbeat = heartbeat
        self._counts = counts
        self._socket = next((request.environ[name] for name in SOCKETS if name in request.environ), None)
        self._changed = threading.Condition()
        self._backlog: Backlog[_Event] = Backlog()
        self._newest: Execution | None = None
        self._error: HeadwayError | None = None
        self._over = False
        #: When the server began to write what it was last given; None while it waits for more.
        self._writing: float | None = None

    def tell(self, change: Change) -> None:
        """See `news.Viewer`."""
        with self._changed:
            self._newest = change.execution
            if change.execution is None and not len(self._backlog):
                self._error = Unavailable()
            for frame in change.frames:
                if merged := self._backlog.put(_Event(frame, change.execution)):
                    self._counts.add(Count.MERGED, merged)
            self._changed.notify()

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """See `news.Viewer`."""
        with self._changed:
            self._error, self._over = error, True
            self._changed.notify()

    def check(self, now: float) -> None:
        """Cut off a client that takes nothing: the server would wait for it without end."""
        if self._writing is not None and now - self._writing > 2 * self._heartbeat and self._socket is not None:
            cut_off, self._socket = self._socket, None
            self._counts.add(Count.CUT_OFF)
            try:
                getattr(cut_off, "_sock", cut_off).shutdown(socket.SHUT_RDWR)
            except OSError as exc:
                log.debug("The client was gone already: %s", exc)

    def end(self, code: int, reason: str) -> None:
        """See `keeper.Stream`: there is no close code here, the stream ends and the client comes back."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def opened(self) -> Execution | None:
        """Wait for the first state; raises where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._error is not None or self._over, FIRST_READ)
            if self._error is not None:
                raise self._error
            if self._newest is None:
                raise Unavailable
            return self._newest

    def events(self) -> Iterator[bytes]:
        """The body, until the end of the execution, of the client or of the server."""
        yield f"retry: {random.randint(*RETRY)}\n\n".encode()  # noqa: S311 - jitter
        said: Json | None = None
        while True:
            with self._changed:
                self._writing = None
                self._changed.wait_for(lambda: len(self._backlog) or self._over, self._heartbeat)
                event = self._backlog.take()
                if event is None and self._over:
                    return
                self._writing = time.monotonic()
            if event is None:
                # Only a write shows that a client has gone (web fact 14).
                yield b":\n\n"
            elif self._shape is None:
                yield event.encoded()
            elif event.execution is not None and (now := self._shape(event.execution)) is not None and now != said:
                said = now
                yield b"data: " + frames.encode(now) + b"\n\n"
            if event is not None and event.frame.ends:
                return


@dataclass(frozen=True, slots=True)
class _Event:
    frame: Frame
    execution: Execution | None

    @property
    def execution_id(self) -> str | None:
        return self.frame.execution_id

    @property
    def merges(self) -> bool:
        return self.frame.merges

    @property
    def step(self) -> Step | None:
        return self.frame.step

    def encoded(self) -> bytes:
        """With an id that says enough to tell, when the client comes back with it, whether it has seen the end."""
        attempt = self.execution.attempt if self.execution is not None else 0
        return f"id: {attempt}-{self.frame.kind}\nevent: {self.frame.kind}\ndata: ".encode() + self.frame.body + b"\n\n"


def _knows_the_end(last_event_id: str, execution: Execution | None) -> bool:
    match = _LAST_EVENT_ID.fullmatch(last_event_id)
    if match is None or execution is None or not execution.status.terminal:
        return False
    return match[2] == frames.TERMINAL_FRAMES[execution.status] and int(match[1]) >= execution.attempt


def _response(body: Iterator[bytes]) -> Response:
    response = Response(body, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response
