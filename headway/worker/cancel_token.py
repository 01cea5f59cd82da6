"""`CancelToken`: how one attempt learns that its cancellation is requested.

Nothing interrupts the task's code. The request is in the store; the reply to every report's write
returns it, and ``ctx.cancelled`` reads it. The attempt then ends itself by raising `TaskCancelled`,
and only then the execution is ``cancelled``: an attempt that finishes first is completed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from headway.worker.exceptions import TaskCancelled

#: Seconds between two reads of the store by ``ctx.cancelled``, at least. The write of a report
#: counts as a read.
POLL_INTERVAL = 1.0


class CancelToken:
    """Whether the cancellation of one attempt is requested, as far as this process knows.

    Any thread may use it. ``read`` reads the store within a bounded time and raises none of its
    errors; without it the answer is always no (a direct call, eager mode).
    """

    __slots__ = ("_clock", "_due", "_read", "on_request", "requested")

    def __init__(
        self, read: Callable[[], bool] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        #: Once True, always True: a request cannot be withdrawn.
        self.requested = False
        #: Called when the request becomes known.
        self.on_request: Callable[[], None] | None = None
        self._read, self._clock = read, clock
        self._due = float("-inf")

    def set_requested(self, requested: bool) -> None:
        """Take the answer of the store."""
        if requested:
            self.requested = True
            if self.on_request is not None:
                self.on_request()
        else:
            self._due = self._clock() + POLL_INTERVAL

    def poll(self) -> bool:
        """Whether it is requested. Reads the store if the last answer is older than
        `POLL_INTERVAL`.
        """
        if self.requested or self._read is None or self._clock() < self._due:
            return self.requested
        # Set before the read, so that other threads of the task do not read too.
        self._due = self._clock() + POLL_INTERVAL
        self.set_requested(self._read())
        return self.requested


def handling_cancellation() -> bool:
    """Whether the caller handles a `TaskCancelled` (in an ``except``, a ``finally``, an
    ``__exit__``).

    Raising there again would skip the rest of the clean-up. A loop that swallows the exception and
    continues is not in such a block.
    """
    error = sys.exc_info()[1]
    for _ in range(100):  # a context chain made by hand may be a cycle
        if error is None:
            return False
        if isinstance(error, TaskCancelled):
            return True
        error = error.__context__
    return False
