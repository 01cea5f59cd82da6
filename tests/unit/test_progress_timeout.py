"""`progress_timeout`: when a silent task is ended, and how it is struck in each kind of thread."""

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
from headway.worker import attempt, fenced_backend, install, progress_timeout
from headway.worker.progress_timeout import ProgressWatchdog
from headway.worker.scheduler import Scheduler
from headway.worker.validation import Update
from tests.support.fake_scheduler import FakeScheduler
from tests.support.interrupts import settle_profiler
from tests.support.wait import until
from tests.unit.tracing import Lab


class Silence:
    """A watched task without a task."""

    def __init__(self, seconds: float = 10) -> None:
        self.timer = FakeScheduler()
        self.newest: Update | None = None
        self.strikes: list[float] = []
        self.called_off = False
        self.watch = ProgressWatchdog(
            seconds,
            lambda: self.newest,
            self.timer,  # type: ignore[arg-type]
            clock=lambda: self.timer.now,
            way=lambda watch: self,
        )
        self.watch.start()

    def __call__(self) -> None:
        self.strikes.append(self.timer.now)

    def cancel(self) -> None:
        self.called_off = True


def test_a_silent_task_is_struck_when_its_time_is_over() -> None:
    """One that never reports anything, after exactly that time; and again after as long, if it goes
    on.
    """
    silence = Silence(10)
    silence.timer.pass_to(9.99)
    assert silence.strikes == []
    silence.timer.pass_to(25)
    assert silence.strikes == [10, 20]


def test_each_new_report_starts_the_time_anew() -> None:
    """What is new is any difference: a count, a total, a message, an attribute."""
    silence = Silence(10)
    told: list[Update] = [
        (1, 5, None, None),
        (2, 5, None, None),
        (2, 6, None, None),
        (2, 6, "x", None),
        (2, 6, "x", {"a": "b"}),
    ]
    for number, report in enumerate(told, 1):
        silence.newest = report
        silence.timer.pass_to(number * 8)
    assert silence.strikes == []
    silence.timer.pass_to(50)
    assert len(silence.strikes) == 1
    assert 42 <= silence.strikes[0] <= 43, "counted from the look that saw the last one"


def test_an_identical_report_does_not() -> None:
    """A task that says the same again and again says nothing."""
    silence = Silence(10)
    for second in range(12):
        silence.newest = (1, 5, "still here", {"a": "b"})
        silence.timer.pass_to(second)
    assert silence.strikes == [10.5], "counted from the first look that saw it"


def test_a_process_that_was_stopped_may_speak_first() -> None:
    """A look that comes an hour late says nothing: the task gets one look's time, and is struck
    only then.
    """
    silence = Silence(10)
    silence.timer.jump_to(3600)
    assert silence.strikes == []
    silence.newest = (1, 2, None, None)
    silence.timer.pass_to(3605)
    assert silence.strikes == []
    silence.timer.jump_to(7200)
    silence.timer.pass_to(7202)
    assert silence.strikes == [7200.5]


def test_after_the_end_nothing_is_struck() -> None:
    """`stop` takes back a strike, and no look comes after it."""
    silence = Silence(10)
    silence.watch.stop()
    assert silence.called_off
    silence.timer.pass_to(100)
    assert silence.strikes == []
    assert silence.timer.due == []


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    made = Scheduler()
    yield made
    made.close()


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What the deployment's own handler of the signal hears."""
    said: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: said.append(signum))
    yield said
    signal.signal(signal.SIGUSR1, before)
    progress_timeout._sent.clear()


def test_the_main_thread_is_struck_in_a_wait(heard: list[int]) -> None:
    """A signal ends a wait at once, with the sentence that says why; the handler that was there
    hears nothing of it.
    """
    timer, begun = FakeScheduler(), threading.Event()
    watch = ProgressWatchdog(10, lambda: None, timer, clock=lambda: timer.now)  # type: ignore[arg-type]
    time = threading.Thread(target=lambda: begun.wait(60) and timer.pass_to(10))

    def wait() -> None:
        watch.start()
        time.start()
        begun.set()
        threading.Event().wait(60)

    with pytest.raises(ProgressTimeout, match=r"nothing new for 10 s"):
        wait()
    watch.stop()
    time.join()
    assert heard == []


def test_two_strikes_that_wait_are_one_signal(heard: list[int]) -> None:
    """C code keeps both waiting, and the system delivers them as one: the next signal of Celery's
    isn't taken for the other.
    """
    watch = ProgressWatchdog(10, lambda: None, FakeScheduler())  # type: ignore[arg-type]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    watch._interrupter()
    watch._interrupter()
    with pytest.raises(ProgressTimeout):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    watch.stop()
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1]


def test_the_signals_other_owner_goes_on(scheduler: Scheduler, heard: list[int]) -> None:
    """Celery's soft time limit comes by the same signal: what isn't ours is passed on, also while a
    task is watched.
    """
    watch = ProgressWatchdog(3600, lambda: None, scheduler)
    watch.start()
    signal.raise_signal(signal.SIGUSR1)
    watch.stop()
    signal.raise_signal(signal.SIGUSR1)
    assert heard == [signal.SIGUSR1, signal.SIGUSR1]


def test_signal_after_the_end_interrupts_no_task(scheduler: Scheduler, heard: list[int]) -> None:
    """A child's next task may not die of what was meant for the one before."""
    watch = ProgressWatchdog(3600, lambda: None, scheduler)
    watch.start()
    watch.stop()
    watch._interrupter()
    until(lambda: not progress_timeout._sent)
    assert heard == []


def in_a_thread(
    work: Callable[[], None], meanwhile: Callable[[], object] = bool
) -> list[BaseException | None]:
    """What a thread that does it ends with; ``meanwhile`` is what this one does."""
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


def test_another_thread_is_struck_in_python_code() -> None:
    """Only the Python code of that thread is interrupted."""
    timer, begun = FakeScheduler(), threading.Event()

    def work() -> None:
        watch = ProgressWatchdog(10, lambda: None, timer, clock=lambda: timer.now)  # type: ignore[arg-type]
        try:
            watch.start()
            begun.set()
            while True:
                sum(range(100))
        finally:
            watch.stop()

    (end,) = in_a_thread(work, lambda: begun.wait(60) and timer.pass_to(10))
    assert isinstance(end, ProgressTimeout)
    assert end.args == (), "an asynchronous exception is made without a word"


def test_a_thread_that_ended_is_not_struck(scheduler: Scheduler) -> None:
    """A strike that comes in `stop` is swallowed there, and one that comes after it isn't made."""

    def work() -> None:
        watch = ProgressWatchdog(3600, lambda: None, scheduler)
        watch.start()
        off, thread = watch._interrupter.cancel, ctypes.c_ulong(threading.get_ident())

        def struck_in_here() -> None:
            off()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(ProgressTimeout))

        watch._interrupter.cancel = struck_in_here  # type: ignore[method-assign]
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


def test_a_greenlet_is_struck_where_it_yields() -> None:
    """It alone, and not the one beside it."""
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
    """Tasks are watched when the test says so."""
    made = FakeScheduler()
    monkeypatch.setattr(attempt, "shared", made)
    return made


@pytest.mark.usefixtures("heard")
def test_it_is_a_failure_that_says_so(lab: Lab, timer: FakeScheduler) -> None:
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


@pytest.mark.usefixtures("heard")
def test_installs_word_holds_where_the_task_has_none(lab: Lab) -> None:
    """`install(progress_timeout=...)` is for all; a task's own word counts before it, None too."""
    headway.install(lab.app, store=lab.store, progress_timeout=0.05)
    assert run_silent(lab, "of_all", wait=60).info.state == "FAILURE"
    assert run_silent(lab, "never", progress_timeout=None).info is None
    assert run_silent(lab, "longer", progress_timeout=30).info is None


@pytest.mark.usefixtures("heard")
def test_a_classes_own_word_is_not_hidden(lab: Lab) -> None:
    """A class-based task that says it in its body is heard: the class it is covered with says
    nothing.
    """
    from celery import Task

    class Silent(Task):  # type: ignore[misc]
        name = "silent.class"
        progress_timeout = 0.05

        def run(self) -> None:
            threading.Event().wait(60)

    progress_task = lab.app.register_task(Silent())
    assert lab.trace(progress_task, "c1").info.state == "FAILURE"


def too_long(signum: int, frame: object) -> None:
    """What Celery does at its own soft time limit."""
    raise SoftTimeLimitExceeded


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("celerys", [False, True])
def test_wherever_it_strikes_nothing_is_left_behind(
    lab: Lab, timer: FakeScheduler, monkeypatch: pytest.MonkeyPatch, celerys: bool
) -> None:
    """Around the task's code, too, and Celery's own limit as well: no watch and no variable that
    would harm the task that comes next.

    Python lets a signal in where a function begins and where one has returned.
    """
    settle_profiler()
    signal.signal(signal.SIGUSR1, too_long)
    ours = {module.__file__ for module in (attempt, fenced_backend, install, progress_timeout)}
    watches: list[ProgressWatchdog] = []

    class Watched(ProgressWatchdog):
        def start(self) -> None:
            watches.append(self)
            super().start()

    @lab.task(progress_timeout=10)
    def job() -> None:
        headway.RequestContext.get().progress.update(3, 10)

    def strike_at(wanted: int) -> bool:
        """Run the task; whether there were so many places."""
        places = itertools.count(1)

        def profile(frame: FrameType, event: str, arg: Any) -> None:
            if frame.f_code.co_filename not in ours or event not in ("call", "return", "c_return"):
                return
            if timer.due and watches[-1].running and next(places) == wanted:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGUSR1) if celerys else watches[-1]._interrupter()

        timer.due.clear()
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            lab.trace(job, f"x{wanted}")
        finally:
            sys.setprofile(before)
        assert not watches[-1].running, wanted
        assert not attempt.own_write.get(), wanted
        with pytest.raises(UsageError):
            headway.RequestContext.get()
        assert lab.record(f"x{wanted}").state in ("SUCCESS", "FAILURE"), wanted
        return next(places) > wanted

    monkeypatch.setattr(attempt, "ProgressWatchdog", Watched)
    assert len(list(itertools.takewhile(strike_at, itertools.count(1)))) > 20


@pytest.mark.parametrize("wrong", [0, -1, True, "5", float("nan"), float("inf")])
def test_a_timeout_is_a_time(lab: Lab, wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    """`install` refuses what is none; a task that has one runs without, and the log says why."""
    with pytest.raises(UsageError, match="progress_timeout must be a number of seconds above 0"):
        headway.install(lab.app, progress_timeout=wrong)
    assert run_silent(lab, "odd", progress_timeout=wrong).info is None
    assert "progress_timeout must be a number" in caplog.text
