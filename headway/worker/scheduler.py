"""The one thread of a process that does what is due later."""

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

#: Seconds that a fork waits for the call that is under way.
FORK_WAIT = 5.0


class Scheduler:
    """Calls functions at a time, all of them on one thread that is made on first use.

    A thread for each attempt would cost 160-200 us, this costs 1-3
    (celery-facts#one-scheduler-thread). Under gevent or eventlet the thread is a greenlet; its
    locks are made on first use as well, after the monkey patching.

    A forked child starts with an empty one, and a fork waits for the call that is under way: it may
    hold any lock there is, such as that of a module that it imports just then, and the child's copy
    of it would be held for ever.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._numbers = itertools.count()
        self.forget()

    def forget(self) -> None:
        """Drop everything without waiting for anything: the state of a forked child, whose copy of
        the lock may be held for ever.
        """
        self._heap: list[tuple[float, int, Call]] = []
        self._made: dict[str, tuple[Lock, threading.Condition]] = {}
        self._calling: dict[str, threading.Lock] = {}
        self._fork_waits = False
        self._thread: threading.Thread | None = None
        self._closing = False

    def call_at(self, due: float, call: Call) -> None:
        """Have ``call(now)`` called at ``due`` or soon after. It must not block for long: the
        others wait.
        """
        # Two threads may both make a condition; ``setdefault`` lets one of them win, in one step.
        lock, changed = self._made.get("both") or self._made.setdefault("both", _make())
        # Not `with changed`, whose way to its lock is Python's: a time limit that strikes the
        # caller there would leave it taken, and every task of the process that reports would wait
        # for ever.
        with lock:
            heapq.heappush(self._heap, (due, next(self._numbers), call))
            if (
                self._thread is None or not self._thread.is_alive()
            ):  # as it is where who started it was struck
                self._closing = False
                self._calling.setdefault("now", threading.Lock())
                self._thread = threading.Thread(
                    target=self._run, args=(changed,), name="headway-scheduler", daemon=True
                )
                self._thread.start()
            elif self._heap[0][2] is call:
                changed.notify()

    def close(self) -> None:
        """End the thread; what was due is dropped. The next ``call_at`` starts anew. For tests and
        for orderly ends.
        """
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
        """Hold back the thread, for no longer than `FORK_WAIT`: some driver may be in there."""
        calling = self._calling.get("now")
        if (
            calling is not None
            and threading.current_thread() is not self._thread
            and calling.acquire(timeout=FORK_WAIT)
        ):
            self._fork_waits = True

    def after_fork(self) -> None:
        """In the parent: let it go on."""
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
            except (
                Exception
            ):  # the thread serves every attempt of the process: one of them can't end it
                logger.exception("A scheduled call of Headway failed")


def _make() -> tuple[Lock, threading.Condition]:
    lock = threading.RLock()  # a signal's handler may come to `call_at` in the midst of it
    return lock, threading.Condition(lock)


#: The process's own. Every attempt of it shares this one.
shared = Scheduler()
os.register_at_fork(
    before=shared.before_fork, after_in_parent=shared.after_fork, after_in_child=shared.forget
)
