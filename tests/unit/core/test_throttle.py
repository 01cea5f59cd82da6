"""The two machines of `headway.core.throttle`: when a report is written, and when nobody asks."""

from __future__ import annotations

from headway.core.throttle import CircuitBreaker, Throttle

NEVER = float("-inf")


def test_a_report_at_rest_is_written_at_once() -> None:
    """The first report is written by whoever brings it, and a timer is set for one interval later."""
    throttle = Throttle(0.25)
    assert throttle.on_report(10.0, NEVER)
    assert (throttle.armed, throttle.due) == (True, 10.25)


def test_a_report_while_the_backend_is_away_waits_for_the_timer() -> None:
    """While the breaker holds nobody writes, and the timer is set for when it lets go."""
    throttle = Throttle(0.25)
    assert not throttle.on_report(10.0, 13.0)
    assert (throttle.armed, throttle.due) == (True, 13.0)


def test_the_timer_writes_what_is_new_and_stays() -> None:
    """With news the timer writes and looks again one interval later."""
    throttle = Throttle(0.25)
    throttle.on_report(10.0, NEVER)
    assert throttle.on_timer(10.25, True, NEVER)
    assert (throttle.armed, throttle.due) == (True, 10.5)


def test_the_timer_comes_to_rest_without_news() -> None:
    """Without news it writes nothing, and the next report is written at once again."""
    throttle = Throttle(0.25)
    throttle.on_report(10.0, NEVER)
    assert not throttle.on_timer(10.25, False, NEVER)
    assert not throttle.armed


def test_the_interval_counts_from_the_end_of_a_write() -> None:
    """A backend that takes a second for each write isn't asked without a pause."""
    throttle = Throttle(0.25)
    throttle.on_report(10.0, NEVER)
    throttle.postpone(11.0, NEVER)
    assert throttle.due == 11.25


def test_pauses_grow_and_have_an_end() -> None:
    """Each failure in a row doubles the pause, up to the longest; the first one of an outage is
    told apart.
    """
    breaker = CircuitBreaker(shortest=0.5, longest=5.0)
    assert [(breaker.failed(100.0), breaker.retry_at - 100.0) for _ in range(6)] == [
        (True, 0.5),
        (False, 1.0),
        (False, 2.0),
        (False, 4.0),
        (False, 5.0),
        (False, 5.0),
    ]


def test_one_success_ends_the_outage() -> None:
    """After a success nobody is held, and the next failure is a first one again."""
    breaker = CircuitBreaker()
    assert not breaker.succeeded()
    breaker.failed(1.0)
    assert breaker.succeeded()
    assert breaker.retry_at == NEVER
    assert breaker.failed(2.0)
