"""``ctx.progress``: takes reports as fast as a loop can make them, and writes the newest one now
and then.

The rules (contract, section 1): the first report, the last one of an attempt, and at most one each
``interval`` are written. The task never waits for a backend longer than one bounded write, and one
more at its end; it is never told of a fault.

The bound: a write is one round trip, and the Redis store gives it 0.5 s for a free connection, 0.5
s to connect and 0.5 s for the answer (``is_recording/client.py``): 0.5 s for a server that refuses, drops
or hangs, 1.5 s in the worst case. A backend that keeps its results itself (SQL, others) takes as
long as its driver does.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from headway.core.rate import Rate
from headway.core.throttle import CircuitBreaker, Throttle
from headway.errors import Unavailable
from headway.models import Progress
from headway.worker.cancel_token import handling_cancellation
from headway.worker.exceptions import TaskCancelled
from headway.worker.scheduler import Scheduler
from headway.worker.step import Step, Steps
from headway.worker.validation import Update, length_of, to_meta, truncate, validate

logger = logging.getLogger(__name__)

T = TypeVar("T")
Sink = Callable[[dict[str, object]], None]

#: Seconds that the end of an attempt waits for a write of its own that is on its way in another
#: thread.
CLOSE_WAIT = 2.0

#: The reporters of this process that are open: a forked child must not use its copies of them.
_open: set[Reporter] = set()


class Reporter:
    """Reports the progress of one attempt. Any thread of the task's process may call it.

    ``sink`` stores one meta, and raises ``Unavailable`` where the backend is away and anything else
    where this one report can't be stored; it is never called by two threads at a time. Without a
    sink nothing is stored (a direct call, eager mode).

    How the two sides meet without a lock: a report is *left* in ``_newest`` (one assignment), then
    ``armed`` is looked at; the timer does it the other way round, comes to rest, then looks at
    ``_newest`` again. Whoever comes second sees the other's work.
    """

    __slots__ = (
        "_attempt",
        "_breaker",
        "_clock",
        "_closed",
        "_interrupted",
        "_lock",
        "_logged",
        "_name",
        "_newest",
        "_prepared",
        "_previous",
        "_rate",
        "_scheduler",
        "_sink",
        "_steps",
        "_throttle",
        "_wall",
        "_written",
    )

    def __init__(
        self,
        sink: Sink | None,
        *,
        name: str = "",
        attempt: Callable[[], int] = lambda: 1,
        previous: Callable[[], Progress | None] = lambda: None,
        interval: float = 0.25,
        breaker: CircuitBreaker | None = None,
        scheduler: Scheduler | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sink, self._name, self._attempt, self._previous = sink, name, attempt, previous
        self._breaker = breaker if breaker is not None else CircuitBreaker()
        self._scheduler, self._clock, self._wall = scheduler, clock, wall
        self._throttle = Throttle(interval)
        self._rate = Rate()
        self._lock = threading.Lock()
        self._newest: Update | None = None
        self._written: Update | None = None
        self._prepared: tuple[Update, dict[str, object]] | None = None
        self._logged: set[str] = set()
        self._closed = False
        self._interrupted = False
        self._steps: Steps | None = None
        if sink is None:
            self._throttle.armed = (
                True  # for ever: reports are checked and left, and nobody comes for them
            )
        else:
            _open.add(self)

    @property
    def previous(self) -> Progress | None:
        """The last progress of the attempt before this one: where a retry may go on.

        None in a first attempt, where that one reported nothing, outside a worker, and while the
        result backend is away.
        """
        return self._previous()

    @property
    def is_recording(self) -> bool:
        """Whether reports go anywhere: not in a direct call, nor in eager mode."""
        return self._sink is not None

    @property
    def newest(self) -> Update | None:
        """What the task said last, written or not; None while it said nothing."""
        return self._newest

    def update(
        self,
        current: int | float,
        total: int | float,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Say how far the task is: ``current`` of ``total``, in any unit (0: the total is unknown).

        ``message`` is for people; ``attributes`` are pairs of str. Raises ``UsageError`` for
        anything else, before anything is stored, and nothing ever for a fault of the backend. After
        the end of the attempt it does nothing.
        """
        # The common case has no clock and no call in its way: it may stand in a loop of a hundred
        # million rows.
        if (
            type(current) is int
            and type(total) is int
            and current >= 0 <= total
            and attributes is None
            and (message is None or type(message) is str)
        ):
            self._newest = (current, total, message, None)
        else:
            self._newest = validate(current, total, message, attributes)
        if not self._throttle.armed:
            self._on_report()

    def track(
        self,
        iterable: Iterable[T],
        total: int | float | None = None,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> Iterator[T]:
        """The items of ``iterable``, counted as done when the body of the loop has come round.

        ``total`` is ``len(iterable)`` where it has one, else unknown, unless it is given. A loop
        that breaks or raises leaves the count as it was: the item at hand isn't done. Raises
        ``UsageError`` as `update` does, at once.
        """
        if total is None:
            total = length_of(iterable)
        return self._tracked(iterable, validate(0, total, message, attributes))

    def _tracked(self, iterable: Iterable[T], start: Update) -> Iterator[T]:
        done, total, message, attributes = start
        throttle = self._throttle
        self._newest = start
        if not throttle.armed:
            self._on_report()
        for item in iterable:
            yield item
            done += 1
            self._newest = (done, total, message, attributes)
            if not throttle.armed:
                self._on_report()

    def step(self, name: str, weight: int | float = 1) -> Step:
        """A part of the task that reports on its own: ``with ctx.progress.step("load", weight=3) as
        step: step.update(...)``.

        It moves the report by ``weight`` of the total that was reported last (``update(0, 4)``;
        unknown before that), and its name stands before its messages. Steps may hold steps. Raises
        ``UsageError`` for a name or a weight that is none.
        """
        if self._steps is None:
            self._steps = Steps(self.update, lambda: self._newest)
        return Step(self._steps, name, weight)

    def close(self) -> None:
        """The end of the attempt: write what isn't written yet, then ignore all that comes. A
        second call does nothing.

        Takes one bounded write at most, and `CLOSE_WAIT` seconds more where another one is on its
        way.
        """
        if self._closed or self._sink is None:
            return
        self._closed = True
        self._throttle.armed = False  # so that late reports come to `_write_now`, which drops them
        _open.discard(self)
        if self._newest is self._written:
            return
        if not self._lock.acquire(timeout=CLOSE_WAIT):
            logger.warning(
                "The last progress of %s isn't written: the write before it hangs", self._name
            )
            return
        try:
            if self._newest is not self._written:
                self._write(self._clock())
        finally:
            self._lock.release()

    def interrupt(self) -> None:
        """From now on reports raise `TaskCancelled`, but for those of a task that tidies up after
        one. From any thread.
        """
        self._interrupted = True
        self._throttle.armed = (
            False  # no report takes the fast way any more: all come to `_on_report`
        )

    def abandon(self) -> None:
        """Do nothing any more, and touch no lock: this is a copy in a forked child, and the attempt
        is its parent's.
        """
        self._closed = True
        self._throttle.armed = False

    def tick(self, now: float) -> None:
        """The timer went off. Called by the scheduler's thread."""
        if self._closed:
            return
        if not self._lock.acquire(blocking=False):
            self._schedule(
                now + self._throttle.interval
            )  # a write is under way: `close`, or a first one that takes long
            return
        try:
            has_unwritten = self._newest is not self._written
            if self._throttle.on_timer(now, has_unwritten, self._breaker.retry_at):
                self._write(now)
            if has_unwritten:
                self._schedule(self._throttle.due)
        finally:
            self._lock.release()
        # A report that came after the look found the lock taken and left: look again, now that it
        # is free.
        if not self._throttle.armed and not self._interrupted and self._newest is not self._written:
            self._write_now()

    def _on_report(self) -> None:
        """A report was left by the task, while no timer was set or none of its reports may pass."""
        # Interrupted, the throttle is never armed. Its timer runs up to `due` all the same, and
        # takes what was left.
        if not self._interrupted or self._clock() >= self._throttle.due:
            self._write_now()
        if self._interrupted and not self._closed:
            self._throttle.armed = False
            if not handling_cancellation():
                raise TaskCancelled

    def _write_now(self) -> None:
        """A report was left while no timer was set: write it in this very thread, and set the
        timer.
        """
        if self._closed:
            logger.debug("A report of %s came after its end, and is ignored", self._name)
            return
        taken: list[bool] = []
        try:
            # In one call from C to C: a time limit strikes between two of Python's own steps, and
            # one that struck as `acquire` returns would leave the lock taken for good. `tick` is
            # never struck, and behind `close` nobody wants the lock.
            taken.extend(map(self._lock.acquire, (False,)))
            if taken != [True]:
                return  # whoever holds it looks at `_newest` once more after letting go
            if self._closed or self._throttle.armed:
                return
            now = self._clock()
            try:
                if self._throttle.on_report(now, self._breaker.retry_at):
                    self._write(now)
            finally:
                self._schedule(self._throttle.due)
        finally:
            if taken == [True]:
                self._lock.release()

    def _schedule(self, due: float) -> None:
        if self._scheduler is not None:
            self._scheduler.call_at(due, self.tick)

    def _write(self, now: float) -> None:
        """Store the newest report. The lock is held."""
        report = self._newest
        assert report is not None
        assert self._sink is not None
        try:
            self._sink(self._meta(report, now))
        except SoftTimeLimitExceeded:
            raise  # an Exception, but not ours: the time limit struck the task in here
        except Unavailable as exc:
            if self._breaker.failed(self._clock()):
                logger.warning(
                    "Progress can't be stored, tasks go on without: %s (%r)", exc, exc.__cause__
                )
        except Exception as exc:  # noqa: BLE001  contract: storing never raises into the task
            # This report can't be stored, however often it is tried (a serializer that refuses it,
            # a task's own update_state).
            self._written = report
            self._log_once("fault", "A report of %s can't be stored: %r", exc)
        else:
            self._written = report
            if self._breaker.succeeded():
                logger.info("Progress can be stored again")
        finally:
            self._throttle.postpone(self._clock(), self._breaker.retry_at)

    def _meta(self, report: Update, now: float) -> dict[str, object]:
        """The report as it is stored. One that is tried again keeps the time at which it was first
        seen.
        """
        if self._prepared is None or self._prepared[0] is not report:
            short, was_cut = truncate(report)
            if was_cut:
                self._log_once(
                    "cut",
                    "Progress of %s is cut: a message has at most 2 KiB, attributes 8 KiB in all%s",
                    "",
                )
            rate = self._rate.observe(report[0], report[1], now)
            self._prepared = (report, to_meta(short, self._wall(), rate, self._attempt()))
        return self._prepared[1]

    def _log_once(self, what: str, sentence: str, detail: object) -> None:
        """Say it in the log, once an attempt."""
        if what not in self._logged:
            self._logged.add(what)
            logger.warning(sentence, self._name, detail)


def _abandon_all() -> None:
    for reporter in list(_open):
        reporter.abandon()
    _open.clear()


os.register_at_fork(after_in_child=_abandon_all)
