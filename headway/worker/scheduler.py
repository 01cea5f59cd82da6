"""The one timer thread of a process."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

logger = logging.getLogger(__name__)

Call = Callable[[float], None]
Lock = AbstractContextManager[object]

#: Seconds that a fork waits for the running call.
FORK_WAIT = 5.0


class Scheduler:
    """Calls functions at given times, on one thread that starts on first use.

    A thread per attempt would cost 160-200 us; this costs 1-3 (celery-facts#one-scheduler-thread).
    Under gevent or eventlet the thread is a greenlet; locks are made on first use, after the monkey
    patching.

    A forked child starts with an empty one, and a fork waits for the call that is under way: it may
    hold any lock there is, such as that of a module that it imports just then, and the child's copy
    of it would be held for ever.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self.forget()

    def forget(self) -> None:
        """Reset without waiting: in a forked child, whose copy of the lock may be held for ever."""
        self._heap: list[tuple[float, int, Call]] = []
        self._made: dict[str, tuple[Lock, threading.Condition]] = {}
        self._calling: dict[str, threading.Lock] = {}
        self._fork_waits = False
        self._thread: threading.Thread | None = None
        self._closing = False

    def call_at(self, due: float, call: Call) -> None:
        """Call ``call(now)`` at ``due`` or soon after. It must not block for long: other calls
        wait.
        """
        # Two threads may both make a condition; ``setdefault`` picks one atomically.
        lock, changed = self._made.get("both") or self._made.setdefault("both", _make())
        # Not `with changed`, which takes its lock in Python code: a time limit raised there would
        # leave it held, and every reporting task of the process would wait for ever.
        with lock:
            heapq.heappush(self._heap, (due, next(self._numbers), call))
            # Not alive: the thread that started it was interrupted.
            if self._thread is None or not self._thread.is_alive():
                self._closing = False
                self._calling.setdefault("now", threading.Lock())
                self._thread = threading.Thread(
                    target=self._run, args=(changed,), name="headway-scheduler", daemon=True
                )
                self._thread.start()
            elif self._heap[0][2] is call:
                changed.notify()

    def close(self) -> None:
        """End the thread and drop pending calls. The next ``call_at`` starts it again. For tests."""
        thread, made = self._thread, self._made.get("both")
        if thread is None or made is None:
            return
        lock, changed = made
        with lock:
            self._closing = True
            self._heap.clear()
            changed.notify_all()
        thread.join(timeout=10)
        self._thread = None

    def before_fork(self) -> None:
        """Wait for the running call, at most `FORK_WAIT`, and stop further ones."""
        calling = self._calling.get("now")
        if (
            calling is not None
            and threading.current_thread() is not self._thread
            and calling.acquire(timeout=FORK_WAIT)
        ):
            self._fork_waits = True

    def after_fork(self) -> None:
        """In the parent: continue."""
        if self._fork_waits:
            self._fork_waits = False
            self._calling["now"].release()

    def _run(self, changed: threading.Condition) -> None:
        while True:
            with changed:
                while not self._closing and (not self._heap or self._heap[0][0] > self._clock()):
                    changed.wait(self._heap[0][0] - self._clock() if self._heap else None)
                if self._closing:
                    return
                call = heapq.heappop(self._heap)[2]
            try:
                with self._calling["now"]:
                    call(self._clock())
            except Exception:  # this thread serves all attempts: one error must not end it
                logger.exception("A scheduled call of Headway failed")


def _make() -> tuple[Lock, threading.Condition]:
    lock = threading.RLock()  # a signal handler may call `call_at` while it is held
    return lock, threading.Condition(lock)


#: The scheduler that all attempts of a process share.
shared = Scheduler()
os.register_at_fork(
    before=shared.before_fork, after_in_parent=shared.after_fork, after_in_child=shared.forget
)
