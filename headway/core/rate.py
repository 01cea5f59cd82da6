"""The speed of an attempt: units per second, smoothed."""

from __future__ import annotations

import math

#: Seconds after which an old observation counts for a third.
TIME_CONSTANT = 5.0
#: The most that one observation counts for, however long it took, so that a job that reports once a
#: minute is smoothed too.
MAX_WEIGHT = 0.5


class Rate:
    """A smoothed rate, fed with one report after the other. Times are monotonic seconds.

    Starts again if the past says nothing about the future: the count went back (a second pass), or
    the total changed (different work). The rate is None until there are two reports.
    """

    __slots__ = ("_at", "_current", "_total", "value")

    def __init__(self) -> None:
        #: Units per second; None while unknown.
        self.value: float | None = None
        self._current: float = 0
        self._total: float = 0
        self._at: float | None = None

    def observe(self, current: float, total: float, at: float) -> float | None:
        """Add a report made ``at`` seconds. Returns the new rate."""
        before, elapsed = self._current, at - self._at if self._at is not None else 0.0
        if self._at is not None and total == self._total and current >= before:
            if elapsed <= 0:
                # Two reports at the same time have no speed. The second counts with the next one.
                return self.value
            self._smooth((current - before) / elapsed, elapsed)
        else:
            self.value = None
        self._current, self._total, self._at = current, total, at
        return self.value

    def _smooth(self, speed: float, elapsed: float) -> None:
        if not math.isfinite(speed):
            self.value = None
        elif self.value is None:
            self.value = speed
        else:
            weight = min(MAX_WEIGHT, 1 - math.exp(-elapsed / TIME_CONSTANT))
            self.value += weight * (speed - self.value)
