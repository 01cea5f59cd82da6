"""Watching over a line that breaks: one WebSocket while it holds, another one when it doesn't, REST
where none gets through.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection

from headway.client.error_mapping import CLOSES, CODES, error_from_code
from headway.client.http import Http, body_of
from headway.core import frames
from headway.core.events import AnyEvent, Interrupted, event_of, events_of
from headway.core.serialize import execution_from_json
from headway.errors import (
    ExecutionExpired,
    ExecutionNotFound,
    HeadwayError,
    NotFinished,
    TooManyRequests,
    Unavailable,
    UnexpectedResponse,
)
from headway.models import Execution

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that the server may be away, unless told otherwise.
PATIENCE = 300.0
#: Seconds until a socket says ``status``, which is always first: what lets the upgrade through and
#: then nothing is no way.
FIRST_FRAME = 10.0
#: The first pause before coming back, and the longest; seconds. Each is drawn between zero and
#: twice the one before.
PAUSE, LONGEST_PAUSE = 0.5, 20.0
#: The least bound of the pause where the server says that it goes, or is full: all its viewers come
#: back at once (web fact 11).
SENT_AWAY = 5.0
GOING_DOWN, FULL = 1012, 1013
#: Sockets in a row that didn't open while REST answered, after which REST is polled; and for how
#: long until the next is tried.
TRIES, POLL_SPELL = 2, 60.0
#: Seconds that a poll is held by the server, and between two that aren't.
WAIT, POLL_PAUSE = 20.0, 1.0
#: Bytes of ids in one message, roughly: well below what any server of ours takes.
MESSAGE = 8 * 1024


def utc_now() -> datetime:
    """The clock, unless another one is given."""
    return datetime.now(UTC)


def reading(read: Callable[[Any], T], body: Any) -> T:
    """What ``read`` makes of an answer, or ``UnexpectedResponse`` where the answer isn't of the
    contract.
    """
    try:
        return read(body)
    except (KeyError, TypeError, ValueError) as exc:
        raise UnexpectedResponse(
            f"The answer isn't what this version of Headway understands: {exc!r}"
        ) from exc


class _ConnectionLost(Exception):
    """The line is cut. ``blocked``: no socket came to be, and it may be that none ever will."""

    def __init__(self, why: str, *, blocked: bool = False, at_least: float = 0.0) -> None:
        super().__init__(why)
        self.blocked = blocked
        self.at_least = at_least


class EventStream:
    """One call of `Client.watch`. ``pause`` waits for seconds; the clocks are arguments, for tests."""

    def __init__(
        self,
        http: Http,
        execution_ids: Iterable[str],
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        patience: float = PATIENCE,
        pause: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._http = http
        #: What hasn't ended, in the order given.
        self._open = dict.fromkeys(execution_ids)
        self._only = len(self._open) == 1
        self._timeout, self._deadline, self._patience = timeout, deadline, patience
        self._pause = pause if pause is not None else threading.Event().wait
        self._monotonic, self._clock = monotonic, clock
        #: When the line was cut, by ``monotonic``; None while it holds.
        self._cut_at: float | None = None
        #: Nothing was heard yet: a wrong address isn't worth waiting for.
        self._fresh = True
        #: The bound of the next pause.
        self._bound = PAUSE
        #: Sockets in a row that didn't come to be.
        self._blocked = 0
        #: What polling has shown, and its ETags, since the line was last cut.
        self._shown: dict[str, Execution] = {}
        self._tags: dict[str, str] = {}

    def events(self) -> Iterator[AnyEvent]:
        """See `Client.watch`."""
        while self._open:
            try:
                if self._blocked >= TRIES:
                    yield from self._polled(self._monotonic() + POLL_SPELL)
                    self._blocked = TRIES - 1  # one more try, and back
                else:
                    yield from self._streamed()
            except _ConnectionLost as lost:
                yield from self._cut(lost)

    # -- the socket

    def _streamed(self) -> Iterator[AnyEvent]:
        """One connection, until all have ended or it is lost."""
        ids = list(self._open)
        # One execution has a path of its own: an app's own rule may let somebody see one, and
        # refuse the socket for many.
        path = ("executions", ids[0], "progress", "ws") if len(ids) == 1 else ("progress", "ws")
        heard = False
        try:
            with self._http.socket(*path) as socket:
                if len(ids) > 1:
                    for message in _subscriptions(ids):
                        socket.send(message)
                while self._open:
                    frame = self._next(socket, None if heard else FIRST_FRAME)
                    if not heard:
                        heard, self._blocked = True, 0
                        self._restored()
                        self._forget()
                    for event in reading(lambda said: events_of(json.loads(said)), frame):
                        yield from self._take(event)
        except NotFinished:
            raise  # a TimeoutError, and so an OSError
        except ConnectionClosed as exc:
            if exc.rcvd is None:
                raise _ConnectionLost("The connection was lost", blocked=not heard) from exc
            if exc.rcvd.code in CLOSES:
                raise error_from_code(CLOSES[exc.rcvd.code], ids[0], exc.rcvd.reason) from exc
            at_least = SENT_AWAY if exc.rcvd.code in (GOING_DOWN, FULL) else 0.0
            raise _ConnectionLost(
                exc.rcvd.reason or "The server closed",
                blocked=exc.rcvd.code == FULL,
                at_least=at_least,
            ) from exc
        except (OSError, WebSocketException) as exc:
            raise _ConnectionLost(f"{self._http.base} can't be watched", blocked=not heard) from exc

    def _next(self, socket: ClientConnection, within: float | None) -> str | bytes:
        """The next frame. Raises ``TimeoutError`` after ``within`` seconds, ``NotFinished`` at the
        deadline.
        """
        left = self._left()
        bound = min((seconds for seconds in (within, left) if seconds is not None), default=None)
        try:
            return socket.recv(timeout=bound)
        except TimeoutError:
            if bound == left:
                self._give_up()
            raise

    # -- REST

    def _polled(self, until: float) -> Iterator[AnyEvent]:
        """Polling, until all have ended or the spell is over. Held polls for one, plain ones for
        many: a held one is a seat.
        """
        hold = len(self._open) == 1
        while self._open and self._monotonic() < until:
            pause = 0.0 if hold else POLL_PAUSE
            for execution_id in list(self._open):
                if self._left() == 0:
                    self._give_up()
                try:
                    now = self._look(execution_id, hold)
                except TooManyRequests as exc:
                    hold, pause = False, exc.retry_after
                    continue
                except (ExecutionNotFound, ExecutionExpired) as exc:
                    yield from self._refused(execution_id, exc)
                    continue
                self._restored()
                if now is not None:
                    yield from self._told(now)
            if self._open and pause:
                self._rest(pause)

    def _look(self, execution_id: str, hold: bool) -> Execution | None:
        """What it is now; None where nothing has changed."""
        wait = WAIT if (left := self._left()) is None else min(WAIT, left)
        tag = self._tags.get(execution_id)
        headers = {} if tag is None else {"If-None-Match": tag}
        params = {"wait": wait} if hold and tag is not None else {}
        try:
            answer = self._http.call(
                "GET",
                "executions",
                execution_id,
                about=execution_id,
                headers=headers,
                params=params,
                longer=WAIT,
            )
        except Unavailable as exc:
            raise _ConnectionLost(str(exc), at_least=exc.retry_after) from exc
        if answer.status_code == 304:
            return None
        if "ETag" in answer.headers:
            self._tags[execution_id] = answer.headers["ETag"]
        return reading(execution_from_json, body_of(answer))

    def _told(self, now: Execution) -> Iterator[AnyEvent]:
        """What a viewer of the stream would be told of it."""
        before = self._shown.get(now.execution_id)
        self._shown[now.execution_id] = now
        at = self._clock()
        for frame in (
            frames.opening_frames(now, at)
            if before is None
            else frames.frames_between(before, now, at)
        ):
            yield from self._take(event_of(frame))

    # -- both

    def _take(self, event: AnyEvent) -> Iterator[AnyEvent]:
        """What is told of an event: nothing of what has ended."""
        execution_id = event.execution_id
        if isinstance(event, Interrupted) and event.code in CODES and execution_id in self._open:
            assert execution_id is not None
            yield from self._refused(
                execution_id, error_from_code(CODES[event.code], execution_id, event.message)
            )
        elif execution_id in self._open or (
            isinstance(event, Interrupted) and execution_id is None
        ):
            if event.terminal:
                del self._open[str(execution_id)]
            yield event

    def _refused(self, execution_id: str, error: HeadwayError) -> Iterator[AnyEvent]:
        """Nothing can be told of this one: the only one's error, or else a word among the others'."""
        if self._only:
            raise error
        del self._open[execution_id]
        code = next(
            (
                code
                for code, status in CODES.items()
                if type(error_from_code(status, "", "")) is type(error)
            ),
            "not_found",
        )
        yield Interrupted(code, str(error), self._clock(), execution_id)

    def _restored(self) -> None:
        self._cut_at, self._fresh, self._bound = None, False, PAUSE

    def _cut(self, lost: _ConnectionLost) -> Iterator[AnyEvent]:
        """Say once that the line is cut, and wait before the next try."""
        now = self._monotonic()
        if lost.blocked and self._answers():
            # REST answers where no socket opens: nothing is lost as long as it is asked instead.
            self._blocked += 1
            log.info("%s; that was try %d", lost, self._blocked, exc_info=lost)
            return
        if self._fresh or (self._cut_at is not None and now - self._cut_at >= self._patience):
            raise Unavailable(str(lost)) from lost
        if self._cut_at is None:
            self._cut_at = now
            self._forget()
            yield Interrupted("unavailable", f"{lost}; trying again", self._clock())
        self._rest(random.uniform(0, max(self._bound, lost.at_least)))  # noqa: S311 - no secret
        self._bound = min(LONGEST_PAUSE, self._bound * 2)

    def _answers(self) -> bool:
        """Whether REST answers. Raises what it says of the only execution that is watched, as no
        handshake can.
        """
        execution_id = next(iter(self._open))
        try:
            self._http.call("GET", "executions", execution_id, about=execution_id)
        except (ExecutionNotFound, ExecutionExpired):
            if self._only:
                raise
        except (Unavailable, TooManyRequests, UnexpectedResponse):
            if self._fresh:
                raise  # a wrong address isn't worth waiting for
            return False
        return True

    def _forget(self) -> None:
        """What was polled is old: the next poll begins anew."""
        self._shown.clear()
        self._tags.clear()

    def _rest(self, seconds: float) -> None:
        left = self._left()
        self._pause(seconds if left is None else min(seconds, left))
        if left is not None and left <= seconds:
            self._give_up()

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - self._monotonic())

    def _give_up(self) -> NoReturn:
        raise NotFinished(
            next(iter(self._open)), self._timeout if self._timeout is not None else 0.0
        )


def _subscriptions(ids: list[str]) -> Iterator[str]:
    """The messages that ask for these executions, none of them too long for the server."""
    part: list[str] = []
    size = 0
    for execution_id in ids:
        length = len(json.dumps(execution_id)) + 2
        if part and size + length > MESSAGE:
            yield json.dumps({"subscribe": part})
            part, size = [], 0
        part.append(execution_id)
        size += length
    yield json.dumps({"subscribe": part})
