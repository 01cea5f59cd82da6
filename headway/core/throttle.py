"""When a report is written, and when nobody asks the backend: two small machines without a clock of
their own.

All times are seconds of one monotonic clock, given by the caller.
"""

from __future__ import annotations


class Throttle:
    """When the newest report of one attempt is written.

    At rest, a report is to be written at once by whoever brings it: the task's own thread, so that
    it is out before sixteen seconds of C code that hold the interpreter (fact 47). Then the
    throttle is *armed*: reports are only left behind, and at ``due`` a timer looks whether there is
    a newer one. It writes that and stays armed, or comes to rest.
    """

    __slots__ = ("armed", "due", "interval")

    def __init__(self, interval: float) -> None:
        #: Seconds between two writes.
        self.interval = interval
        #: Whether a timer is set.
        self.armed = False
        #: When the timer looks, while armed.
        self.due = 0.0

    def arm(self, now: float, held_until: float) -> bool:
        """A report came at rest: set the timer. True: write it now; False: the backend is away,
        leave it to the timer.
        """
        self.armed = True
        self.due = max(now + self.interval, held_until)
        return held_until <= now

    def look(self, now: float, news: bool, held_until: float) -> bool:
        """The timer went off: True: write now, and look again at ``due``. False: look again at
        ``due`` if still armed.
        """
        if not news:
            self.armed = False
            return False
        self.due = max(now + self.interval, held_until)
        return held_until <= now

    def later(self, now: float, held_until: float) -> None:
        """A write is over, well or not: count the interval from its end, so that a slow backend
        isn't asked without a pause.
        """
        self.due = max(now + self.interval, held_until)


class CircuitBreaker:
    """Keeps a process from asking a backend that doesn't answer, again and again and one bounded
    wait each time.

    One for each store and process: after a failure nobody asks until ``held_until``, then one does,
    and every further failure doubles the pause.
    """

    __slots__ = ("_longest", "_shortest", "failures", "held_until")

    def __init__(self, shortest: float = 0.5, longest: float = 5.0) -> None:
        self._shortest = shortest
        self._longest = longest
        #: Failures in a row, 0 while all is well.
        self.failures = 0
        #: Nobody asks before this time.
        self.held_until = float("-inf")

    def failed(self, now: float) -> bool:
        """Note a failure. True where it is the first one of an outage."""
        pause = self._shortest
        for _ in range(self.failures):
            pause = min(self._longest, pause * 2)
        self.held_until = now + pause
        self.failures = min(self.failures + 1, 64)
        return self.failures == 1

    def succeeded(self) -> bool:
        """Note that it answered. True where that ends an outage."""
        if not self.failures:
            return False
        self.failures = 0
        self.held_until = float("-inf")
        return True
