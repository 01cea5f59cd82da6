"""`AppState`: what Headway keeps for one Celery app in one process."""

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

#: Seconds between two heartbeats.
HEARTBEAT_INTERVAL = 5.0
#: Seconds that a heartbeat is valid: three may get lost. The tasks of a killed worker are shown as
#: stalled after at most this time; viewers see it within 5 s more (``server/streams/hub.py``).
HEARTBEAT_TTL = 20.0


class AppState:
    """The settings of one app, its store, and the health of the store."""

    def __init__(
        self, app: Any, *, interval: float, store: Store | None, fence: Callable[[Any], Any]
    ) -> None:
        self.app = app
        #: Seconds between two writes of one attempt's progress.
        self.interval = interval
        #: Seconds after which a task that reports nothing new is ended, unless the task sets its
        #: own value; None for never.
        self.progress_timeout: float | None = None
        #: Whether reports raise after a cancel request, unless the task sets its own value.
        self.cancel_on_update = True
        #: Seconds between two heartbeats, and that each of them is valid.
        self.heartbeat_interval, self.heartbeat_ttl = HEARTBEAT_INTERVAL, HEARTBEAT_TTL
        #: Whether a worker sends heartbeats, in this process or in its parent.
        self.sends_heartbeats = False
        #: Adds the fence to a backend, if it has none.
        self.fence = fence
        #: The health of the store, shared by all attempts of this process and its publishing.
        self.breaker = CircuitBreaker()
        self._store = store
        self._chosen = store is not None

    @property
    def store(self) -> Store | None:
        """The store of the app's result backend; None without a backend that other processes can
        read.

        Chosen on first use: Celery may read its configuration long after `install`.
        """
        if not self._chosen:
            from headway.backends import store_for  # noqa: PLC0415 - it imports the drivers

            try:
                self._store = store_for(self.app)
            except ConfigurationError as exc:
                logger.warning("Headway records no progress: %s", exc)
            self._chosen = True
        return self._store

    @store.setter
    def store(self, store: Store | None) -> None:
        from headway.backends import set_store  # noqa: PLC0415  as above

        self._store, self._chosen = store, True
        if store is not None:
            set_store(self.app, store)

    @property
    def keeps_results(self) -> bool:
        """Whether the store also writes the result backend's own records."""
        return self.store is not None and self.store.keeps_results

    def cancels_on_update(self, task: Any) -> bool:
        """Whether the reports of this task raise after a cancel request."""
        return bool(getattr(task, "cancel_on_update", self.cancel_on_update))

    def progress_timeout_of(self, task: Any) -> float | None:
        """The ``progress_timeout`` of this task in seconds; None for never."""
        own = getattr(task, "progress_timeout", self.progress_timeout)
        try:
            return seconds_or_none("progress_timeout", own)
        except UsageError as exc:
            logger.warning("%s: %s", task.name, exc)  # logged at each run: no caller could catch it
            return None

    @staticmethod
    def is_executing(request: Any, task_id: object) -> bool:
        """Whether this process executes the request (a worker's main process has requests too)."""
        return (
            request is not None
            and request.id == task_id
            and request.called_directly is False
            and not request.is_eager
        )

    def store_available(self) -> bool:
        """Whether the store may be used now: not right after a failure."""
        return self.breaker.retry_at <= time.monotonic()

    @contextmanager
    def swallow_store_errors(self) -> Iterator[None]:
        """Catch errors of the store: count them, log an outage once, and never disturb the task or
        publisher.
        """
        try:
            yield
        except Unavailable as exc:
            if self.breaker.failed(time.monotonic()):
                logger.warning(
                    "The result backend is unavailable; tasks continue without progress: %s (%r)",
                    exc,
                    exc.__cause__,
                )
        except SoftTimeLimitExceeded:
            raise  # Celery's time limit interrupted the task here
        except Exception:
            logger.exception("Unexpected error of the store")
        else:
            if self.breaker.succeeded():
                logger.info("The result backend is available again")

    def register(self, registrations: Iterable[Registration]) -> None:
        """Register tasks before their messages are sent. Waits for one time limit at most, and not
        at all right after a failure.
        """
        store = self.store
        if store is not None and self.store_available():
            with self.swallow_store_errors():
                store.register(registrations)


def seconds_or_none(name: str, value: object) -> float | None:
    """Check an optional time. Raises ``UsageError`` if it is not valid."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UsageError(
            f"{name} must be a number of seconds above 0, or None for never, got {value!r}"
        )
    return float(value)


def app_state_of(app: Any) -> AppState | None:
    """The state that `install` made for this app; None if it was not called."""
    found = getattr(app, KEY, None)
    return found if isinstance(found, AppState) else None
