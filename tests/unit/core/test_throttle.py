"""When a report is written, and when the backend is left alone."""

from __future__ import annotations

from headway.core.throttle import CircuitBreaker, Throttle

NEVER = float("-inf")


def test_report_at_rest_is_written_at_once() -> None:
    """The first report is written by its own thread, and arms a timer for one interval later."""
    throttle = Throttle(0.25)
    assert throttle.on_report(10.0, NEVER)
    assert (throttle.armed, throttle.due) == (True, 10.25)


def test_report_during_outage_waits_for_timer() -> None:
    """While the breaker is open no report is written, and the timer fires at ``retry_at``."""
    throttle = Throttle(0.25)
    assert not throttle.on_report(10.0, 13.0)
    assert (throttle.armed, throttle.due) == (True, 13.0)


def test_timer_with_unwritten_report_writes_and_stays_armed() -> None:
    """With an unwritten report the timer writes, and fires again one interval later."""
    throttle = Throttle(0.25)
    throttle.on_report(10.0, NEVER)
    assert throttle.on_timer(10.25, True, NEVER)
    assert (throttle.armed, throttle.due) == (True, 10.5)


def test_timer_without_unwritten_report_disarms() -> None:
    """Without an unwritten report it writes nothing, and the next report is written at once."""
    throttle = Throttle(0.25)
    throttle.on_report(10.0, NEVER)
    assert not throttle.on_timer(10.25, False, NEVER)
    assert not throttle.armed


def test_interval_counts_from_end_of_write() -> None:
    """A backend that takes a second for each write gets a pause between two writes."""
    throttle = Throttle(0.25)
    throttle.on_report(10.0, NEVER)
    throttle.postpone(11.0, NEVER)
    assert throttle.due == 11.25


def test_pause_doubles_up_to_longest() -> None:
    """Each failure in a row doubles the pause, but not beyond the longest one."""
    breaker = CircuitBreaker(shortest=0.5, longest=5.0)
    assert [(breaker.failed(100.0), breaker.retry_at - 100.0) for _ in range(6)] == [
        (True, 0.5),
        (False, 1.0),
        (False, 2.0),
        (False, 4.0),
        (False, 5.0),
        (False, 5.0),
    ]


def test_success_ends_outage() -> None:
    """After a success calls are allowed, and the next failure starts a new outage."""
    breaker = CircuitBreaker()
    assert not breaker.succeeded()
    breaker.failed(1.0)
    assert breaker.succeeded()
    assert breaker.retry_at == NEVER
    assert breaker.failed(2.0)
