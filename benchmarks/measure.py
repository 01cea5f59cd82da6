"""Measuring two or more ways to do one thing, so that the machine's moods hit all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: Does it n times; what that takes is measured.
Side = Callable[[int], object]

#: Seconds that one side is given in one round, and how many rounds there are: usually, and with
#: --quick. Many short ones, so that on a busy machine some of them are left alone.
SPAN = 0.015
ROUNDS = {False: 90, True: 20}


def alternate(
    sides: Mapping[str, Side], *, quick: bool, count: int | None = None
) -> dict[str, list[float]]:
    """Seconds a call, per round and side.

    Each round runs every side once, each round beginning with another one: what drifts (heat, other
    processes, a database that grows) falls on all. Each side is warmed up first, and does ``count``
    calls, or as many as fit into the span.
    """
    counts = {name: count or _calibrated(side, SPAN) for name, side in sides.items()}
    names = list(sides)
    taken: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.disable()  # a collection would hit whoever is at it
    try:
        for number in range(ROUNDS[quick]):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                taken[name].append(_timed(sides[name], counts[name]) / counts[name])
    finally:
        gc.enable()
    return taken


@dataclass(frozen=True)
class Ratio:
    """How many times of theirs ours takes."""

    #: Over all rounds: the median, and the quartiles around it.
    median: float
    low: float
    high: float
    #: The fastest rounds of both (the tenth part) against each other: what is left when nothing
    #: else disturbs.
    best: float


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Compare two sides of one `alternate`."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(ours, theirs, strict=True)], n=4
    )
    return Ratio(
        middle,
        low,
        high,
        statistics.quantiles(ours, n=10)[0] / statistics.quantiles(theirs, n=10)[0],
    )


def _calibrated(side: Side, span: float) -> int:
    side(10)
    count = 10
    while (taken := _timed(side, count)) < span / 4:
        count *= 4
    return max(1, round(count * span / taken))


def _timed(side: Side, count: int) -> float:
    begin = time.perf_counter()
    side(count)
    return time.perf_counter() - begin
