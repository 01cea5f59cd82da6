"""How fast an attempt gets on: units a second, smoothed."""

from __future__ import annotations

import math

#: Seconds after which an old observation counts for a third.
TIME_CONSTANT = 5.0
#: No single observation counts for more than this, however long it took: a job that reports once a
#: minute is smoothed too.
MAX_WEIGHT = 0.5


class Rate:
    """A smoothed speed that is told of reports, one by one. Holds no clock: times are seconds of
    any monotonic one.

    What went before is forgotten where it says nothing about what comes: the count went back (a
    second pass), or the total changed (another job). Until two reports are known the rate is None.
    """

    __slots__ = ("_at", "_current", "_total", "value")

    def __init__(self) -> None:
        #: Units a second; None while unknown.
        self.value: float | None = None
        self._current: float = 0
        self._total: float = 0
        self._at: float | None = None

    def observe(self, current: float, total: float, at: float) -> float | None:
        """Take in one report, made ``at`` seconds; returns the rate now."""
        before, elapsed = self._current, at - self._at if self._at is not None else 0.0
        if self._at is not None and total == self._total and current >= before:
            if elapsed <= 0:
                return (
                    self.value
                )  # two reports of one moment tell no speed: the later one counts with the next
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
