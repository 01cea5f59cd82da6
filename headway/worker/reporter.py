"""``ctx.progress``: takes reports as fast as a loop makes them, and writes the newest at intervals.

The rules (contract, section 1): the first report, the last one of an attempt, and at most one per
``interval`` are written. The task never waits longer than one bounded write, and one more at its
end; errors of the backend are never raised into it.

The bound: a write is one round trip. The Redis store allows 0.5 s for a free connection, 0.5 s to
connect and 0.5 s for the reply (``stores/redis_connection.py``): 0.5 s for a server that refuses,
drops or hangs, 1.5 s in the worst case. Other backends (SQL, ...) have the timeouts of their
drivers.
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

#: Seconds that the end of an attempt waits for its own write in another thread.
CLOSE_WAIT = 2.0

#: The open reporters of this process: a forked child must not use its copies.
_open: set[Reporter] = set()


class Reporter:
    """Reports the progress of one attempt. Any thread of the task's process may call it.

    ``sink`` stores one meta. It raises ``Unavailable`` during an outage, and any other error if
    this report cannot be stored; two threads never call it at the same time. Without a sink nothing
    is stored (a direct call, eager mode).

    The two sides need no lock: `update` stores to ``_newest`` (one assignment), then checks
    ``_deferred``. The timer clears ``_deferred``, then checks ``_newest`` again. Whichever runs
    second sees the other's write, so no report is lost.
    """

    __slots__ = (
        "_attempt",
        "_breaker",
        "_clock",
        "_closed",
        "_deferred",
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
        #: The fast path of `update`: True while a timer will read ``_newest``. Always True without
        #: a sink, because no report is stored; never after `close`, `interrupt` or `abandon`.
        self._deferred = sink is None
        if sink is not None:
            _open.add(self)

    @property
    def previous(self) -> Progress | None:
        """The last progress of the previous attempt: a retry may continue there.

        None in the first attempt, if the previous one reported nothing, outside a worker, and while
        the result backend is unavailable.
        """
        return self._previous()

    @property
    def is_recording(self) -> bool:
        """Whether reports are stored: not in a direct call or in eager mode."""
        return self._sink is not None

    @property
    def newest(self) -> Update | None:
        """The newest report, written or not; None before the first one."""
        return self._newest

    def update(
        self,
        current: int | float,
        total: int | float,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Report progress: ``current`` of ``total``, in any unit (total 0 means unknown).

        ``message`` is for people; ``attributes`` maps str to str. Raises ``UsageError`` for invalid
        values, before anything is stored. Never raises because of the backend. Does nothing after
        the end of the attempt.
        """
        # The common case has no clock and no call: it may be in a loop over a hundred million rows.
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
        if not self._deferred:
            self._on_report()

    def track(
        self,
        iterable: Iterable[T],
        total: int | float | None = None,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> Iterator[T]:
        """Iterate over ``iterable``, and count each item as done after the body of the loop.

        ``total`` defaults to ``len(iterable)``, or to unknown. If the loop breaks or raises, the
        current item does not count. Raises ``UsageError`` like `update`, at the call.
        """
        if total is None:
            total = length_of(iterable)
        return self._tracked(iterable, validate(0, total, message, attributes))

    def _tracked(self, iterable: Iterable[T], start: Update) -> Iterator[T]:
        done, total, message, attributes = start
        self._newest = start
        if not self._deferred:
            self._on_report()
        for item in iterable:
            yield item
            done += 1
            self._newest = (done, total, message, attributes)
            if not self._deferred:
                self._on_report()

    def step(self, name: str, weight: int | float = 1) -> Step:
        """A part of the task with its own progress:
        ``with ctx.progress.step("load", weight=3) as step: step.update(...)``.

        The step advances the report by ``weight`` of the last reported total (``update(0, 4)``;
        unknown before that). Its name is the prefix of its messages. Steps may contain steps.
        Raises ``UsageError`` for an invalid name or weight.
        """
        if self._steps is None:
            self._steps = Steps(self.update, lambda: self._newest)
        return Step(self._steps, name, weight)

    def close(self) -> None:
        """The end of the attempt: write the last report, then ignore later ones. A second call does
        nothing.

        Takes at most one bounded write, and `CLOSE_WAIT` seconds more if another write is running.
        """
        if self._closed or self._sink is None:
            return
        self._closed = True
        self._deferred = False  # so that late reports reach `_write_now`, which drops them
        _open.discard(self)
        if self._newest is self._written:
            return
        if not self._lock.acquire(timeout=CLOSE_WAIT):
            logger.warning(
                "The last progress of %s is not written: the previous write hangs", self._name
            )
            return
        try:
            if self._newest is not self._written:
                self._write(self._clock())
        finally:
            self._lock.release()

    def interrupt(self) -> None:
        """From now on reports raise `TaskCancelled`, except while the task handles one. From any
        thread.
        """
        self._interrupted = True
        self._deferred = False  # disables the fast path of `update`

    def abandon(self) -> None:
        """Do nothing any more, and touch no lock: this is a copy in a forked child."""
        self._closed = True
        self._deferred = False

    def tick(self, now: float) -> None:
        """Called by the scheduler's thread."""
        if self._closed:
            return
        if not self._lock.acquire(blocking=False):
            self._schedule(
                now + self._throttle.interval
            )  # another write is running: `close`, or a slow first one
            return
        try:
            has_unwritten = self._newest is not self._written
            if self._throttle.on_timer(now, has_unwritten, self._breaker.retry_at):
                self._write(now)
            if has_unwritten:
                self._schedule(self._throttle.due)
            else:
                self._deferred = False
        finally:
            self._lock.release()
        # A report that came meanwhile found the lock taken: check again, now that it is free.
        if not self._deferred and not self._interrupted and self._newest is not self._written:
            self._write_now()

    def _on_report(self) -> None:
        """A report came while no timer was set, or after an interrupt."""
        # After an interrupt no report is deferred. The timer still runs until `due`, and writes the
        # newest report.
        if not self._interrupted or self._clock() >= self._throttle.due:
            self._write_now()
        if self._interrupted and not self._closed:
            # Again: `interrupt` may have come while `_write_now` set it.
            self._deferred = False
            if not handling_cancellation():
                raise TaskCancelled

    def _write_now(self) -> None:
        """A report came while no timer was set: write it in this thread, and set the timer."""
        if self._closed:
            logger.debug("Ignored a report of %s after its end", self._name)
            return
        taken: list[bool] = []
        try:
            # A single call into C: a time limit is raised between two bytecodes, and one raised as
            # `acquire` returns would leave the lock held for ever. `tick` is never interrupted, and
            # after `close` the lock is not used.
            taken.extend(map(self._lock.acquire, (False,)))
            if taken != [True]:
                return  # the holder checks `_newest` again after the release
            if self._closed or self._deferred:
                return
            now = self._clock()
            try:
                self._deferred = True
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
        """Store the newest report. Called with the lock held."""
        report = self._newest
        assert report is not None
        assert self._sink is not None
        try:
            self._sink(self._meta(report, now))
        except SoftTimeLimitExceeded:
            raise  # Celery's time limit interrupted the task here
        except Unavailable as exc:
            if self._breaker.failed(self._clock()):
                logger.warning(
                    "Progress cannot be stored; tasks continue without it: %s (%r)",
                    exc,
                    exc.__cause__,
                )
        except Exception as exc:  # noqa: BLE001 - storing never raises into the task
            # Retrying would not help: a serializer or a task's own update_state refuses this
            # report.
            self._written = report
            self._log_once("fault", "A report of %s cannot be stored: %r", exc)
        else:
            self._written = report
            if self._breaker.succeeded():
                logger.info("Progress can be stored again")
        finally:
            self._throttle.postpone(self._clock(), self._breaker.retry_at)

    def _meta(self, report: Update, now: float) -> dict[str, object]:
        """The report as it is stored. A retried report keeps its first timestamp."""
        if self._prepared is None or self._prepared[0] is not report:
            short, was_cut = truncate(report)
            if was_cut:
                self._log_once(
                    "cut",
                    "Progress of %s is truncated: at most 2 KiB of message, 8 KiB of attributes%s",
                    "",
                )
            rate = self._rate.observe(report[0], report[1], now)
            self._prepared = (report, to_meta(short, self._wall(), rate, self._attempt()))
        return self._prepared[1]

    def _log_once(self, what: str, sentence: str, detail: object) -> None:
        """Log a warning once per attempt."""
        if what not in self._logged:
            self._logged.add(what)
            logger.warning(sentence, self._name, detail)


def _abandon_all() -> None:
    for reporter in list(_open):
        reporter.abandon()
    _open.clear()


os.register_at_fork(after_in_child=_abandon_all)
