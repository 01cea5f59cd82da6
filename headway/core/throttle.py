"""When a report is written, and when the backend is left alone: two state machines without a clock.

All times are seconds of one monotonic clock, passed in by the caller.
"""

from __future__ import annotations


class Throttle:
    """Decides when the newest report of one attempt is written.

    At rest, the task's own thread writes a report at once. A timer thread would be too late: C code
    may hold the interpreter for sixteen seconds (celery-facts#heartbeats-under-each-pool). That
    write *arms* the throttle: later reports are only kept in memory. At ``due`` a timer writes the
    newest one and stays armed. If there is no new report, the throttle returns to rest.
    """

    __slots__ = ("armed", "due", "interval")

    def __init__(self, interval: float) -> None:
        #: Seconds between two writes.
        self.interval = interval
        #: Whether a timer is set.
        self.armed = False
        #: When the timer fires, while armed.
        self.due = 0.0

    def on_report(self, now: float, retry_at: float) -> bool:
        """A report arrived at rest: arm the timer. True: write the report now. False: the backend
        is unavailable until ``retry_at``, so leave the report to the timer.
        """
        self.armed = True
        return self._schedule(now, retry_at)

    def on_timer(self, now: float, has_unwritten: bool, retry_at: float) -> bool:
        """The timer fired. True: write now. If still armed, the timer fires again at ``due``."""
        if not has_unwritten:
            self.armed = False
            return False
        return self._schedule(now, retry_at)

    def postpone(self, now: float, retry_at: float) -> None:
        """A write has returned or failed: count the interval from its end, so that a slow backend
        gets a pause between two writes.
        """
        self._schedule(now, retry_at)

    def _schedule(self, now: float, retry_at: float) -> bool:
        self.due = max(now + self.interval, retry_at)
        return retry_at <= now


class CircuitBreaker:
    """Stops a process from calling an unavailable backend again and again, with a timeout each
    time.

    One for each store and process. After a failure no call is made until ``retry_at``. Then one
    call is tried, and each further failure doubles the pause.
    """

    __slots__ = ("_longest", "_shortest", "failures", "retry_at")

    def __init__(self, shortest: float = 0.5, longest: float = 5.0) -> None:
        self._shortest = shortest
        self._longest = longest
        #: Failures in a row. 0: the backend is available.
        self.failures = 0
        #: No call is made before this time.
        self.retry_at = float("-inf")

    def failed(self, now: float) -> bool:
        """Record a failure. True: it is the first one of an outage."""
        pause = self._shortest
        for _ in range(self.failures):
            pause = min(self._longest, pause * 2)
        self.retry_at = now + pause
        self.failures = min(self.failures + 1, 64)
        return self.failures == 1

    def succeeded(self) -> bool:
        """Record a success. True: it ends an outage."""
        if not self.failures:
            return False
        self.failures = 0
        self.retry_at = float("-inf")
        return True
