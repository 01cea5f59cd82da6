"""The same stream as server-sent events, for clients that cannot or need not open a WebSocket."""

from __future__ import annotations

import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from flask import Blueprint, Response, request

from headway.core import frames, serialize
from headway.core.serialize import Json
from headway.errors import HeadwayError
from headway.models import Execution, Phase, Progress, Status
from headway.server.auth import Action
from headway.server.counters import Count, Counts
from headway.server.http_helpers import checked_id
from headway.server.services import Services
from headway.server.streams.backlog import Backlog
from headway.server.streams.changes import Change, Frame, ProgressChange
from headway.server.streams.handshake import SOCKETS
from headway.server.streams.limits import Transport

log = logging.getLogger(__name__)

PATH = "/executions/<execution_id>/progress/events"

#: Milliseconds until a browser reconnects. Each stream draws its own value, so that clients do not
#: reconnect all at once.
RETRY = (2000, 10000)

#: Progress as the data of an event.
ProgressSerializer = Callable[[Progress], Json]


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the route."""

    @blueprint.get(PATH)
    def events(execution_id: str) -> Response:
        services.policy.authorize(request, Action.WATCH, checked_id(execution_id))
        return stream(services, execution_id)


def stream(
    services: Services, execution_id: str, serializer: ProgressSerializer | None = None
) -> Response:
    """Respond with an event stream. The caller has authorized the request.

    Without ``serializer``, the events are the contract's frames, each named by its ``type``. With
    it, the events are unnamed and hold what ``serializer`` makes of each report. A client that
    returns with ``Last-Event-ID`` receives only what it has missed. The stream ends after the
    execution's end.

    Raises what `states.resolve` raises, and ``TooManyRequests``, before the response starts. An
    unavailable backend is reported in the stream: browsers never reconnect after a status other
    than 200.
    """
    if request.method == "HEAD":
        return _response(iter(()))
    hub = services.hub
    last_event_id = request.headers.get("Last-Event-ID", "")
    viewer = EventViewer(
        serializer,
        services.settings.ping_interval,
        hub.counts,
        last_event_id,
        services.clock,
        first_read=hub.first_read,
    )
    with ExitStack() as leaving:
        leaving.enter_context(hub.limiter.slot(Transport.EVENTS))
        leaving.enter_context(hub.supervisor.supervise(viewer))
        leaving.callback(hub.detach, execution_id, viewer)
        # A reconnecting client may have seen newer state from another process: read again.
        hub.attach(execution_id, viewer, fresh=viewer.reconnecting)
        if viewer.knows_the_end():
            # 204 is the one response that stops a browser from reconnecting (HTML standard,
            # "Server-sent events").
            return Response(status=204)
        response = _response(viewer.events())
        # Not in the generator's finally: a generator that was never started does not run it.
        response.call_on_close(leaving.pop_all().close)
    return response


_TOKEN = re.compile(r"(\d{1,9})-([a-z]{1,12})-([a-z]{1,12})-([0-9a-f]{12})?")


@dataclass(frozen=True, slots=True)
class ResumeToken:
    """What a client knows after an event, small enough for the event's ``id``.

    It holds everything that `frames.frames_between` compares, the progress as a digest. So any web
    process can compute what a client has missed from the execution alone; no process has to
    remember what was sent to which client.
    """

    attempt: int
    status: Status
    phase: Phase
    #: The digest of the last report; None if there was none.
    digest: str | None

    @classmethod
    def after_frame(cls, kind: str, execution: Execution) -> ResumeToken | None:
        """The token after a frame of this kind; None if it does not describe the execution."""
        if kind == "error":
            return None
        digest = _digest(execution.progress)
        if kind == "started" or (kind == "status" and execution.status.terminal):
            # Another frame follows at once (the progress, or the end). A client that is
            # disconnected between the two must still receive it.
            known = None if kind == "started" else digest
            return cls(execution.attempt, Status.RUNNING, Phase.RUNNING, known)
        return cls(execution.attempt, execution.status, execution.phase, digest)

    @classmethod
    def parse(cls, text: str) -> ResumeToken | None:
        """Read what `__str__` wrote; None for anything else: such a client receives everything."""
        match = _TOKEN.fullmatch(text)
        if match is None:
            return None
        try:
            return cls(int(match[1]), Status(match[2]), Phase(match[3]), match[4])
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.attempt}-{self.status.value}-{self.phase.value}-{self.digest or ''}"

    def knows_progress(self, execution: Execution) -> bool:
        """Whether the client has seen the execution's last report."""
        return self.digest == _digest(execution.progress)

    def as_execution(self, execution: Execution) -> Execution:
        """The execution as the client last saw it, as far as `frames.frames_between` needs it."""
        progress = execution.progress if self.knows_progress(execution) else None
        return Execution(
            execution.execution_id, self.status, self.phase, progress, attempt=self.attempt
        )


def _digest(progress: Progress | None) -> str | None:
    """A digest of what `Progress.same_as` compares."""
    if progress is None:
        return None
    compared = [progress.current, progress.total, progress.message, progress.attributes]
    return blake2b(serialize.encode(serialize.json_safe(compared)), digest_size=6).hexdigest()


class EventViewer:
    """One event stream: the hub fills its backlog, the server's thread writes what is in it."""

    def __init__(
        self,
        serializer: ProgressSerializer | None,
        heartbeat: float,
        counts: Counts,
        last_event_id: str,
        clock: Callable[[], datetime],
        *,
        first_read: float,
    ) -> None:
        self._serializer = serializer
        self._heartbeat = heartbeat
        self._counts = counts
        self._clock = clock
        self._first_read = first_read
        #: What the client knew when it connected, until the first change is delivered.
        self._resume_token = ResumeToken.parse(last_event_id)
        self.reconnecting = self._resume_token is not None
        self._socket = next(
            (request.environ[name] for name in SOCKETS if name in request.environ), None
        )
        self._changed = threading.Condition()
        self._backlog: Backlog[_Event] = Backlog()
        self._delivered = False
        self._error: HeadwayError | None = None
        self._ended = False
        #: The client has seen the execution's end already.
        self._knows_the_end = False
        #: The last progress sent with ``serializer``.
        self._shown: Progress | None = None
        #: When the server started to write the current event; None while it waits for the next one.
        self._writing: float | None = None

    def deliver(self, change: Change) -> None:
        """See `Viewer`."""
        if self._resume_token is None:
            changes: Sequence[Frame] = change.frames
        else:
            changes = self._since(self._resume_token, change)
        with self._changed:
            self._delivered, self._resume_token = True, None
            for frame in changes:
                if merged := self._backlog.put(_Event(frame, change.execution)):
                    self._counts.add(Count.MERGED, merged)
            self._knows_the_end = (
                not changes and change.execution is not None and change.execution.status.terminal
            )
            # A response that has started ends here; the client gets the 204 when it reconnects.
            self._ended |= self._knows_the_end
            self._changed.notify()

    def _since(self, resume_token: ResumeToken, change: Change) -> Sequence[Frame]:
        """The frames that a client has missed.

        While the backend is unavailable this is unknown; a ``status`` frame follows later.
        """
        execution = change.execution
        if execution is None:
            return change.frames
        if resume_token.knows_progress(execution):
            self._shown = execution.progress
        before = resume_token.as_execution(execution)
        return [Frame(each) for each in frames.frames_between(before, execution, self._clock())]

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """See `Viewer`. If the response has started, the client learns why when it reconnects."""
        with self._changed:
            self._error, self._ended = error, True
            self._changed.notify()

    def check(self, now: float) -> None:
        """Disconnect a client that does not read: the server's write would block for ever."""
        if (
            self._writing is not None
            and now - self._writing > 2 * self._heartbeat
            and self._socket is not None
        ):
            sock, self._socket = self._socket, None
            self._counts.add(Count.CUT_OFF)
            try:
                getattr(sock, "_sock", sock).shutdown(socket.SHUT_RDWR)
            except OSError as exc:
                log.debug("The client was gone already: %s", exc)

    def end(self, code: int, reason: str) -> None:
        """See `Stream`. Events have no close code: the stream ends and the client reconnects."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def knows_the_end(self) -> bool:
        """Wait for the first change: whether the client has seen everything that there will be.

        Raises if the execution does not exist.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._delivered or self._ended, self._first_read)
            if self._error is not None:
                raise self._error
            return self._knows_the_end

    def events(self) -> Iterator[bytes]:
        """The body, until the execution ends, the client leaves or the server stops."""
        yield f"retry: {random.randint(*RETRY)}\n\n".encode()  # noqa: S311 - jitter
        while True:
            with self._changed:
                self._writing = None
                self._changed.wait_for(lambda: len(self._backlog) or self._ended, self._heartbeat)
                event = self._backlog.take()
                if event is None and self._ended:
                    return
                self._writing = time.monotonic()
            if event is None:
                # Only a write shows that a client is gone (web-facts#sse-notices-on-write).
                yield b":\n\n"
                continue
            if self._serializer is None:
                kind = f"event: {event.frame.kind}\ndata: ".encode()
                yield event.id_line + kind + event.frame.body + b"\n\n"
            elif event.execution is not None:
                yield from self._serialized(event, event.execution, self._serializer)
            if event.frame.terminal:
                return

    def _serialized(
        self, event: _Event, execution: Execution, serializer: ProgressSerializer
    ) -> Iterator[bytes]:
        progress = execution.progress
        if progress is not None and not progress.same_as(self._shown):
            self._shown = progress
            yield event.id_line + b"data: " + serialize.encode(serializer(progress)) + b"\n\n"
        elif event.frame.terminal:
            yield event.id_line + b"\n"  # no event, but an id for the next connection


@dataclass(frozen=True, slots=True)
class _Event:
    frame: Frame
    execution: Execution | None

    @property
    def execution_id(self) -> str | None:
        return self.frame.execution_id

    @property
    def mergeable(self) -> bool:
        return self.frame.mergeable

    @property
    def change(self) -> ProgressChange | None:
        return self.frame.change

    @property
    def id_line(self) -> bytes:
        """The ``id`` line; empty if the client knows no more than before."""
        if self.execution is None:
            return b""
        resume_token = ResumeToken.after_frame(self.frame.kind, self.execution)
        return b"" if resume_token is None else f"id: {resume_token}\n".encode()


def _response(body: Iterator[bytes]) -> Response:
    response = Response(body, mimetype="text/event-stream")
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # otherwise nginx buffers the events
    return response
