"""Wait for a condition, never for time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tests.support.timing import seconds

T = TypeVar("T")

#: Seconds between two calls of the condition.
PAUSE = 0.01


def until(condition: Callable[[], T | None], *, within: float = 60.0, what: str = "") -> T:
    """Call ``condition`` until its value is truthy, and return that value.

    ``within``: the time limit in seconds, before `timing.seconds` scales it.
    Raises ``AssertionError`` with ``what`` (the thing waited for) and the last value. An exception
    of the condition is not caught: a condition that may fail at first has to return a falsy value.
    """
    limit = seconds(within)
    deadline = time.monotonic() + limit
    pause = threading.Event()  # never set; a monkey-patched gevent makes it yield
    while True:
        # Read the clock before the condition: a process that was suspended in between calls the
        # condition once more and does not fail because of an old value.
        over = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if over:
            wanted = what or getattr(condition, "__name__", repr(condition))
            raise AssertionError(f"waited {limit:g} s for {wanted}; the last value was {value!r}")
        pause.wait(PAUSE)
