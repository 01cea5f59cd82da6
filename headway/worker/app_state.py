"""What Headway keeps for one Celery app in one process."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from headway.core.registry import Registration
from headway.core.throttle import CircuitBreaker
from headway.errors import ConfigurationError, Unavailable, UsageError
from headway.stores.base import Store

logger = logging.getLogger(__name__)

KEY = "_headway_installation"

#: Seconds between two signs of life.
HEARTBEAT_INTERVAL = 5.0
#: Seconds that a sign lasts: three may get lost. A worker that is killed shows as stalled after so
#: long, or a little less; who watches is told within 5 s more (``server/hub.py``).
HEARTBEAT_TTL = 20.0


class AppState:
    """The settings, the store and the state of the store, of one app."""

    def __init__(
        self, app: Any, *, interval: float, store: Store | None, fence: Callable[[Any], Any]
    ) -> None:
        self.app = app
        #: Seconds between two writes of one attempt's progress.
        self.interval = interval
        #: Seconds after which a task that reports nothing new is ended, unless it says otherwise
        #: itself; None for never.
        self.progress_timeout: float | None = None
        #: Whether reports raise in a task whose cancel is asked for, where it says nothing else
        #: itself.
        self.cancel_on_update = True
        #: Seconds between two signs of life (``life.py``), and that each of them lasts.
        self.heartbeat_interval, self.heartbeat_ttl = HEARTBEAT_INTERVAL, HEARTBEAT_TTL
        #: Whether a worker gives signs of life for what it runs, in this process or in the one that
        #: this was forked from.
        self.sends_heartbeats = False
        #: Puts the fence into a backend, if it isn't there.
        self.fence = fence
        #: What is known of the store's health, by all attempts of this process and by its
        #: publishing.
        self.breaker = CircuitBreaker()
        self._store = store
        self._chosen = store is not None

    @property
    def store(self) -> Store | None:
        """The store of the app's result backend; None where it has none that another process could
        read.

        Chosen at the first use: the configuration may be read long after `install`.
        """
        if not self._chosen:
            from headway.backends import store_for  # noqa: PLC0415  with the drivers: only what is used is imported

            try:
                self._store = store_for(self.app)
            except ConfigurationError as exc:
                logger.warning("Headway records nothing: %s", exc)
            self._chosen = True
        return self._store

    @store.setter
    def store(self, store: Store | None) -> None:
        self._store, self._chosen = store, True

    @property
    def keeps_results(self) -> bool:
        """Whether the store writes the result backend's own records."""
        return self.store is not None and self.store.keeps_results

    def cancels_on_update(self, task: Any) -> bool:
        """Whether the reports of this task are cancellation points."""
        return bool(getattr(task, "cancel_on_update", self.cancel_on_update))

    def progress_timeout_of(self, task: Any) -> float | None:
        """Seconds after which this task is ended if it reports nothing new; None for never."""
        own = getattr(task, "progress_timeout", self.progress_timeout)
        try:
            return seconds_or_none("progress_timeout", own)
        except UsageError as exc:
            logger.warning(
                "%s: %s", task.name, exc
            )  # seen in the worker's log with each run: a task's setting is nobody's call
            return None

    @staticmethod
    def runs(request: Any, task_id: object) -> bool:
        """Whether this is the request of a run in this very process (a worker's main process has
        requests too).
        """
        return (
            request is not None
            and request.id == task_id
            and request.called_directly is False
            and not request.is_eager
        )

    def asks_now(self) -> bool:
        """Whether the store is worth asking: not just after it failed."""
        return self.breaker.retry_at <= time.monotonic()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Take what the store raises: counted for all, logged once an outage, and never the task's
        or the publisher's affair.
        """
        try:
            yield
        except Unavailable as exc:
            if self.breaker.failed(time.monotonic()):
                logger.warning(
                    "The result backend is away, Headway goes on without: %s (%r)",
                    exc,
                    exc.__cause__,
                )
        except SoftTimeLimitExceeded:
            raise  # an Exception, but not ours: the time limit struck the task in here
        except Exception:
            logger.exception("Headway can't record this")
        else:
            if self.breaker.succeeded():
                logger.info("The result backend is back")

    def register(self, registrations: Iterable[Registration]) -> None:
        """Note tasks before their messages leave. Takes one bounded wait at most, and none at all
        just after one was in vain.
        """
        store = self.store
        if store is not None and self.asks_now():
            with self.faults():
                store.register(registrations)


def seconds_or_none(name: str, value: object) -> float | None:
    """A time that may be left out. Raises ``UsageError`` for what is no time."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UsageError(
            f"{name} must be a number of seconds above 0, or None for never, got {value!r}"
        )
    return float(value)


def app_state_of(app: Any) -> AppState | None:
    """What `install` made for this app, if it was called."""
    found = getattr(app, KEY, None)
    return found if isinstance(found, AppState) else None
