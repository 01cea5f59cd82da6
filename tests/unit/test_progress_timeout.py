"""`progress_timeout`: when a silent task is interrupted, and how in each kind of thread."""

from __future__ import annotations

import ctypes
import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import FrameType
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

import headway
from headway import ProgressTimeout, UsageError
from headway.worker import attempt, context, fenced_backend, install, progress_timeout, state_writer
from headway.worker.progress_timeout import ProgressWatchdog
from headway.worker.scheduler import Scheduler
from headway.worker.validation import Update
from tests.support.fake_scheduler import FakeScheduler
from tests.support.interrupts import settle_profiler
from tests.support.wait import until
from tests.unit.tracing import Lab


class SilentTask:
    """A watchdog with a fake timer; this object is also its interrupter."""

    def __init__(self, seconds: float = 10) -> None:
        self.timer = FakeScheduler()
        self.newest: Update | None = None
        self.interrupts: list[float] = []
        self.cancelled = False
        self.watch = ProgressWatchdog(
            seconds,
            lambda: self.newest,
            self.timer,  # type: ignore[arg-type]
            clock=lambda: self.timer.now,
            way=lambda watch: self,
        )
        self.watch.start()

    def __call__(self) -> None:
        self.interrupts.append(self.timer.now)

    def cancel(self) -> None:
        self.cancelled = True


def test_silent_task_is_interrupted_after_the_timeout() -> None:
    """Interrupted after exactly that time, and after the same time again if it continues."""
    silent = SilentTask(10)
    silent.timer.pass_to(9.99)
    assert silent.interrupts == []
    silent.timer.pass_to(25)
    assert silent.interrupts == [10, 20]


def test_new_report_restarts_the_timeout() -> None:
    """Any difference is new: a count, a total, a message, an attribute."""
    silent = SilentTask(10)
    reports: list[Update] = [
        (1, 5, None, None),
        (2, 5, None, None),
        (2, 6, None, None),
        (2, 6, "x", None),
        (2, 6, "x", {"a": "b"}),
    ]
    for number, report in enumerate(reports, 1):
        silent.newest = report
        silent.timer.pass_to(number * 8)
    assert silent.interrupts == []
    silent.timer.pass_to(50)
    assert len(silent.interrupts) == 1
    assert 42 <= silent.interrupts[0] <= 43, "counted from the check that saw the last one"


def test_identical_report_does_not_restart_the_timeout() -> None:
    """A task that repeats the same report is silent."""
    silent = SilentTask(10)
    for second in range(12):
        silent.newest = (1, 5, "still here", {"a": "b"})
        silent.timer.pass_to(second)
    assert silent.interrupts == [10.5], "counted from the first check that saw it"


def test_late_check_gives_the_task_one_more_interval() -> None:
    """A check that comes an hour late does not count: the task has until the next check."""
    silent = SilentTask(10)
    silent.timer.jump_to(3600)
    assert silent.interrupts == []
    silent.newest = (1, 2, None, None)
    silent.timer.pass_to(3605)
    assert silent.interrupts == []
    silent.timer.jump_to(7200)
    silent.timer.pass_to(7202)
    assert silent.interrupts == [7200.5]


def test_stop_cancels_the_interrupt_and_the_timer() -> None:
    """`stop` cancels a pending interrupt, and no check follows."""
    silent = SilentTask(10)
    silent.watch.stop()
    assert silent.cancelled
    silent.timer.pass_to(100)
    assert silent.interrupts == []
    assert silent.timer.due == []


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler()
    yield made
    made.close()


@pytest.fixture
def other_signals() -> Iterator[list[int]]:
    """The signals that the deployment's own handler receives."""
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: received.append(signum))
    yield received
    signal.signal(signal.SIGUSR1, before)
    progress_timeout._sent.clear()


def test_main_thread_is_interrupted_in_a_wait(other_signals: list[int]) -> None:
    """A signal ends a wait at once, with the reason as message. The previous
    handler is not called.
    """
    timer, started = FakeScheduler(), threading.Event()
    watch = ProgressWatchdog(10, lambda: None, timer, clock=lambda: timer.now)  # type: ignore[arg-type]
    time = threading.Thread(target=lambda: started.wait(60) and timer.pass_to(10))

    def wait() -> None:
        watch.start()
        time.start()
        started.set()
        threading.Event().wait(60)

    with pytest.raises(ProgressTimeout, match=r"nothing new for 10 s"):
        wait()
    watch.stop()
    time.join()
    assert other_signals == []


def test_two_pending_interrupts_are_one_signal(other_signals: list[int]) -> None:
    """The system delivers two blocked signals as one: Celery's next signal is not taken for the
    second.
    """
    watch = ProgressWatchdog(10, lambda: None, FakeScheduler())  # type: ignore[arg-type]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    watch._interrupter()
    watch._interrupter()
    with pytest.raises(ProgressTimeout):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    watch.stop()
    signal.raise_signal(signal.SIGUSR1)
    assert other_signals == [signal.SIGUSR1]


def test_other_signals_reach_the_previous_handler(
    scheduler: Scheduler, other_signals: list[int]
) -> None:
    """Celery's soft time limit uses the same signal: it is passed on, also while a
    task is watched.
    """
    watch = ProgressWatchdog(3600, lambda: None, scheduler)
    watch.start()
    signal.raise_signal(signal.SIGUSR1)
    watch.stop()
    signal.raise_signal(signal.SIGUSR1)
    assert other_signals == [signal.SIGUSR1, signal.SIGUSR1]


def test_signal_after_the_end_interrupts_no_task(
    scheduler: Scheduler, other_signals: list[int]
) -> None:
    """A late signal must not interrupt the next task of the process."""
    watch = ProgressWatchdog(3600, lambda: None, scheduler)
    watch.start()
    watch.stop()
    watch._interrupter()
    until(lambda: not progress_timeout._sent)
    assert other_signals == []


def in_a_thread(
    work: Callable[[], None], meanwhile: Callable[[], object] = bool
) -> list[BaseException | None]:
    """How a thread that runs ``work`` ends; this thread runs ``meanwhile``."""
    ends: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
        except BaseException as exc:
            ends.append(exc)
        else:
            ends.append(None)

    thread = threading.Thread(target=run)
    thread.start()
    meanwhile()
    thread.join(60)
    return ends


def test_other_thread_is_interrupted_in_python_code() -> None:
    """Only the Python code of that thread is interrupted."""
    timer, started = FakeScheduler(), threading.Event()

    def work() -> None:
        watch = ProgressWatchdog(10, lambda: None, timer, clock=lambda: timer.now)  # type: ignore[arg-type]
        try:
            watch.start()
            started.set()
            while True:
                sum(range(100))
        finally:
            watch.stop()

    (end,) = in_a_thread(work, lambda: started.wait(60) and timer.pass_to(10))
    assert isinstance(end, ProgressTimeout)
    assert end.args == (), "an asynchronous exception has no arguments"


def test_stopped_thread_is_not_interrupted(scheduler: Scheduler) -> None:
    """An interrupt that arrives in `stop` is ignored, and a later one is not sent."""

    def work() -> None:
        watch = ProgressWatchdog(3600, lambda: None, scheduler)
        watch.start()
        cancel, thread = watch._interrupter.cancel, ctypes.c_ulong(threading.get_ident())

        def interrupted_cancel() -> None:
            cancel()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(ProgressTimeout))

        watch._interrupter.cancel = interrupted_cancel  # type: ignore[method-assign]
        watch.stop()
        watch._interrupter()
        for _ in range(1000):
            sum(range(100))

    assert in_a_thread(work) == [None]


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent.event
from headway import ProgressTimeout
from headway.worker.scheduler import shared
from headway.worker.progress_timeout import ProgressWatchdog

over = gevent.event.Event()

def job(seconds):
    watch = ProgressWatchdog(seconds, lambda: None, shared)
    try:
        watch.start()
        over.wait(60)
        return "slept"
    except ProgressTimeout as exc:
        return str(exc)
    finally:
        watch.stop()

first, second = gevent.spawn(job, 0.05), gevent.spawn(job, 3600)
first.join()
over.set()
second.join()
assert "0.05 s" in first.value, first.value
assert second.value == "slept", second.value
"""


def test_greenlet_is_interrupted_when_it_yields() -> None:
    """Only this greenlet is interrupted, not another one."""
    done = subprocess.run(
        [sys.executable, "-c", GREENLETS], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def run_silent(lab: Lab, task_id: str, *, wait: float = 0.3, **options: Any) -> Any:
    """Run a task that waits."""

    @lab.task(name=f"silent.{task_id}", **options)
    def job() -> None:
        threading.Event().wait(wait)

    return lab.trace(job, task_id)


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> FakeScheduler:
    """Watchdogs use this timer: they check when the test says so."""
    made = FakeScheduler()
    monkeypatch.setattr(attempt, "shared", made)
    return made


@pytest.mark.usefixtures("other_signals")
def test_interrupted_attempt_fails_with_progress_timeout(lab: Lab, timer: FakeScheduler) -> None:
    """The attempt ends as FAILURE with `headway.ProgressTimeout`, and keeps its last progress."""

    @lab.task(progress_timeout=10)
    def silent() -> None:
        headway.RequestContext.get().progress.update(3, 10, "then nothing")
        timer.pass_to(monotonic() + 60)

    assert lab.trace(silent, "s1").info.state == "FAILURE"
    result = lab.meta("s1")["result"]
    assert (result["exc_type"], result["exc_module"]) == ("ProgressTimeout", "headway")
    assert "nothing new for 10 s" in result["exc_message"][0]
    assert lab.progress("s1").message == "then nothing"
    revived = lab.app.backend.exception_to_python(result)
    assert isinstance(revived, ProgressTimeout)
    assert isinstance(revived, SoftTimeLimitExceeded)
    assert str(revived) == result["exc_message"][0]


@pytest.mark.usefixtures("other_signals")
def test_task_setting_overrides_the_timeout_of_install(lab: Lab) -> None:
    """`install(progress_timeout=...)` is the default. A task's own value takes precedence, None
    too.
    """
    headway.install(lab.app, store=lab.store, progress_timeout=0.05)
    assert run_silent(lab, "of_all", wait=60).info.state == "FAILURE"
    assert run_silent(lab, "never", progress_timeout=None).info is None
    assert run_silent(lab, "longer", progress_timeout=30).info is None


@pytest.mark.usefixtures("other_signals")
def test_timeout_in_the_body_of_a_task_class_is_used(lab: Lab) -> None:
    """The covering class has no value that would hide the one of a class-based task."""
    from celery import Task

    class Silent(Task):  # type: ignore[misc]
        name = "silent.class"
        progress_timeout = 0.05

        def run(self) -> None:
            threading.Event().wait(60)

    progress_task = lab.app.register_task(Silent())
    assert lab.trace(progress_task, "c1").info.state == "FAILURE"


def raise_soft_limit(signum: int, frame: object) -> None:
    """What Celery does at its own soft time limit."""
    raise SoftTimeLimitExceeded


@pytest.mark.usefixtures("other_signals")
@pytest.mark.parametrize("celery_limit", [False, True])
def test_interrupt_at_any_step_leaves_nothing_behind(
    lab: Lab, timer: FakeScheduler, monkeypatch: pytest.MonkeyPatch, celery_limit: bool
) -> None:
    """After an interrupt, also of Celery's own limit and around the task's code, no watchdog and no
    variable is left that would affect the next task.

    Python handles signals when a function starts and when one has returned.
    """
    settle_profiler()
    signal.signal(signal.SIGUSR1, raise_soft_limit)
    modules = (attempt, context, fenced_backend, install, progress_timeout, state_writer)
    files = {module.__file__ for module in modules}
    watches: list[ProgressWatchdog] = []

    class Watched(ProgressWatchdog):
        def start(self) -> None:
            watches.append(self)
            super().start()

    @lab.task(progress_timeout=10)
    def job() -> None:
        headway.RequestContext.get().progress.update(3, 10)

    def interrupt_at(step: int) -> bool:
        """Run the task; returns whether it has that many steps."""
        steps = itertools.count(1)

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            if frame.f_code.co_filename not in files or event not in ("call", "return", "c_return"):
                return
            if timer.due and watches[-1].running and next(steps) == step:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGUSR1) if celery_limit else watches[-1]._interrupter()

        timer.due.clear()
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            lab.trace(job, f"x{step}")
        finally:
            sys.setprofile(before)
        assert not watches[-1].running, step
        assert not attempt.own_write.get(), step
        with pytest.raises(UsageError):
            headway.RequestContext.get()
        assert lab.record(f"x{step}").state in ("SUCCESS", "FAILURE"), step
        return next(steps) > step

    monkeypatch.setattr(attempt, "ProgressWatchdog", Watched)
    assert len(list(itertools.takewhile(interrupt_at, itertools.count(1)))) > 20


@pytest.mark.parametrize("wrong", [0, -1, True, "5", float("nan"), float("inf")])
def test_invalid_timeout_raises_in_install_and_is_logged_for_a_task(
    lab: Lab, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """`install` raises. A task with an invalid value runs without a timeout, and it is logged."""
    with pytest.raises(UsageError, match="progress_timeout must be a number of seconds above 0"):
        headway.install(lab.app, progress_timeout=wrong)
    assert run_silent(lab, "odd", progress_timeout=wrong).info is None
    assert "progress_timeout must be a number" in caplog.text
