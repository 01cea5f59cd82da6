"""What the benchmarks compute: that both sides get the same, and that the ratios are of what was
measured.
"""

from __future__ import annotations

import pytest

from benchmarks.measure import ROUNDS, alternate, ratio


def test_alternate() -> None:
    """Each side runs once a round with the same count, and no side is always the first."""
    order: list[str] = []
    taken = alternate(
        {"a": lambda _: order.append("a"), "b": lambda _: order.append("b")}, quick=True, count=1
    )
    assert len(taken["a"]) == len(taken["b"]) == ROUNDS[True]
    rounds = [tuple(order[at : at + 2]) for at in range(0, len(order), 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}


def test_ratio() -> None:
    """The median is of the rounds' own ratios, so that a slow moment that hit both sides of a round
    counts for nothing.
    """
    quiet = ratio([2.0] * 9, [1.0] * 9)
    assert (quiet.median, quiet.low, quiet.high, quiet.best) == pytest.approx((2.0, 2.0, 2.0, 2.0))
    assert ratio([2.0] * 6 + [200.0] * 4, [1.0] * 6 + [100.0] * 4).median == pytest.approx(2.0)
