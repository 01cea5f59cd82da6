"""The reporter: first, last and every interval, and never the backend's fault in the task. No
thread, no clock, no server.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from random import Random
from typing import Any
from unittest import mock

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from headway.core.throttle import CircuitBreaker
from headway.errors import Unavailable, UsageError
from headway.worker import reporter as module
from headway.worker.reporter import Reporter
from tests.support.fake_scheduler import FakeScheduler as Time
from tests.support.interrupts import interrupt_at


class Sink:
    """What is stored; raises what it is told to."""

    def __init__(self) -> None:
        self.metas: list[dict[str, Any]] = []
        self.tries = 0
        self.fault: BaseException | None = None

    def __call__(self, meta: dict[str, Any]) -> None:
        self.tries += 1
        if self.fault is not None:
            raise self.fault
        self.metas.append(meta)

    @property
    def currents(self) -> list[float]:
        return [meta["current"] for meta in self.metas]


@pytest.fixture
def time() -> Time:
    return Time(100.0)


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def reporter(time: Time, sink: Sink) -> Iterator[Reporter]:
    """A reporter with an interval of a quarter of a second."""
    made = Reporter(
        sink,
        name="a job",
        attempt=lambda: 2,
        scheduler=time,
        clock=time,
        wall=lambda: 1000.0 + time.now,
    )  # type: ignore[arg-type]
    yield made
    sink.fault = None
    made.close()


def test_the_first_report_is_written_at_once(reporter: Reporter, sink: Sink) -> None:
    """By the task's own thread, before `update` returns: what follows may hold the interpreter for
    long (celery-facts#heartbeats-under-each-pool).
    """
    reporter.update(1, 10, "one", {"a": "b"})
    assert sink.metas == [
        {
            "current": 1,
            "total": 10,
            "message": "one",
            "attributes": {"a": "b"},
            "timestamp": 1100000,
            "rate": None,
            "attempt": 2,
        }
    ]


def test_a_hot_loop_is_written_once_an_interval(reporter: Reporter, sink: Sink, time: Time) -> None:
    """A thousand reports in a second are five writes: the first, and one for each quarter."""
    for step in range(1000):
        reporter.update(step, 1000)
        time.pass_by(0.001)
    assert len(sink.metas) == 5
    reporter.close()
    assert sink.currents[0] == 0
    assert sink.currents[-1] == 999


def test_the_newest_of_an_interval_is_written(reporter: Reporter, sink: Sink, time: Time) -> None:
    """What was left behind is written when the interval has passed, also if the task says nothing
    more.
    """
    for step in range(4):
        reporter.update(step, 4)
    time.pass_by(1.0)
    assert sink.currents == [0, 3]


def test_who_is_killed_loses_an_interval_at_most(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """At any moment what is written is no older than what the task said an interval ago: that is
    all a SIGKILL can take.
    """
    random, said = Random(5), list[tuple[float, int]]()
    for number in range(1, 500):
        reporter.update(number, 500)
        said.append((time.now, number))
        time.pass_by(random.choice((0.0, 1 / 1024, 1 / 64, 3 / 16, 5 / 16, 1.0)))
        old = [current for when, current in said if when <= time.now - 0.25]
        assert not old or sink.currents[-1] >= old[-1]


def test_after_a_pause_a_report_is_written_at_once(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """The reporter comes to rest, and the next report is a first one again."""
    reporter.update(1, 4)
    time.pass_by(5.0)
    assert not time.due, "at rest there is no timer"
    reporter.update(2, 4)
    assert sink.currents == [1, 2]


def test_the_last_report_is_written_at_the_end(reporter: Reporter, sink: Sink) -> None:
    """`close` writes what isn't written, once."""
    reporter.update(1, 4)
    reporter.update(4, 4)
    reporter.close()
    reporter.close()
    assert sink.currents == [1, 4]


def test_nothing_is_written_twice_at_the_end(reporter: Reporter, sink: Sink) -> None:
    """A report that is written already isn't written again by `close`; nothing reported, nothing
    written.
    """
    reporter.close()
    assert sink.tries == 0


def test_after_the_end_reports_are_ignored(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """After the latch, late reports are validated, then dropped with a debug log entry."""
    reporter.update(1, 4)
    reporter.close()
    with caplog.at_level(logging.DEBUG, module.__name__):
        reporter.update(2, 4)
    time.pass_by(10.0)
    assert sink.currents == [1]
    assert "after its end" in caplog.text
    with pytest.raises(UsageError):
        reporter.update(-1, 4)


def test_a_timer_that_goes_off_after_the_end_does_nothing(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """The timers of ended attempts are left to run out."""
    reporter.update(1, 4)
    reporter.update(2, 4)
    reporter.close()
    time.pass_by(10.0)
    assert sink.currents == [1, 2]
    assert not time.due


def test_a_backend_that_is_away_costs_one_wait(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """The task tries once; further tries are the timer's, with growing pauses; one line in the log;
    nothing is raised.
    """
    sink.fault = Unavailable()
    for step in range(1000):
        reporter.update(step, 1000)
    assert sink.tries == 1
    time.pass_by(4.0)
    reporter.update(1000, 1000)
    assert sink.tries == 4, "after 0.5, 1 and 2 seconds"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_when_the_backend_is_back_the_newest_is_written(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """Nothing but the newest is kept, and the next try writes it."""
    sink.fault = Unavailable()
    for step in range(10):
        reporter.update(step, 10)
        time.pass_by(0.3)
    sink.fault = None
    time.pass_by(5.0)
    assert sink.currents == [9]
    reporter.update(10, 10)
    assert sink.currents == [9, 10]


def test_a_report_keeps_its_time_over_tries(reporter: Reporter, sink: Sink, time: Time) -> None:
    """The timestamp is when it was first seen, not when the backend was back."""
    sink.fault = Unavailable()
    reporter.update(1, 10)
    time.pass_by(2.0)
    sink.fault = None
    time.pass_by(5.0)
    assert sink.metas[0]["timestamp"] == 1100000


def test_the_end_tries_once_more(reporter: Reporter, sink: Sink) -> None:
    """With the backend away the end costs one more bounded wait, and raises nothing."""
    sink.fault = Unavailable()
    reporter.update(1, 10)
    reporter.close()
    assert sink.tries == 2


def test_the_end_waits_no_longer_than_it_says(
    reporter: Reporter, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    """With a write of another thread under way that hangs, the end gives up after the documented
    two seconds, and says so.
    """
    reporter.update(1, 10)
    reporter.update(2, 10)
    lock = mock.Mock(**{"acquire.return_value": False})
    reporter._lock = lock
    reporter.close()
    lock.acquire.assert_called_once_with(timeout=2.0)
    assert (sink.currents, lock.release.called) == ([1], False)
    assert "hangs" in caplog.text


def test_one_outage_is_known_to_all(time: Time, sink: Sink) -> None:
    """Attempts of one process share a circuit breaker: the others do not wait."""
    breaker = CircuitBreaker()
    sink.fault = Unavailable()
    reporters = [Reporter(sink, breaker=breaker, scheduler=time, clock=time) for _ in range(20)]  # type: ignore[arg-type]
    for each in reporters:
        each.update(1, 2)
    assert sink.tries == 1
    sink.fault = None
    time.pass_by(5.0)
    assert sink.currents == [1] * 20
    for each in reporters:
        each.close()


def test_a_report_that_cannot_be_stored_is_dropped(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """A serializer that refuses it is no outage: it is told once, not tried again, and the next
    report goes its way.
    """
    sink.fault = TypeError("not serialisable")
    for step in range(5):
        reporter.update(step, 10)
        time.pass_by(1.0)
    assert sink.tries == 5
    assert len(caplog.records) == 1
    sink.fault = None
    reporter.update(7, 10)
    assert sink.currents == [7]


def test_a_soft_time_limit_is_not_swallowed(reporter: Reporter, sink: Sink) -> None:
    """It strikes the task in the middle of a write, and is an Exception like the faults that are
    swallowed.
    """
    sink.fault = SoftTimeLimitExceeded()
    with pytest.raises(SoftTimeLimitExceeded):
        reporter.update(1, 10)
    sink.fault = None
    reporter.close()
    assert sink.currents == [1], "the lock was let go of"


def test_a_strike_at_any_step_keeps_no_lock(time: Time) -> None:
    """Wherever a time limit strikes a task that reports, its last report is written, and its end
    waits for nothing.
    """
    step, going = 1, True
    while going:
        sink = Sink()
        reporter = Reporter(sink, scheduler=time, clock=time)  # type: ignore[arg-type]
        going = interrupt_at(step, lambda reporter=reporter: reporter.update(1, 10))
        assert not reporter._lock.locked(), f"struck at step {step}"
        reporter.close()
        assert sink.currents[-1:] == ([] if reporter.newest is None else [1])
        step += 1
    assert step > 10


def test_a_wrong_report_changes_nothing(reporter: Reporter, sink: Sink) -> None:
    """Validation comes before everything: the report before it stays the newest."""
    reporter.update(1, 4)
    with pytest.raises(UsageError):
        reporter.update(2, 4, attributes={"a": 1})  # type: ignore[dict-item]
    reporter.close()
    assert sink.currents == [1]


def test_a_long_report_is_cut_and_told_once(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """Never an error; one warning for an attempt."""
    for _ in range(3):
        reporter.update(1, 2, "x" * 5000, {"k": "y" * 10_000})
        time.pass_by(1.0)
    assert {len(meta["message"]) for meta in sink.metas} == {2048}
    assert len(caplog.records) == 1
    assert "a job" in caplog.text


def test_a_report_left_while_the_timer_rests_is_not_lost(time: Time, sink: Sink) -> None:
    """The race of coming to rest: a report of another thread that finds the lock taken is seen
    after it is let go of.
    """
    made = Reporter(sink, scheduler=time, clock=time)  # type: ignore[arg-type]
    made.update(1, 3)

    class Busy:
        """A lock during whose release another thread leaves a report, and found it taken."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            return bool(self.inner.acquire(blocking, timeout))

        def release(self) -> None:
            made._lock = self.inner
            thread = threading.Thread(target=made.update, args=(2, 3))
            thread.start()
            thread.join()
            self.inner.release()

    made._lock = Busy(made._lock)  # type: ignore[assignment]
    time.pass_by(0.25)
    assert sink.currents == [1, 2]
    made.close()


def test_many_threads_lose_nothing_but_what_is_older(time: Time, sink: Sink) -> None:
    """Reports from many threads at once: the last one of all is written, and never two writes at a
    time.
    """
    writing, at_once = threading.Lock(), list[Any]()

    def store(meta: dict[str, Any]) -> None:
        if not writing.acquire(blocking=False):
            at_once.append(meta)  # a fault that is raised in here is none of the task's
            return
        sink(meta)
        writing.release()

    made = Reporter(store, interval=1e-9, scheduler=time, clock=time)  # type: ignore[arg-type]

    def work() -> None:
        for step in range(2000):
            made.update(step, 2000)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        time.pass_by(0.001)
    for thread in threads:
        thread.join()
    made.close()
    assert not at_once, "two writes at a time"
    assert sink.currents[-1] == 1999


def test_without_a_sink_nothing_is_stored(time: Time) -> None:
    """Direct calls and eager mode: reports are checked, and go nowhere."""
    made = Reporter(None, scheduler=time)  # type: ignore[arg-type]
    made.update(1, 2)
    assert list(made.track("abc")) == ["a", "b", "c"]
    made.close()
    assert not time.due
    with pytest.raises(UsageError):
        made.update(True, 2)


def test_track_counts_what_is_done(reporter: Reporter, sink: Sink, time: Time) -> None:
    """An item counts when its body has come round; the total is the length."""
    for _ in reporter.track(["a", "b", "c"], message="letters", attributes={"x": "y"}):
        time.pass_by(1.0)
    reporter.close()
    assert [
        (meta["current"], meta["total"], meta["message"], meta["attributes"]) for meta in sink.metas
    ] == [(done, 3, "letters", {"x": "y"}) for done in range(4)]


def test_track_says_how_far_it_came(reporter: Reporter, sink: Sink) -> None:
    """A loop that raises leaves the count as it was: the item at hand isn't done."""

    def loop() -> None:
        for item in reporter.track(range(10)):
            if item == 4:
                raise KeyError(item)

    with pytest.raises(KeyError):
        loop()
    reporter.close()
    assert sink.currents == [0, 4]


def test_track_and_break(reporter: Reporter, sink: Sink) -> None:
    """A loop that breaks has done what came before."""
    for item in reporter.track(iter(range(10)), total=10):
        if item == 6:
            break
    reporter.close()
    assert (sink.currents[-1], sink.metas[-1]["total"]) == (6, 10)


def test_track_without_a_length(reporter: Reporter, sink: Sink) -> None:
    """A generator has no length: the total is unknown, which is 0, unless it is given."""
    assert sum(reporter.track(n for n in range(5))) == 10
    reporter.close()
    assert (sink.currents[-1], sink.metas[-1]["total"]) == (5, 0)


def test_track_of_nothing(reporter: Reporter, sink: Sink) -> None:
    """No items: 0 of 0 is reported."""
    assert list(reporter.track([])) == []
    assert [(meta["current"], meta["total"]) for meta in sink.metas] == [(0, 0)]


def test_track_refuses_at_once() -> None:
    """Wrong arguments are refused by the call, not by the first item."""
    with pytest.raises(UsageError, match="total"):
        Reporter(None).track([1], total=-1)
    with pytest.raises(UsageError, match="message"):
        Reporter(None).track([1], message=5)  # type: ignore[arg-type]


def test_one_track_inside_another(reporter: Reporter, sink: Sink) -> None:
    """The last one that speaks is heard: at the end that is the outer one."""
    for _ in reporter.track("ab", message="outer"):
        for _ in reporter.track("xyz", message="inner"):
            pass
    reporter.close()
    assert (sink.metas[-1]["current"], sink.metas[-1]["message"]) == (2, "outer")


@pytest.mark.parametrize("held", [False, True])
def test_a_forked_child_is_mute_and_never_hangs(
    reporter: Reporter, sink: Sink, time: Time, held: bool
) -> None:
    """A captured reporter in a child process does nothing, also where another thread held its lock
    at the fork.
    """
    reporter.update(1, 4)
    time.pass_by(5.0)
    reader, writer = os.pipe()
    with reporter._lock if held else contextlib.nullcontext():
        pid = os.fork()
        if not pid:
            tries = sink.tries
            reporter.update(2, 4)
            reporter.close()
            os.write(writer, b"mute" if sink.tries == tries else b"spoke")
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 10) == b"mute"
    os.close(reader)
    os.close(writer)
    reporter.update(3, 4)
    reporter.close()
    assert sink.currents == [1, 3], "the parent goes on"


def test_the_rate_is_reported(reporter: Reporter, sink: Sink, time: Time) -> None:
    """Two reports, one second apart, of 40 units."""
    reporter.update(0, 400)
    time.pass_by(1.0)
    reporter.update(40, 400)
    assert sink.metas[-1]["rate"] == pytest.approx(40.0)
