"""Waiting for a condition, never for time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

#: Seconds between two looks: short enough that no test is slowed by it, long enough that looking
#: costs nothing.
PAUSE = 0.01


def until(condition: Callable[[], T], *, within: float = 60.0, what: str = "") -> T:
    """The first truthy value of ``condition()``, asked again and again for at most ``within``
    seconds.

    Raises ``AssertionError`` with ``what`` (what was waited for) and the last value. An exception
    of the condition is not swallowed: a condition that may fail at first says so itself, by
    returning something falsy.
    """
    deadline = time.monotonic() + within
    pause = (
        threading.Event()
    )  # never set; under gevent monkey patching it yields like everything else
    while True:
        # Looked at before the condition: who is held up between the two asks once more, and doesn't
        # judge by an old answer.
        over = time.monotonic() >= deadline
        value = condition()
        if value:
            return value
        if over:
            wanted = what or getattr(condition, "__name__", repr(condition))
            raise AssertionError(f"waited {within:g} s for {wanted}; the last answer was {value!r}")
        pause.wait(PAUSE)
