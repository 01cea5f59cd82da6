"""``progress_timeout``: ends an attempt that reports nothing new for too long.

A timer compares the newest report with the previous one, so `Reporter.update`, which may be in a
hot loop, does no extra work. What can be interrupted depends on the pool
(celery-facts#interrupting-a-silent-attempt, ``docs/stalled-tasks.md``):

* the main thread of a process (prefork, solo): by a signal, which interrupts waits and Python code
  at once, and C code when it returns;
* another thread (threads): by an asynchronous exception, which interrupts Python code, and waits
  when they return;
* a greenlet (gevent): when it yields.
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

from headway.worker.exceptions import ProgressTimeout
from headway.worker.scheduler import Scheduler
from headway.worker.validation import Update

logger = logging.getLogger(__name__)

#: The signal that interrupts the main thread: the one of Celery's own soft time limit.
SIGNAL = getattr(signal, "SIGUSR1", None)

#: Seconds between two checks of a task, at most: a silent task ends at most so much later.
MAX_CHECK_INTERVAL = 1.0


class Interrupter(Protocol):
    """Raises `ProgressTimeout` in the code that created it."""

    def __call__(self) -> None:
        """Interrupt, from another thread."""

    def cancel(self) -> None:
        """Withdraw an interrupt that has not arrived yet, if possible. Called by the code that
        created it.
        """


class ProgressWatchdog:
    """Checks that one attempt reports something new, and interrupts it after ``seconds`` without.

    The code to be interrupted creates, starts and stops it. A check that comes late does not count:
    the whole process was stopped, or C code held the interpreter, so the task could not report
    either. It then has until the next check.
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
        #: Whether the watched code is still running. The interrupter checks this last.
        self.running = True
        #: Held from that check to the interrupt, if they are not atomic.
        self.lock = threading.Lock()
        self._newest, self._scheduler = newest, scheduler
        self._pause = min(MAX_CHECK_INTERVAL, max(seconds / 20, 0.01))
        self._interrupter = (way or interrupter_for_pool)(self)
        self._seen: Update | None = None
        self._clock = clock

    def start(self) -> None:
        """Start the watchdog. Call this only if `stop` is guaranteed to follow; otherwise it would
        interrupt a later task.
        """
        self._since = self._clock()
        self._schedule(self._since)

    @property
    def reason(self) -> str:
        """The reason for the error message."""
        return f"The task reported nothing new for {self.seconds:g} s (progress_timeout)"

    def stop(self) -> None:
        """Stop the watchdog: the code has ended. An interrupt that arrives in here is ignored."""
        while self.running:
            try:
                with self.lock:
                    self.running = False
                    self._interrupter.cancel()
            except ProgressTimeout:
                logger.debug("A task ended at the moment of its progress_timeout")

    def on_timer(self, now: float) -> None:
        """Called by the scheduler's thread."""
        if not self.running:
            return
        newest = self._newest()
        if newest != self._seen:
            self._seen, self._since = newest, now
        elif now - self._since >= self.seconds:
            if now - self._due <= self._pause:
                logger.warning("%s; interrupting it", self.reason)
                self._since = now  # code that continues anyway has the same time again
                self._interrupter()
            else:
                self._since = now + self._pause - self.seconds
        self._schedule(now)

    def _schedule(self, now: float) -> None:
        self._due = min(now + self._pause, self._since + self.seconds)
        self._scheduler.call_at(self._due, self.on_timer)


def interrupter_for_pool(watch: ProgressWatchdog) -> Interrupter:
    """The interrupter for the calling code."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return GreenletInterrupter(watch)
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return NoInterrupter()  # a signal would interrupt whichever greenlet is running
    if SIGNAL is not None and threading.current_thread() is threading.main_thread():
        return SignalInterrupter(watch)
    return AsyncExcInterrupter(watch)


#: The watchdogs of the signals that we sent; any other signal is Celery's or the deployment's.
_sent: deque[ProgressWatchdog] = deque()
os.register_at_fork(after_in_child=_sent.clear)
#: The previous handler of the signal.
_others: list[Any] = []


class NoInterrupter:
    """For pools that cannot be interrupted safely: only logs."""

    def __call__(self) -> None:
        logger.warning("progress_timeout cannot interrupt a task under eventlet")

    def cancel(self) -> None:
        """Nothing to cancel."""


class SignalInterrupter:
    """Interrupts the main thread by a signal, which also ends a wait."""

    def __init__(self, watch: ProgressWatchdog) -> None:
        self._watch = watch
        assert SIGNAL is not None
        handler = signal.getsignal(SIGNAL)
        if handler is not _on_signal:
            _others[:] = [handler]
            signal.signal(SIGNAL, _on_signal)

    def __call__(self) -> None:
        if self._watch in _sent:
            # C code delays the previous signal. Two would arrive as one, and `_on_signal` would
            # then treat Celery's next signal as an interrupt of this watchdog.
            return
        _sent.append(self._watch)
        # To the thread, not the process: a signal that another thread receives would not interrupt
        # the task's system call.
        signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL or 0)

    def cancel(self) -> None:
        """The handler checks whether the watchdog is still running."""


def _on_signal(signum: int, frame: FrameType | None) -> None:
    if _sent:
        watch = _sent.popleft()
        if watch.running:
            raise ProgressTimeout(watch.reason)
        return
    other = _others[0] if _others else None
    if callable(other):
        other(signum, frame)
    elif other is signal.SIG_DFL:
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)


class AsyncExcInterrupter:
    """Interrupts a thread by an asynchronous exception, in Python code only. It takes a class, no
    instance.
    """

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

    def cancel(self) -> None:
        """The interrupt must not reach the thread's next task."""
        if self._made:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, None)


class GreenletInterrupter:
    """Interrupts a greenlet from gevent's loop, after it has yielded: check and throw are atomic
    there.
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
            self._greenlet.throw(ProgressTimeout(self._watch.reason))

    def cancel(self) -> None:
        """`_throw` checks whether the watchdog is still running."""
