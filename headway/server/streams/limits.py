"""How many viewers one web process may have.

A viewer takes a thread (gthread) or a connection (gevent) for as long as its stream is open. Beyond
the server's capacity, clients hang and REST times out without a message
(web-facts#one-budget-for-all-streams). So the limit is below that capacity, and one limiter counts
WebSockets, event streams and held polls together.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

from headway.errors import TooManyRequests

log = logging.getLogger(__name__)

#: Viewers of a process whose server does not report its capacity (the development server starts a
#: thread for each request).
DEFAULT_CAPACITY = 1000


def gunicorn_worker() -> Any | None:
    """The gunicorn worker of this process, or None.

    Found through the handler of SIGTERM, which is a method of it
    (web-facts#sigterm-waits-for-streams).
    """
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return worker if hasattr(worker, "alive") and hasattr(worker, "cfg") else None


def capacity(worker: Any | None) -> int:
    """How many viewers still leave the server enough capacity for REST."""
    if worker is None:
        return DEFAULT_CAPACITY
    cfg = worker.cfg
    if "gevent" in cfg.worker_class_str or "eventlet" in cfg.worker_class_str:
        return int(max(0, cfg.worker_connections - max(10, cfg.worker_connections // 10)))
    # Each viewer takes a thread; a quarter of the threads stays free for everything else. The sync
    # worker has one thread: a viewer would block all other requests.
    limit = int(max(0, cfg.threads - max(1, cfg.threads // 4)))
    if not limit:
        log.error(
            "gunicorn's %s worker with %d thread cannot serve streams: use -k gevent, or --threads",
            cfg.worker_class_str,
            cfg.threads,
        )
    return limit


class Transport(StrEnum):
    """The transport of a viewer's stream."""

    SOCKET = "websocket"
    MANY = "websocket_many"
    EVENTS = "events"
    POLL = "poll"


class ConnectionLimiter:
    """Limits the viewers of a process.

    ``limit`` 0 means the server's capacity; a limit above the capacity is reduced to it.
    """

    def __init__(self, limit: int = 0) -> None:
        self._configured = limit
        self._limit: int | None = None
        self._lock = threading.Lock()
        self._in_use: Counter[Transport] = Counter()
        self._refused: Counter[Transport] = Counter()

    @property
    def in_use(self) -> int:
        """How many viewers there are now."""
        return self._in_use.total()

    def in_use_by(self, transport: Transport) -> int:
        """How many of them use this transport."""
        return self._in_use[transport]

    def refused(self, transport: Transport) -> int:
        """How many viewers of this transport were refused so far."""
        return self._refused[transport]

    @property
    def limit(self) -> int:
        """The limit. Determined on first use: only then does the serving process run this code."""
        if self._limit is None:
            found = capacity(gunicorn_worker())
            self._limit = min(self._configured, found) if self._configured else found
        return self._limit

    @contextmanager
    def slot(self, transport: Transport) -> Iterator[None]:
        """Count a viewer during the block. Raises ``TooManyRequests`` if the limit is reached."""
        with self._lock:
            if self._in_use.total() >= self.limit:
                self._refused[transport] += 1
                raise TooManyRequests("Too many viewers")
            self._in_use[transport] += 1
        try:
            yield
        finally:
            with self._lock:
                self._in_use[transport] -= 1
