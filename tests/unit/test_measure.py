"""How the benchmarks measure: both sides get the same rounds, and ratios are per round."""

from __future__ import annotations

import pytest

from benchmarks.measure import ROUNDS, Size, alternate, ratio


def test_alternate_changes_the_order_each_round() -> None:
    """Each side runs once per round with the same count, and no side is always first."""
    order: list[str] = []
    samples = alternate(
        {"a": lambda _: order.append("a"), "b": lambda _: order.append("b")}, Size.QUICK, count=1
    )
    assert len(samples["a"]) == len(samples["b"]) == ROUNDS[Size.QUICK]
    rounds = [tuple(order[at : at + 2]) for at in range(0, len(order), 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}


def test_ratio_is_the_median_of_the_rounds() -> None:
    """The median is that of the ratios of the rounds, so a delay that hits both sides of a round
    has no effect.
    """
    steady = ratio([2.0] * 9, [1.0] * 9)
    assert (steady.median, steady.low, steady.high, steady.best) == pytest.approx(
        (2.0, 2.0, 2.0, 2.0)
    )
    assert ratio([2.0] * 6 + [200.0] * 4, [1.0] * 6 + [100.0] * 4).median == pytest.approx(2.0)
