"""Times two or more ways to do one thing in alternating rounds, so that disturbances hit all."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

#: Does the work ``n`` times. The whole call is timed.
Side = Callable[[int], object]


class Size(StrEnum):
    """How much is measured. ``SMOKE`` only shows that the benchmarks run."""

    FULL = "full"
    QUICK = "quick"
    SMOKE = "smoke"


#: Seconds of one side in one round, and the number of rounds. Many short rounds, so that on a busy
#: machine some of them are not disturbed.
SECONDS = 0.015
ROUNDS = {Size.FULL: 90, Size.QUICK: 20, Size.SMOKE: 2}


def alternate(
    sides: Mapping[str, Side], size: Size, *, count: int | None = None
) -> dict[str, list[float]]:
    """Seconds per call, for each side and round.

    Each round runs every side once, and starts with another side than the round before: a drift
    (heat, other processes, a growing database) affects all sides alike. Each side is warmed up
    first. It does ``count`` calls per round, or as many as fit into `SECONDS`.
    """
    if size is Size.SMOKE:
        count = count or 5
    counts = {name: count or _calibrate(side, SECONDS) for name, side in sides.items()}
    names = list(sides)
    samples: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()  # a collection would add to one side at random
    try:
        for number in range(ROUNDS[size]):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                samples[name].append(_timed(sides[name], counts[name]) / counts[name])
    finally:
        gc.enable()
    return samples


def repeat(call: Callable[[], object]) -> Side:
    """A side that makes one call ``n`` times."""

    def repeated(count: int) -> None:
        for _ in range(count):
            call()

    return repeated


@dataclass(frozen=True)
class Ratio:
    """The cost of our side divided by the cost of the other side."""

    #: Over all rounds: median and quartiles.
    median: float
    low: float
    high: float
    #: The fastest tenth of our rounds divided by that of the other side: without disturbances.
    best: float


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Compare two sides of one `alternate`."""
    rounds = [divide(a, b) for a, b in zip(ours, theirs, strict=True)]
    low, median, high = statistics.quantiles(rounds, n=4)
    fastest = [statistics.quantiles(side, n=10)[0] for side in (ours, theirs)]
    return Ratio(median, low, high, divide(*fastest))


def divide(ours: float, theirs: float) -> float:
    """The ratio; infinite if the other side was too short to be measured (`Size.SMOKE`)."""
    return ours / theirs if theirs else math.inf


def _calibrate(side: Side, seconds: float) -> int:
    """The number of calls that take ``seconds``."""
    side(10)
    count = 10
    while (elapsed := _timed(side, count)) < seconds / 4:
        count *= 4
    return max(1, round(count * seconds / elapsed))


def _timed(side: Side, count: int) -> float:
    start = time.perf_counter()
    side(count)
    return time.perf_counter() - start
