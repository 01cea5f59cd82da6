"""The smoothed rate of `headway.core.rate`."""

from __future__ import annotations

import pytest

from headway.core.rate import Rate


def test_rate_of_one_report_is_none() -> None:
    """The rate is None until there are two reports."""
    assert Rate().observe(5, 10, 1.0) is None


def test_rate_of_steady_job_is_its_speed() -> None:
    """Reports of equal steps have exactly that speed, from the second report on."""
    rate = Rate()
    assert [rate.observe(step * 20, 1000, float(step)) for step in range(5)] == [
        None,
        20.0,
        20.0,
        20.0,
        20.0,
    ]


def test_rate_follows_change_of_speed_gradually() -> None:
    """If a job doubles its speed, the rate moves towards it, but not at once."""
    rate = Rate()
    rate.observe(0, 100, 0.0)
    rate.observe(10, 100, 1.0)
    after = rate.observe(30, 100, 2.0)
    assert after is not None
    assert 10 < after < 20


def test_rare_reports_are_smoothed_too() -> None:
    """One observation counts for at most half, however long it took."""
    rate = Rate()
    rate.observe(0, 0, 0.0)
    rate.observe(60, 0, 60.0)
    assert rate.observe(60, 0, 3600.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("current", "total"), [(1, 100), (20, 200)])
def test_rate_starts_again_after_smaller_count_or_new_total(current: float, total: float) -> None:
    """The past says nothing about a second pass or about another total."""
    rate = Rate()
    rate.observe(0, 100, 0.0)
    rate.observe(10, 100, 1.0)
    assert rate.observe(current, total, 2.0) is None
    assert rate.observe(current + 7, total, 3.0) == 7.0


def test_second_report_at_same_time_counts_with_next() -> None:
    """Two reports at the same time don't divide by zero."""
    rate = Rate()
    rate.observe(0, 100, 0.0)
    rate.observe(10, 100, 1.0)
    assert rate.observe(15, 100, 1.0) == 10.0
    assert rate.observe(20, 100, 2.0) == 10.0


def test_rate_beyond_float_range_is_none() -> None:
    """A speed that exceeds a float is None and not infinity, which is not JSON
    (celery-facts#nan-is-not-json).
    """
    rate = Rate()
    rate.observe(0, 0, 0.0)
    assert rate.observe(1.7e308, 0, 1e-9) is None
