"""The smoothed rate of `headway.core.rate`."""

from __future__ import annotations

import pytest

from headway.core.rate import Rate


def test_one_report_tells_no_rate() -> None:
    """Until two reports are known the rate is None."""
    assert Rate().observe(5, 10, 1.0) is None


def test_a_steady_job_has_its_speed() -> None:
    """Reports of equal steps give exactly that speed, from the second one on."""
    rate = Rate()
    assert [rate.observe(step * 20, 1000, float(step)) for step in range(5)] == [
        None,
        20.0,
        20.0,
        20.0,
        20.0,
    ]


def test_a_change_of_speed_is_followed_smoothly() -> None:
    """A job that gets twice as fast moves the rate towards it, and not at once."""
    rate = Rate()
    rate.observe(0, 100, 0.0)
    rate.observe(10, 100, 1.0)
    after = rate.observe(30, 100, 2.0)
    assert after is not None
    assert 10 < after < 20


def test_seldom_reports_are_smoothed_too() -> None:
    """A single observation never counts for more than half, however long it took."""
    rate = Rate()
    rate.observe(0, 0, 0.0)
    rate.observe(60, 0, 60.0)
    assert rate.observe(60, 0, 3600.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("current", "total"), [(1, 100), (20, 200)])
def test_a_step_back_or_another_total_starts_anew(current: float, total: float) -> None:
    """What went before says nothing about a second pass, nor about another total."""
    rate = Rate()
    rate.observe(0, 100, 0.0)
    rate.observe(10, 100, 1.0)
    assert rate.observe(current, total, 2.0) is None
    assert rate.observe(current + 7, total, 3.0) == 7.0


def test_two_reports_of_one_moment_divide_by_nothing() -> None:
    """The second report of the same moment counts with the next one."""
    rate = Rate()
    rate.observe(0, 100, 0.0)
    rate.observe(10, 100, 1.0)
    assert rate.observe(15, 100, 1.0) == 10.0
    assert rate.observe(20, 100, 2.0) == 10.0


def test_absurd_numbers_give_no_rate() -> None:
    """A speed beyond what a float holds is None, not infinity: nobody could parse it (fact 9)."""
    rate = Rate()
    rate.observe(0, 0, 0.0)
    assert rate.observe(1.7e308, 0, 1e-9) is None
