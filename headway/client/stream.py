"""The event stream of `Client.watch`: a WebSocket that reconnects, or REST polling if WebSockets do
not get through.
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

#: Default of ``reconnect_timeout``, seconds.
RECONNECT_TIMEOUT = 300.0
#: Seconds until a WebSocket must send its first frame. Some proxies accept the upgrade and then
#: forward nothing.
FIRST_FRAME_TIMEOUT = 10.0
#: First and longest backoff before a reconnect, seconds. The pause is random between zero and the
#: backoff, which doubles each time.
MIN_BACKOFF, MAX_BACKOFF = 0.5, 20.0
#: Least backoff if the server restarts or is full: then all its viewers reconnect at the same time
#: (web-facts#handshake-cost).
RESTART_BACKOFF = 5.0
#: Close codes of a server that restarts, and of one with too many viewers.
RESTARTING, FULL = 1012, 1013
#: Failed WebSockets in a row, while REST responds, until REST is polled; and seconds until the next
#: attempt to open a WebSocket.
MAX_ATTEMPTS, POLLING_SECONDS = 2, 60.0
#: Seconds that the server holds a long poll, and between two plain polls.
LONG_POLL_WAIT, POLL_INTERVAL = 20.0, 1.0
#: Approximate limit of the ids in one message, bytes: well below what the server accepts.
MAX_MESSAGE = 8 * 1024


def parse(read: Callable[[Any], T], body: Any) -> T:
    """Apply ``read`` to a body. Raises ``UnexpectedResponse`` if the body breaks the contract."""
    try:
        return read(body)
    except (KeyError, TypeError, ValueError) as exc:
        raise UnexpectedResponse(
            f"This version of Headway does not understand the response: {exc!r}"
        ) from exc


class _ConnectionLost(Exception):
    """The connection failed. ``blocked``: it never worked, so WebSockets may be blocked."""

    def __init__(self, why: str, *, blocked: bool = False, backoff: float = 0.0) -> None:
        super().__init__(why)
        self.blocked = blocked
        self.backoff = backoff


class EventStream:
    """One call of `Client.watch`. ``sleep`` and the clocks are arguments for tests."""

    def __init__(
        self,
        http: Http,
        execution_ids: Iterable[str],
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        reconnect_timeout: float = RECONNECT_TIMEOUT,
        sleep: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._http = http
        #: The ids that have not ended, in the given order.
        self._open = dict.fromkeys(execution_ids)
        self._single = len(self._open) == 1
        self._timeout, self._deadline = timeout, deadline
        self._reconnect_timeout = reconnect_timeout
        self._wait = sleep if sleep is not None else threading.Event().wait
        self._monotonic, self._clock = monotonic, clock
        #: When the connection was lost, by ``monotonic``; None while it works.
        self._disconnected_at: float | None = None
        #: Whether the server has responded at least once. Before that no reconnect is tried: the
        #: address may be wrong.
        self._was_connected = False
        self._backoff = MIN_BACKOFF
        #: Blocked WebSockets in a row.
        self._blocked = 0
        #: Results of polling since the last disconnect, and their ETags.
        self._polled: dict[str, Execution] = {}
        self._etags: dict[str, str] = {}

    def events(self) -> Iterator[AnyEvent]:
        """See `Client.watch`."""
        while self._open:
            try:
                if self._blocked >= MAX_ATTEMPTS:
                    yield from self._poll_until(self._monotonic() + POLLING_SECONDS)
                    self._blocked = MAX_ATTEMPTS - 1  # try one WebSocket, then poll again
                else:
                    yield from self._stream()
            except _ConnectionLost as lost:
                yield from self._handle_disconnect(lost)

    # -- WebSocket

    def _stream(self) -> Iterator[AnyEvent]:
        """One connection, until all executions have ended or it is lost."""
        ids = list(self._open)
        # A single execution has its own path: an app's `authorize` may allow one execution and
        # refuse the socket for many.
        path = ("executions", ids[0], "progress", "ws") if len(ids) == 1 else ("progress", "ws")
        connected = False
        try:
            with self._http.socket(*path) as socket:
                if len(ids) > 1:
                    for message in _subscriptions(ids):
                        socket.send(message)
                while self._open:
                    frame = self._receive(socket, None if connected else FIRST_FRAME_TIMEOUT)
                    if not connected:
                        connected, self._blocked = True, 0
                        self._handle_connect()
                        self._forget_polled()
                    for event in parse(lambda text: events_of(json.loads(text)), frame):
                        yield from self._deliver(event)
        except NotFinished:
            raise  # NotFinished is a TimeoutError, and so an OSError
        except ConnectionClosed as exc:
            if exc.rcvd is None:
                raise _ConnectionLost("The connection was lost", blocked=not connected) from exc
            if exc.rcvd.code in CLOSES:
                raise error_from_code(CLOSES[exc.rcvd.code], ids[0], exc.rcvd.reason) from exc
            raise _ConnectionLost(
                exc.rcvd.reason or "The server closed the connection",
                blocked=exc.rcvd.code == FULL,
                backoff=RESTART_BACKOFF if exc.rcvd.code in (RESTARTING, FULL) else 0.0,
            ) from exc
        except (OSError, WebSocketException) as exc:
            raise _ConnectionLost(
                f"No WebSocket connection to {self._http.base}", blocked=not connected
            ) from exc

    def _receive(self, socket: ClientConnection, timeout: float | None) -> str | bytes:
        """The next frame. Raises ``TimeoutError`` after ``timeout`` seconds, ``NotFinished`` at the
        deadline.
        """
        remaining = self._remaining()
        limits = [seconds for seconds in (timeout, remaining) if seconds is not None]
        limit = min(limits, default=None)
        try:
            return socket.recv(timeout=limit)
        except TimeoutError:
            if limit == remaining:
                self._raise_not_finished()
            raise

    # -- REST

    def _poll_until(self, end: float) -> Iterator[AnyEvent]:
        """Poll until all executions have ended, or until ``end``.

        Long polls for one execution, plain polls for many: each long poll counts as a viewer of the
        server.
        """
        long_poll = len(self._open) == 1
        while self._open and self._monotonic() < end:
            pause = 0.0 if long_poll else POLL_INTERVAL
            for execution_id in list(self._open):
                if self._remaining() == 0:
                    self._raise_not_finished()
                try:
                    execution = self._poll(execution_id, long_poll)
                except TooManyRequests as exc:
                    long_poll, pause = False, exc.retry_after
                    continue
                except (ExecutionNotFound, ExecutionExpired) as exc:
                    yield from self._refuse(execution_id, exc)
                    continue
                self._handle_connect()
                if execution is not None:
                    yield from self._deliver_polled(execution)
            if self._open and pause:
                self._sleep(pause)

    def _poll(self, execution_id: str, long_poll: bool) -> Execution | None:
        """The current state; None if it has not changed."""
        remaining = self._remaining()
        wait = LONG_POLL_WAIT if remaining is None else min(LONG_POLL_WAIT, remaining)
        etag = self._etags.get(execution_id)
        try:
            response = self._http.call(
                "GET",
                "executions",
                execution_id,
                execution_id=execution_id,
                headers={} if etag is None else {"If-None-Match": etag},
                params={"wait": wait} if long_poll and etag is not None else {},
                extra_timeout=LONG_POLL_WAIT,
            )
        except Unavailable as exc:
            raise _ConnectionLost(str(exc), backoff=exc.retry_after) from exc
        if response.status_code == 304:
            return None
        if "ETag" in response.headers:
            self._etags[execution_id] = response.headers["ETag"]
        return parse(execution_from_json, body_of(response))

    def _deliver_polled(self, execution: Execution) -> Iterator[AnyEvent]:
        """Yield the events that a WebSocket would have sent for this change."""
        before = self._polled.get(execution.execution_id)
        self._polled[execution.execution_id] = execution
        at = self._clock()
        for frame in (
            frames.opening_frames(execution, at)
            if before is None
            else frames.frames_between(before, execution, at)
        ):
            yield from self._deliver(event_of(frame))

    # -- both

    def _deliver(self, event: AnyEvent) -> Iterator[AnyEvent]:
        """Yield an event, unless its execution has already ended."""
        execution_id = event.execution_id
        if isinstance(event, Interrupted) and event.code in CODES and execution_id in self._open:
            assert execution_id is not None
            error = error_from_code(CODES[event.code], execution_id, event.message)
            yield from self._refuse(execution_id, error)
        elif execution_id in self._open or (
            isinstance(event, Interrupted) and execution_id is None
        ):
            if event.terminal:
                del self._open[str(execution_id)]
            yield event

    def _refuse(self, execution_id: str, error: HeadwayError) -> Iterator[AnyEvent]:
        """Raise the error of the only execution, or yield it and continue with the others."""
        if self._single:
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

    def _handle_connect(self) -> None:
        self._disconnected_at, self._was_connected, self._backoff = None, True, MIN_BACKOFF

    def _handle_disconnect(self, lost: _ConnectionLost) -> Iterator[AnyEvent]:
        """Yield ``Interrupted`` for the first failure, and pause before the next attempt."""
        now = self._monotonic()
        if lost.blocked and self._is_reachable():
            # Only WebSockets fail. Polling replaces them soon, so nothing is interrupted.
            self._blocked += 1
            log.info("%s; failed attempt %d", lost, self._blocked, exc_info=lost)
            return
        if not self._was_connected or (
            self._disconnected_at is not None
            and now - self._disconnected_at >= self._reconnect_timeout
        ):
            raise Unavailable(str(lost)) from lost
        if self._disconnected_at is None:
            self._disconnected_at = now
            self._forget_polled()
            yield Interrupted("unavailable", f"{lost}; reconnecting", self._clock())
        self._sleep(random.uniform(0, max(self._backoff, lost.backoff)))  # noqa: S311 - no secret
        self._backoff = min(MAX_BACKOFF, self._backoff * 2)

    def _is_reachable(self) -> bool:
        """Whether REST responds. Raises REST's error about the only execution: a failed handshake
        has no such detail.
        """
        execution_id = next(iter(self._open))
        try:
            self._http.call("GET", "executions", execution_id, execution_id=execution_id)
        except (ExecutionNotFound, ExecutionExpired):
            if self._single:
                raise
        except (Unavailable, TooManyRequests, UnexpectedResponse):
            if not self._was_connected:
                raise
            return False
        return True

    def _forget_polled(self) -> None:
        self._polled.clear()
        self._etags.clear()

    def _sleep(self, seconds: float) -> None:
        remaining = self._remaining()
        self._wait(seconds if remaining is None else min(seconds, remaining))
        if remaining is not None and remaining <= seconds:
            self._raise_not_finished()

    def _remaining(self) -> float | None:
        """Seconds until the deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - self._monotonic())

    def _raise_not_finished(self) -> NoReturn:
        timeout = self._timeout if self._timeout is not None else 0.0
        raise NotFinished(next(iter(self._open)), timeout)


def _subscriptions(ids: list[str]) -> Iterator[str]:
    """Messages that subscribe to all ids, each below the server's limit."""
    part: list[str] = []
    size = 0
    for execution_id in ids:
        length = len(json.dumps(execution_id)) + 2
        if part and size + length > MAX_MESSAGE:
            yield json.dumps({"subscribe": part})
            part, size = [], 0
        part.append(execution_id)
        size += length
    yield json.dumps({"subscribe": part})
