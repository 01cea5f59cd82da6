"""A held poll (``?wait=``): a viewer that waits for one state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headway.errors import HeadwayError, Unavailable
from headway.models import Execution
from headway.server.streams.changes import Change


class LongPoll:
    """A held poll.

    The request's own thread evaluates the condition that it waits for, which may need the request.
    The first read may take ``first_read`` seconds, even if less time is left to wait.
    """

    def __init__(self, first_read: float) -> None:
        self._changed = threading.Condition()
        self._first_read = first_read
        self._delivered = False
        self._ended = False
        self._newest: Execution | None = None
        self._error: HeadwayError | None = None

    def deliver(self, change: Change) -> None:
        """See `Viewer`."""
        self._set(change.execution, Unavailable() if change.execution is None else None)

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """See `Viewer`."""
        self._set(None, error)

    def check(self, now: float) -> None:
        """See `Stream`. A held poll takes seconds at most: there is nothing to check."""

    def end(self, code: int, reason: str) -> None:
        """See `Stream`. Respond with the newest state."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _set(self, execution: Execution | None, error: HeadwayError | None) -> None:
        with self._changed:
            self._newest, self._error, self._delivered = execution, error, True
            self._changed.notify()

    def wait(self, accept: Callable[[Execution], bool], timeout: float) -> Execution:
        """See `Hub.wait`."""
        start = time.monotonic()
        newest: Execution | None = None
        while True:
            with self._changed:
                while (
                    not self._delivered
                    and (left := start + self._bound(newest, timeout) - time.monotonic()) > 0
                ):
                    self._changed.wait(left)
                delivered, self._delivered = self._delivered, False
                if self._error is not None:
                    raise self._error
                newest = self._newest
            if newest is None:
                raise Unavailable
            if not delivered or self._ended or accept(newest):
                return newest

    def _bound(self, newest: Execution | None, timeout: float) -> float:
        """Seconds to wait since the start. A server that shuts down still waits for the read."""
        if self._ended:
            return 0.0 if newest is not None else self._first_read
        return timeout if newest is not None else max(timeout, self._first_read)
