"""`Scheduler`: the one timer thread of a process."""

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


def test_calls_run_in_the_order_of_their_times(scheduler: Scheduler) -> None:
    """All calls run on one thread, none too early, in the order of their times."""
    called: list[tuple[int, bool, str]] = []
    all_scheduled = threading.Event()
    scheduler.call_at(0, lambda now: all_scheduled.wait(60))
    start = monotonic()

    def call(number: int, due: float) -> None:
        scheduler.call_at(
            due, lambda now: called.append((number, now >= due, threading.current_thread().name))
        )

    for number, offset in ((3, 0.03), (1, 0.01), (2, 0.02), (0, -5.0)):
        call(number, start + offset)
    all_scheduled.set()
    until(lambda: len(called) == 4)
    assert sorted(called) == [(number, True, "headway-scheduler") for number in range(4)]
    assert [number for number, _, _ in called if number] == [1, 2, 3]


def test_thread_starts_with_the_first_call() -> None:
    """Neither making a scheduler nor closing an unused one starts a thread."""
    before = set(threading.enumerate())
    Scheduler().close()
    assert set(threading.enumerate()) <= before


def test_time_limit_at_any_step_leaves_no_lock_held(scheduler: Scheduler) -> None:
    """After a time limit at any step of `call_at`, the next call still runs."""
    scheduler.call_at(0, lambda now: None)
    step = 1
    while interrupt_at(step, lambda: scheduler.call_at(monotonic() + 3600, lambda now: None)):
        done = threading.Event()
        scheduler.call_at(0, lambda now, done=done: done.set())
        assert done.wait(60), f"interrupted at step {step}"
        step += 1
    assert step > 3


def test_time_limit_during_thread_start_loses_no_call(scheduler: Scheduler) -> None:
    """The next call starts the thread, and earlier calls run too."""
    called: list[int] = []
    with (
        mock.patch.object(threading.Thread, "start", side_effect=SoftTimeLimitExceeded),
        pytest.raises(SoftTimeLimitExceeded),
    ):
        scheduler.call_at(0, lambda now: called.append(1))
    scheduler.call_at(0, lambda now: called.append(2))
    until(lambda: called == [1, 2])


def test_failing_call_is_logged_and_others_run(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of a call is logged, and later calls run."""
    done = threading.Event()

    def fail(now: float) -> None:
        raise KeyError(now)

    scheduler.call_at(0, fail)
    scheduler.call_at(0, lambda now: done.set())
    assert done.wait(60)
    assert "A scheduled call of Headway failed" in caplog.text


def test_scheduler_can_be_used_after_close(scheduler: Scheduler) -> None:
    """`close` drops pending calls, and the next call starts another thread."""
    never: list[float] = []
    scheduler.call_at(monotonic() + 3600, never.append)
    scheduler.close()
    done = threading.Event()
    scheduler.call_at(0, lambda now: done.set())
    assert done.wait(60)
    assert not never


def test_concurrent_first_calls_start_one_thread(scheduler: Scheduler) -> None:
    """Twenty concurrent first calls start one thread, and all of them run."""
    called: list[float] = []
    together = threading.Barrier(20)

    def schedule() -> None:
        together.wait()
        scheduler.call_at(0, called.append)

    threads = [threading.Thread(target=schedule) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(called) == 20)
    assert [thread.name for thread in threading.enumerate()].count("headway-scheduler") == 1


def test_forked_child_starts_its_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has no thread, and its copy of the lock may be held for ever: it makes its own. A
    hanging call delays a fork for a bounded time only.
    """
    monkeypatch.setattr(module, "FORK_WAIT", 0.05)
    held = threading.Event()
    release = threading.Event()
    shared.call_at(0, lambda now: (held.set(), release.wait(60)))
    assert held.wait(60)
    with shared._made["both"][0]:
        pid = os.fork()
        if not pid:
            done = threading.Event()
            shared.call_at(0, lambda now: done.set())
            os._exit(0 if done.wait(60) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    release.set()
    shared.close()


def test_fork_waits_for_the_running_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that a call holds (of a module being imported) is not held for ever in the child.
    Later calls run.
    """
    monkeypatch.setattr(module, "FORK_WAIT", 60)  # longer than any delay of the call
    lock, started, more = threading.Lock(), threading.Event(), threading.Event()

    def call(now: float) -> None:
        with lock:
            started.set()
            threading.Event().wait(0.2)

    shared.call_at(0, call)
    try:
        assert started.wait(60)
        pid = os.fork()
        if not pid:
            os._exit(0 if lock.acquire(blocking=False) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        shared.call_at(0, lambda now: more.set())
        assert more.wait(60)
    finally:
        shared.close()
