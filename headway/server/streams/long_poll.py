"""A held poll (``?wait=``): a viewer that wants one state and goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headway.errors import HeadwayError, Unavailable
from headway.models import Execution
from headway.server.streams.changes import Change

#: Seconds that the first read may take, even where less is left to wait.
FIRST_READ = 5.0


class LongPoll:
    """A held poll: a viewer that wants one state. What it wants is asked in its own thread: that
    may need its request.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._told = False
        self._over = False
        self._newest: Execution | None = None
        self._error: HeadwayError | None = None

    def tell(self, change: Change) -> None:
        """See `news.Viewer`."""
        self._note(change.execution, Unavailable() if change.execution is None else None)

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """See `news.Viewer`."""
        self._note(None, error)

    def check(self, now: float) -> None:
        """A held poll lasts for seconds: nothing to look after."""

    def end(self, code: int, reason: str) -> None:
        """The server is going down: answer with what there is."""
        with self._changed:
            self._over = True
            self._changed.notify()

    def _note(self, execution: Execution | None, error: HeadwayError | None) -> None:
        with self._changed:
            self._newest, self._error, self._told = execution, error, True
            self._changed.notify()

    def wait(self, is_news: Callable[[Execution], bool], timeout: float) -> Execution:
        """See `Hub.wait`."""
        begun = time.monotonic()
        newest: Execution | None = None
        while True:
            with self._changed:
                while (
                    not self._told
                    and (left := begun + self._bound(newest, timeout) - time.monotonic()) > 0
                ):
                    self._changed.wait(left)
                told, self._told = self._told, False
                if self._error is not None:
                    raise self._error
                newest = self._newest
            if newest is None:
                raise Unavailable
            if not told or self._over or is_news(newest):
                return newest

    def _bound(self, newest: Execution | None, timeout: float) -> float:
        """Seconds to wait in all. A server that goes down still answers who asks it now, as soon as
        it can.
        """
        if self._over:
            return 0.0 if newest is not None else FIRST_READ
        return timeout if newest is not None else max(timeout, FIRST_READ)
