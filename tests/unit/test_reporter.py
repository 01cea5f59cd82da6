"""`Reporter`: which reports are written, and that a backend error never reaches the task."""

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
    """Keeps what is stored, or raises `fault`."""

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


def test_first_report_is_written_before_update_returns(reporter: Reporter, sink: Sink) -> None:
    """The task's own thread writes it: the code that follows may hold the interpreter for long
    (celery-facts#heartbeats-under-each-pool).
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


def test_hot_loop_is_written_once_per_interval(reporter: Reporter, sink: Sink, time: Time) -> None:
    """A thousand reports in a second are five writes: the first, and one per quarter."""
    for step in range(1000):
        reporter.update(step, 1000)
        time.pass_by(0.001)
    assert len(sink.metas) == 5
    reporter.close()
    assert sink.currents[0] == 0
    assert sink.currents[-1] == 999


def test_newest_report_is_written_after_the_interval(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """The timer writes the newest report when the interval has passed, also if no other follows."""
    for step in range(4):
        reporter.update(step, 4)
    time.pass_by(1.0)
    assert sink.currents == [0, 3]


def test_sigkill_loses_at_most_one_interval(reporter: Reporter, sink: Sink, time: Time) -> None:
    """At any moment the stored report is no older than the task's report of an interval ago."""
    random, reports = Random(5), list[tuple[float, int]]()
    for number in range(1, 500):
        reporter.update(number, 500)
        reports.append((time.now, number))
        time.pass_by(random.choice((0.0, 1 / 1024, 1 / 64, 3 / 16, 5 / 16, 1.0)))
        old = [current for when, current in reports if when <= time.now - 0.25]
        assert not old or sink.currents[-1] >= old[-1]


def test_report_after_a_pause_is_written_at_once(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """After an interval without reports, the next one is written like a first report."""
    reporter.update(1, 4)
    time.pass_by(5.0)
    assert not time.due, "no timer without unwritten reports"
    reporter.update(2, 4)
    assert sink.currents == [1, 2]


def test_close_writes_the_last_report_once(reporter: Reporter, sink: Sink) -> None:
    """`close` writes a report that is not written yet. A second `close` does nothing."""
    reporter.update(1, 4)
    reporter.update(4, 4)
    reporter.close()
    reporter.close()
    assert sink.currents == [1, 4]


def test_close_without_reports_writes_nothing(reporter: Reporter, sink: Sink) -> None:
    """Without a report, `close` writes nothing."""
    reporter.close()
    assert sink.tries == 0


def test_reports_after_close_are_ignored(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """Late reports are validated, then dropped with a debug log entry."""
    reporter.update(1, 4)
    reporter.close()
    with caplog.at_level(logging.DEBUG, module.__name__):
        reporter.update(2, 4)
    time.pass_by(10.0)
    assert sink.currents == [1]
    assert "after its end" in caplog.text
    with pytest.raises(UsageError):
        reporter.update(-1, 4)


def test_timer_after_close_does_nothing(reporter: Reporter, sink: Sink, time: Time) -> None:
    """Timers of ended attempts are not cancelled; they do nothing."""
    reporter.update(1, 4)
    reporter.update(2, 4)
    reporter.close()
    time.pass_by(10.0)
    assert sink.currents == [1, 2]
    assert not time.due


def test_outage_costs_the_task_one_write(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """The task tries once. The timer retries with growing pauses. One log entry, and no error."""
    sink.fault = Unavailable()
    for step in range(1000):
        reporter.update(step, 1000)
    assert sink.tries == 1
    time.pass_by(4.0)
    reporter.update(1000, 1000)
    assert sink.tries == 4, "after 0.5, 1 and 2 seconds"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_newest_report_is_written_after_an_outage(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """Only the newest report is kept, and the next try writes it."""
    sink.fault = Unavailable()
    for step in range(10):
        reporter.update(step, 10)
        time.pass_by(0.3)
    sink.fault = None
    time.pass_by(5.0)
    assert sink.currents == [9]
    reporter.update(10, 10)
    assert sink.currents == [9, 10]


def test_retried_report_keeps_its_timestamp(reporter: Reporter, sink: Sink, time: Time) -> None:
    """The timestamp is the time of the first try, not of the one that succeeded."""
    sink.fault = Unavailable()
    reporter.update(1, 10)
    time.pass_by(2.0)
    sink.fault = None
    time.pass_by(5.0)
    assert sink.metas[0]["timestamp"] == 1100000


def test_close_during_an_outage_tries_once(reporter: Reporter, sink: Sink) -> None:
    """During an outage, `close` costs one more bounded write, and raises nothing."""
    sink.fault = Unavailable()
    reporter.update(1, 10)
    reporter.close()
    assert sink.tries == 2


def test_close_waits_two_seconds_for_a_hanging_write(
    reporter: Reporter, sink: Sink, caplog: pytest.LogCaptureFixture
) -> None:
    """If another thread's write hangs, `close` gives up after the documented time and logs it."""
    reporter.update(1, 10)
    reporter.update(2, 10)
    lock = mock.Mock(**{"acquire.return_value": False})
    reporter._lock = lock
    reporter.close()
    lock.acquire.assert_called_once_with(timeout=2.0)
    assert (sink.currents, lock.release.called) == ([1], False)
    assert "hangs" in caplog.text


def test_attempts_of_a_process_share_the_circuit_breaker(time: Time, sink: Sink) -> None:
    """During an outage one attempt waits; the others do not."""
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


def test_report_that_cannot_be_encoded_is_dropped(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """A serializer error is no outage: it is logged once and not retried. The next report is
    stored.
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


def test_soft_time_limit_during_a_write_is_raised(reporter: Reporter, sink: Sink) -> None:
    """It is an `Exception`, like the storage errors that are caught, but it belongs to the task."""
    sink.fault = SoftTimeLimitExceeded()
    with pytest.raises(SoftTimeLimitExceeded):
        reporter.update(1, 10)
    sink.fault = None
    reporter.close()
    assert sink.currents == [1], "the lock was released"


def test_time_limit_at_any_step_leaves_no_lock_held(time: Time) -> None:
    """A time limit at any step of `update` loses no report and does not block `close`."""
    step, going = 1, True
    while going:
        sink = Sink()
        reporter = Reporter(sink, scheduler=time, clock=time)  # type: ignore[arg-type]
        going = interrupt_at(step, lambda reporter=reporter: reporter.update(1, 10))
        assert not reporter._lock.locked(), f"interrupted at step {step}"
        reporter.close()
        assert sink.currents[-1:] == ([] if reporter.newest is None else [1])
        step += 1
    assert step > 10


def test_invalid_report_is_not_stored(reporter: Reporter, sink: Sink) -> None:
    """Validation comes first: the previous report stays the newest."""
    reporter.update(1, 4)
    with pytest.raises(UsageError):
        reporter.update(2, 4, attributes={"a": 1})  # type: ignore[dict-item]
    reporter.close()
    assert sink.currents == [1]


def test_long_report_is_truncated_and_logged_once(
    reporter: Reporter, sink: Sink, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """A long report is no error; each attempt logs one warning."""
    for _ in range(3):
        reporter.update(1, 2, "x" * 5000, {"k": "y" * 10_000})
        time.pass_by(1.0)
    assert {len(meta["message"]) for meta in sink.metas} == {2048}
    assert len(caplog.records) == 1
    assert "a job" in caplog.text


def test_report_during_the_timers_last_check_is_not_lost(time: Time, sink: Sink) -> None:
    """A thread that reports while the timer holds the lock is seen after the timer's release."""
    made = Reporter(sink, scheduler=time, clock=time)  # type: ignore[arg-type]
    made.update(1, 3)

    class Busy:
        """While this lock is released, another thread reports and finds it taken."""

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


def test_reports_from_many_threads_are_written_one_at_a_time(time: Time, sink: Sink) -> None:
    """The last report is written, and two writes never overlap."""
    writing, at_once = threading.Lock(), list[Any]()

    def store(meta: dict[str, Any]) -> None:
        if not writing.acquire(blocking=False):
            at_once.append(meta)  # an error raised in here would not reach the task
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


def test_reporter_without_sink_only_validates(time: Time) -> None:
    """In direct calls and eager mode, reports are validated and not stored."""
    made = Reporter(None, scheduler=time)  # type: ignore[arg-type]
    made.update(1, 2)
    assert list(made.track("abc")) == ["a", "b", "c"]
    made.close()
    assert not time.due
    with pytest.raises(UsageError):
        made.update(True, 2)


def test_track_counts_an_item_after_the_loop_body(
    reporter: Reporter, sink: Sink, time: Time
) -> None:
    """An item counts after the loop's body. The total is the length."""
    for _ in reporter.track(["a", "b", "c"], message="letters", attributes={"x": "y"}):
        time.pass_by(1.0)
    reporter.close()
    assert [
        (meta["current"], meta["total"], meta["message"], meta["attributes"]) for meta in sink.metas
    ] == [(done, 3, "letters", {"x": "y"}) for done in range(4)]


def test_track_does_not_count_the_item_that_raised(reporter: Reporter, sink: Sink) -> None:
    """If the body raises, the current item does not count."""

    def loop() -> None:
        for item in reporter.track(range(10)):
            if item == 4:
                raise KeyError(item)

    with pytest.raises(KeyError):
        loop()
    reporter.close()
    assert sink.currents == [0, 4]


def test_track_does_not_count_the_item_of_a_break(reporter: Reporter, sink: Sink) -> None:
    """If the loop breaks, the current item does not count."""
    for item in reporter.track(iter(range(10)), total=10):
        if item == 6:
            break
    reporter.close()
    assert (sink.currents[-1], sink.metas[-1]["total"]) == (6, 10)


def test_track_of_a_generator_has_an_unknown_total(reporter: Reporter, sink: Sink) -> None:
    """Without a length the total is 0 (unknown), unless it is given."""
    assert sum(reporter.track(n for n in range(5))) == 10
    reporter.close()
    assert (sink.currents[-1], sink.metas[-1]["total"]) == (5, 0)


def test_track_of_an_empty_list_reports_zero(reporter: Reporter, sink: Sink) -> None:
    """No items: 0 of 0 is reported."""
    assert list(reporter.track([])) == []
    assert [(meta["current"], meta["total"]) for meta in sink.metas] == [(0, 0)]


def test_track_with_invalid_arguments_raises_at_the_call() -> None:
    """Invalid arguments raise at the call, not at the first item."""
    with pytest.raises(UsageError, match="total"):
        Reporter(None).track([1], total=-1)
    with pytest.raises(UsageError, match="message"):
        Reporter(None).track([1], message=5)  # type: ignore[arg-type]


def test_nested_track_reports_the_newest(reporter: Reporter, sink: Sink) -> None:
    """The newest report counts; at the end that is the outer loop's."""
    for _ in reporter.track("ab", message="outer"):
        for _ in reporter.track("xyz", message="inner"):
            pass
    reporter.close()
    assert (sink.metas[-1]["current"], sink.metas[-1]["message"]) == (2, "outer")


@pytest.mark.parametrize("held", [False, True])
def test_reporter_in_a_forked_child_does_nothing(
    reporter: Reporter, sink: Sink, time: Time, held: bool
) -> None:
    """A captured reporter stores nothing in a child process, and does not block if another thread
    held its lock at the fork.
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
            os.write(writer, b"silent" if sink.tries == tries else b"stored")
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 10) == b"silent"
    os.close(reader)
    os.close(writer)
    reporter.update(3, 4)
    reporter.close()
    assert sink.currents == [1, 3], "the parent continues"


def test_rate_is_part_of_the_report(reporter: Reporter, sink: Sink, time: Time) -> None:
    """Two reports, one second and 40 units apart."""
    reporter.update(0, 400)
    time.pass_by(1.0)
    reporter.update(40, 400)
    assert sink.metas[-1]["rate"] == pytest.approx(40.0)
