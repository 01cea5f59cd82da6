"""The same stream as server-sent events, for clients that can't or needn't open a WebSocket."""

from __future__ import annotations

import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from headway.core import frames, serialize
from headway.core.serialize import Json
from headway.errors import HeadwayError
from headway.models import Execution, Progress
from headway.server.auth import Action
from headway.server.counters import Count, Counts
from headway.server.streams.bookmark import ResumeToken
from headway.server.streams.changes import Backlog, Change, Frame, ProgressChange
from headway.server.streams.handshake import SOCKETS
from headway.server.streams.limits import Transport

if TYPE_CHECKING:
    from headway.server.extension import Headway

log = logging.getLogger(__name__)

PATH = "/executions/<execution_id>/progress/events"

#: Seconds that the first word may take before the answer begins without it.
FIRST_READ = 5.0
#: Milliseconds that a browser waits before it comes back: each stream draws its own, so that not
#: all come at once.
RETRY = (2000, 10000)

#: Progress as the data of an event.
Shape = Callable[[Progress], Json]


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route."""

    @blueprint.get(PATH)
    def events(execution_id: str) -> Response:
        headway.policy.authorize(request, Action.WATCH, headway.checked_id(execution_id))
        return stream(headway, execution_id)


def stream(headway: Headway, execution_id: str, shape: Shape | None = None) -> Response:
    """The answer that goes on. The caller has authorized it.

    Without ``shape`` the events are the contract's frames, each named as its ``type``; with it,
    they are what it makes of each report, unnamed. A client that comes back with ``Last-Event-ID``
    is told what it has missed and no more. Ends after the execution's end. Raises what
    `states.resolve` raises, and ``TooManyRequests``, before the answer begins. A backend that is
    away is no such answer: anything but a 200 stops a browser from coming back for good, so it is
    told in the stream.
    """
    if request.method == "HEAD":
        return _response(iter(()))
    hub = headway.hub
    last_event_id = request.headers.get("Last-Event-ID", "")
    viewer = EventViewer(
        shape, headway.settings.ping_interval, hub.counts, last_event_id, headway.clock
    )
    with ExitStack() as leaving:
        leaving.enter_context(hub.budget.seat(Transport.EVENTS))
        leaving.enter_context(hub.keeper.keeping(viewer))
        leaving.callback(hub.detach, execution_id, viewer)
        # A client that comes back may know more than this process has heard by now.
        hub.attach(execution_id, viewer, fresh=viewer.came_back)
        if viewer.nothing_left():
            # The one answer that tells a browser to stay away (HTML, "server-sent events").
            return Response(status=204)
        response = _response(viewer.events())
        # Not in the generator's finally: one that was never begun has none.
        response.call_on_close(leaving.pop_all().close)
    return response


class EventViewer:
    """One event stream: the hub fills its backlog, the server's thread writes it out at the
    client's pace.
    """

    def __init__(
        self,
        shape: Shape | None,
        heartbeat: float,
        counts: Counts,
        last_event_id: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._shape = shape
        self._heartbeat = heartbeat
        self._counts = counts
        self._clock = clock
        #: Where the client left off, until it was told what came since.
        self._bookmark = ResumeToken.parse(last_event_id)
        self.came_back = self._bookmark is not None
        self._socket = next(
            (request.environ[name] for name in SOCKETS if name in request.environ), None
        )
        self._changed = threading.Condition()
        self._backlog: Backlog[_Event] = Backlog()
        self._told = False
        self._error: HeadwayError | None = None
        self._over = False
        #: The client had seen the end already.
        self._nothing_left = False
        #: The progress that the client was told last, where ``shape`` tells it.
        self._shown: Progress | None = None
        #: When the server began to write what it was last given; None while it waits for more.
        self._writing: float | None = None

    def tell(self, change: Change) -> None:
        """See `news.Viewer`."""
        news = change.frames if self._bookmark is None else self._since(self._bookmark, change)
        with self._changed:
            self._told, self._bookmark = True, None
            for frame in news:
                if merged := self._backlog.put(_Event(frame, change.execution)):
                    self._counts.add(Count.MERGED, merged)
            self._nothing_left = (
                not news and change.execution is not None and change.execution.status.terminal
            )
            # Where the answer has begun by now, it ends: who comes back is told so.
            self._over |= self._nothing_left
            self._changed.notify()

    def _since(self, bookmark: ResumeToken, change: Change) -> Sequence[Frame]:
        """What a client has missed. Where that can't be told, because the backend is away, a fresh
        ``status`` will follow.
        """
        execution = change.execution
        if execution is None:
            return change.frames
        if bookmark.knows_progress(execution):
            self._shown = execution.progress
        return [
            Frame(each)
            for each in frames.frames_between(
                bookmark.believed(execution), execution, self._clock()
            )
        ]

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """See `news.Viewer`. Where the answer has begun the stream ends, and the client learns why
        when it comes back.
        """
        with self._changed:
            self._error, self._over = error, True
            self._changed.notify()

    def check(self, now: float) -> None:
        """Cut off a client that takes nothing: the server would wait for it without end."""
        if (
            self._writing is not None
            and now - self._writing > 2 * self._heartbeat
            and self._socket is not None
        ):
            cut_off, self._socket = self._socket, None
            self._counts.add(Count.CUT_OFF)
            try:
                getattr(cut_off, "_sock", cut_off).shutdown(socket.SHUT_RDWR)
            except OSError as exc:
                log.debug("The client was gone already: %s", exc)

    def end(self, code: int, reason: str) -> None:
        """See `keeper.Stream`: there is no close code here, the stream ends and the client comes
        back.
        """
        with self._changed:
            self._over = True
            self._changed.notify()

    def nothing_left(self) -> bool:
        """Wait for the first word: whether the client knows all that there will ever be. Raises
        where there is no execution.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._told or self._over, FIRST_READ)
            if self._error is not None:
                raise self._error
            return self._nothing_left

    def events(self) -> Iterator[bytes]:
        """The body, until the end of the execution, of the client or of the server."""
        yield f"retry: {random.randint(*RETRY)}\n\n".encode()  # noqa: S311 - jitter
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
                continue
            if self._shape is None:
                yield (
                    event.mark
                    + f"event: {event.frame.kind}\ndata: ".encode()
                    + event.frame.body
                    + b"\n\n"
                )
            elif event.execution is not None:
                yield from self._shaped(event, event.execution, self._shape)
            if event.frame.ends:
                return

    def _shaped(self, event: _Event, execution: Execution, shape: Shape) -> Iterator[bytes]:
        progress = execution.progress
        if progress is not None and not progress.same_as(self._shown):
            self._shown = progress
            yield event.mark + b"data: " + serialize.encode(shape(progress)) + b"\n\n"
        elif event.frame.ends:
            yield event.mark + b"\n"  # no event, but an id to come back with


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
    def step(self) -> ProgressChange | None:
        return self.frame.step

    @property
    def mark(self) -> bytes:
        """The ``id`` line; nothing where the client knows no more than before."""
        bookmark = (
            None if self.execution is None else ResumeToken.behind(self.frame.kind, self.execution)
        )
        return b"" if bookmark is None else f"id: {bookmark}\n".encode()


def _response(body: Iterator[bytes]) -> Response:
    response = Response(body, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold events back
    return response
