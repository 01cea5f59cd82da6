"""How many viewers one web process may hold, and whether its server is going down: what gunicorn
knows and tells nobody.

A viewer holds a thread (gthread) or a connection (gevent) for as long as it looks on. Beyond what
the server holds, clients hang and REST times out with no word (web fact 13); so the limit lies
below, and one budget counts WebSockets, event streams and held polls together.
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

#: Viewers in a process whose server says nothing of its limits (the development server makes a
#: thread for each).
UNKNOWN_SERVER = 1000


def gunicorn_worker() -> Any | None:
    """The gunicorn worker that this process is, or None: its TERM handler is a method of it (web
    fact 12).
    """
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return worker if hasattr(worker, "alive") and hasattr(worker, "cfg") else None


def capacity(worker: Any | None) -> int:
    """Viewers that leave the server enough to answer REST with."""
    if worker is None:
        return UNKNOWN_SERVER
    cfg = worker.cfg
    if "gevent" in cfg.worker_class_str or "eventlet" in cfg.worker_class_str:
        return int(max(0, cfg.worker_connections - max(10, cfg.worker_connections // 10)))
    # A thread each, and a quarter of them for everything else. The sync worker has one: a viewer
    # would be all that it serves.
    limit = int(max(0, cfg.threads - max(1, cfg.threads // 4)))
    if not limit:
        log.error(
            "gunicorn's %s worker with %d thread can hold no viewers: use -k gevent, or --threads",
            cfg.worker_class_str,
            cfg.threads,
        )
    return limit


class Transport(StrEnum):
    """How a viewer looks on."""

    SOCKET = "websocket"
    MANY = "websocket_many"
    EVENTS = "events"
    POLL = "poll"


class ConnectionLimiter:
    """Seats for viewers. ``limit`` 0: as many as the server can hold; a higher one than that is
    lowered to it.
    """

    def __init__(self, limit: int = 0) -> None:
        self._asked = limit
        self._limit: int | None = None
        self._lock = threading.Lock()
        self._taken: Counter[Transport] = Counter()
        self._refused: Counter[Transport] = Counter()

    @property
    def taken(self) -> int:
        """How many seats are taken now."""
        return self._taken.total()

    def taken_by(self, skin: Transport) -> int:
        """How many of them by such viewers."""
        return self._taken[skin]

    def refused(self, skin: Transport) -> int:
        """How many such viewers found none, so far."""
        return self._refused[skin]

    @property
    def limit(self) -> int:
        """How many there are. Found on first use: only then is the process the one that serves."""
        if self._limit is None:
            held = capacity(gunicorn_worker())
            self._limit = min(self._asked, held) if self._asked else held
        return self._limit

    @contextmanager
    def seat(self, skin: Transport) -> Iterator[None]:
        """Take a seat for the block; raises ``TooManyRequests`` where none is free."""
        with self._lock:
            if self._taken.total() >= self.limit:
                self._refused[skin] += 1
                raise TooManyRequests("Too many viewers")
            self._taken[skin] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[skin] -= 1
