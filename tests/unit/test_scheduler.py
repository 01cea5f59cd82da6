"""The one thread of a process that does what is due later."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from time import monotonic
from unittest import mock

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from headway.worker import scheduler as module
from headway.worker.scheduler import Scheduler, shared
from tests.support.interrupts import interrupt_at
from tests.support.wait import until


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler()
    yield made
    made.close()


def test_calls_come_in_the_order_of_their_time(scheduler: Scheduler) -> None:
    """Not in the order in which they were asked for; all of them on one thread, none too early."""
    called: list[tuple[int, bool, str]] = []
    all_asked = threading.Event()
    scheduler.call_at(0, lambda now: all_asked.wait(60))
    start = monotonic()

    def call(number: int, due: float) -> None:
        scheduler.call_at(
            due, lambda now: called.append((number, now >= due, threading.current_thread().name))
        )

    for number, offset in ((3, 0.03), (1, 0.01), (2, 0.02), (0, -5.0)):
        call(number, start + offset)
    all_asked.set()
    until(lambda: len(called) == 4)
    assert sorted(called) == [(number, True, "headway-scheduler") for number in range(4)]
    assert [number for number, _, _ in called if number] == [1, 2, 3]


def test_there_is_no_thread_before_it_is_needed() -> None:
    """Making one, or closing it unused, starts nothing."""
    before = set(threading.enumerate())
    Scheduler().close()
    assert set(threading.enumerate()) <= before


def test_a_strike_at_any_step_keeps_no_lock(scheduler: Scheduler) -> None:
    """Wherever a time limit strikes who asks for a call, the next one asks and is called."""
    scheduler.call_at(0, lambda now: None)
    step = 1
    while interrupt_at(step, lambda: scheduler.call_at(monotonic() + 3600, lambda now: None)):
        done = threading.Event()
        scheduler.call_at(0, lambda now, done=done: done.set())
        assert done.wait(60), f"struck at step {step}"
        step += 1
    assert step > 3


def test_a_strike_as_the_thread_is_started(scheduler: Scheduler) -> None:
    """The next call starts the thread, and earlier calls run too."""
    called: list[int] = []
    with (
        mock.patch.object(threading.Thread, "start", side_effect=SoftTimeLimitExceeded),
        pytest.raises(SoftTimeLimitExceeded),
    ):
        scheduler.call_at(0, lambda now: called.append(1))
    scheduler.call_at(0, lambda now: called.append(2))
    until(lambda: called == [1, 2])


def test_a_call_that_fails_ends_nothing(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next ones are made."""
    done = threading.Event()

    def fail(now: float) -> None:
        raise KeyError(now)

    scheduler.call_at(0, fail)
    scheduler.call_at(0, lambda now: done.set())
    assert done.wait(60)
    assert "A scheduled call of Headway failed" in caplog.text


def test_after_an_end_it_can_begin_again(scheduler: Scheduler) -> None:
    """`close` drops what was due, and the next call starts another thread."""
    never: list[float] = []
    scheduler.call_at(monotonic() + 3600, never.append)
    scheduler.close()
    done = threading.Event()
    scheduler.call_at(0, lambda now: done.set())
    assert done.wait(60)
    assert not never


def test_many_threads_may_begin_at_once(scheduler: Scheduler) -> None:
    """One thread is made, however many ask for it first."""
    called: list[float] = []
    together = threading.Barrier(20)

    def ask() -> None:
        together.wait()
        scheduler.call_at(0, called.append)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(called) == 20)
    assert [thread.name for thread in threading.enumerate()].count("headway-scheduler") == 1


def test_a_forked_child_starts_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread isn't in the child, and its lock may be held there for ever: the child makes its
    own of both. A call that hangs holds up a fork for a bounded time only.
    """
    monkeypatch.setattr(module, "FORK_WAIT", 0.05)
    held = threading.Event()
    go_on = threading.Event()
    shared.call_at(0, lambda now: (held.set(), go_on.wait(60)))
    assert held.wait(60)
    with shared._made["both"][0]:
        pid = os.fork()
        if not pid:
            done = threading.Event()
            shared.call_at(0, lambda now: done.set())
            os._exit(0 if done.wait(60) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    go_on.set()
    shared.close()


def test_a_fork_waits_for_the_call_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a call holds (a module's, while it is imported) isn't held for ever in the child;
    afterwards calls go on.
    """
    monkeypatch.setattr(module, "FORK_WAIT", 60)  # whatever holds up the call
    lock, begun, more = threading.Lock(), threading.Event(), threading.Event()

    def call(now: float) -> None:
        with lock:
            begun.set()
            threading.Event().wait(0.2)

    shared.call_at(0, call)
    try:
        assert begun.wait(60)
        pid = os.fork()
        if not pid:
            os._exit(0 if lock.acquire(blocking=False) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        shared.call_at(0, lambda now: more.set())
        assert more.wait(60)
    finally:
        shared.close()
