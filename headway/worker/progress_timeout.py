"""``progress_timeout``: ends an attempt that reports nothing new for too long.

A look now and then compares the newest report with the one before: nothing of this stands in the
way of `Reporter.update`, which may be in a hot loop. What can be interrupted depends on the pool
(celery-facts#interrupting-a-silent-attempt; ``docs/stalled-tasks.md``):

* in the main thread of a process (prefork, solo): by a signal, which ends waits and Python code at
  once, and C code when it returns;
* in another thread (threads): by an asynchronous exception, which strikes Python code, and whatever
  waits when it returns;
* in a greenlet (gevent): when it yields.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from celery.exceptions import SoftTimeLimitExceeded

from headway.errors import HeadwayError
from headway.worker.scheduler import Scheduler
from headway.worker.validation import Update

logger = logging.getLogger(__name__)

#: The signal that ends what the main thread does: the one that Celery's own soft time limit comes
#: by.
SIGNAL = getattr(signal, "SIGUSR1", None)

#: Seconds between two looks at a task, at most: so much later than it could a silent one ends.
MAX_CHECK_INTERVAL = 1.0


class ProgressTimeout(HeadwayError, SoftTimeLimitExceeded):  # type: ignore[misc]
    """The task reported nothing new for longer than its ``progress_timeout``.

    Raised in the task's own code, wherever it is. A kind of Celery's ``SoftTimeLimitExceeded``, so
    that code which cleans up after that one cleans up after this one, too.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "The task reported nothing new for too long"


# Celery stores the names of both, and whoever reads the result imports the class from there.
ProgressTimeout.__module__ = "headway"


class Interrupter(Protocol):
    """A way to raise `ProgressTimeout` in the code that made it."""

    def __call__(self) -> None:
        """Do it, from another thread."""

    def call_off(self) -> None:
        """Take back a strike that was made and hasn't hit yet, as far as that is possible. For the
        code that made it.
        """


class ProgressWatchdog:
    """Looks whether one attempt reports anything new, and strikes where it doesn't for ``seconds``.

    Made, started and stopped by the code that is to be struck. A look that comes late says nothing:
    the whole process was stopped, or C code had the interpreter, and the task couldn't have
    reported either. So it gets another look's time.
    """

    def __init__(
        self,
        seconds: float,
        newest: Callable[[], Update | None],
        scheduler: Scheduler,
        *,
        clock: Callable[[], float] = time.monotonic,
        way: Callable[[ProgressWatchdog], Interrupter] | None = None,
    ) -> None:
        self.seconds = seconds
        #: Whether the code that is watched still runs. Whoever strikes looks here last.
        self.running = True
        #: Held between that look and the strike, where they aren't one step.
        self.lock = threading.Lock()
        self._newest, self._scheduler = newest, scheduler
        self._pause = min(MAX_CHECK_INTERVAL, max(seconds / 20, 0.01))
        self._strike = (way or interrupter_for_pool)(self)
        self._seen: Update | None = None
        self._clock = clock

    def start(self) -> None:
        """Begin. Not before whoever is to stop it has it in hand: one that nobody stops strikes the
        tasks that come next.
        """
        self._since = self._clock()
        self._again(self._since)

    @property
    def sentence(self) -> str:
        """Why it was ended."""
        return f"The task reported nothing new for {self.seconds:g} s (progress_timeout)"

    def stop(self) -> None:
        """The code has ended: nothing may strike it any more. A strike that hits in here is no
        longer meant.
        """
        while self.running:
            try:
                with self.lock:
                    self.running = False
                    self._strike.call_off()
            except ProgressTimeout:
                logger.debug("A task ended just as its progress_timeout struck")

    def look(self, now: float) -> None:
        """The timer went off. Called by the scheduler's thread."""
        if not self.running:
            return
        newest = self._newest()
        if newest != self._seen:
            self._seen, self._since = newest, now
        elif now - self._since >= self.seconds:
            if now - self._due <= self._pause:
                logger.warning("%s: it is ended", self.sentence)
                self._since = now  # code that goes on all the same has as long again
                self._strike()
            else:
                self._since = now + self._pause - self.seconds
        self._again(now)

    def _again(self, now: float) -> None:
        self._due = min(now + self._pause, self._since + self.seconds)
        self._scheduler.call_at(self._due, self.look)


def interrupter_for_pool(watch: ProgressWatchdog) -> Interrupter:
    """The way to strike the code that calls this."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return GreenletInterrupter(watch)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return NoInterrupter()  # a signal would strike whichever greenlet is on just then
    if SIGNAL is not None and threading.current_thread() is threading.main_thread():
        return SignalInterrupter(watch)
    return AsyncExcInterrupter(watch)


#: Whose strike each signal is that we sent ourselves; any other one is Celery's, or the
#: deployment's own.
_sent: deque[ProgressWatchdog] = deque()
os.register_at_fork(after_in_child=_sent.clear)
#: What the signal did before it was ours as well.
_others: list[Any] = []


class NoInterrupter:
    """Where nothing can be struck safely: the silence is logged, and that is all."""

    def __call__(self) -> None:
        logger.warning("progress_timeout can't end a task under eventlet")

    def call_off(self) -> None:
        """Nothing was done."""


class SignalInterrupter:
    """By a signal to the process's main thread: it ends a wait as well."""

    def __init__(self, watch: ProgressWatchdog) -> None:
        self._watch = watch
        assert SIGNAL is not None
        handler = signal.getsignal(SIGNAL)
        if handler is not _on_signal:
            _others[:] = [handler]
            signal.signal(SIGNAL, _on_signal)

    def __call__(self) -> None:
        if self._watch in _sent:
            # C code keeps the last one waiting: two signals would come as one, and the next of
            # Celery's be taken for it
            return
        _sent.append(self._watch)
        # To the thread and not to the process: a system call that waits in another thread would not
        # end the task's.
        signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL or 0)

    def call_off(self) -> None:
        """The handler looks whether it is still meant."""


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _sent:
        watch = _sent.popleft()
        if watch.running:
            raise ProgressTimeout(watch.sentence)
        return
    other = _others[0] if _others else None
    if callable(other):
        other(signum, frame)
    elif other is signal.SIG_DFL:
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)


class AsyncExcInterrupter:
    """By an asynchronous exception: Python code only. A class and no instance is all that it takes."""

    def __init__(self, watch: ProgressWatchdog) -> None:
        self._watch = watch
        self._thread = ctypes.c_ulong(threading.get_ident())
        self._made = False

    def __call__(self) -> None:
        with self._watch.lock:
            if self._watch.running:
                self._made = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    self._thread, ctypes.py_object(ProgressTimeout)
                )

    def call_off(self) -> None:
        """The thread's next task may not be struck by what was meant for this one."""
        if self._made:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, None)


class GreenletInterrupter:
    """From gevent's own loop, when the greenlet has yielded: there the look and the throw are one
    step.
    """

    def __init__(self, watch: ProgressWatchdog) -> None:
        import gevent  # noqa: PLC0415  only where that is the pool

        self._watch = watch
        self._greenlet: Any = gevent.getcurrent()
        self._loop: Any = gevent.get_hub().loop

    def __call__(self) -> None:
        self._loop.run_callback(self._throw)

    def _throw(self) -> None:
        if self._watch.running:
            self._greenlet.throw(ProgressTimeout(self._watch.sentence))

    def call_off(self) -> None:
        """`_throw` looks whether it is still meant."""
