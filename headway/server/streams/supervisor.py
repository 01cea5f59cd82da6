"""Looks after the open streams of a process: pings, streams that stand still, and the server that
is going down.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from headway.server.streams.limits import gunicorn_worker

log = logging.getLogger(__name__)

#: Seconds between two looks at the server: gunicorn tells nobody that it is going down, and holds
#: on for all of its graceful timeout while streams are open (web fact 12).
WATCH_INTERVAL = 0.25
#: Seconds between two looks at each stream.
CHECK_INTERVAL = 1.0

#: RFC 6455's registry of close codes: "service restart". Clients come back after a jitter.
GOING_DOWN = (1012, "The server is going down")


class Stream(Protocol):
    """One open stream, of whatever kind. Both are called by the keeper's thread and must not block."""

    def check(self, now: float) -> None:
        """Send what is due, and end where nobody is there any more. ``now`` is monotonic, in
        seconds.
        """

    def end(self, code: int, reason: str) -> None:
        """Say goodbye and end, soon. A second call does nothing."""


class StreamSupervisor:
    """One per process. Its thread lives while streams are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: set[Stream] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._going_down = False

    @contextmanager
    def keeping(self, stream: Stream) -> Iterator[None]:
        """Look after a stream for the block; one that comes while the server goes down is ended at
        once.
        """
        with self._lock:
            self._streams.add(stream)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(
                    target=self._run, name="headway-keeper", daemon=True
                )
                self._thread.start()
            going_down = self._going_down
        if going_down:
            stream.end(*GOING_DOWN)
        try:
            yield
        finally:
            with self._lock:
                self._streams.discard(stream)
                if not self._streams:
                    self._wake.set()

    def send_away(self) -> None:
        """End every stream, and every one that comes later: the server is going down."""
        with self._lock:
            self._going_down = True
            streams = list(self._streams)
        for stream in streams:
            self._safely_end(stream)

    def _run(self) -> None:
        worker = gunicorn_worker()
        check_at = time.monotonic() + CHECK_INTERVAL
        while True:
            self._wake.wait(WATCH_INTERVAL)
            with self._lock:
                self._wake.clear()
                if not self._streams:
                    self._thread = None
                    return
            if worker is not None and not worker.alive and not self._going_down:
                log.info(
                    "The server is going down: %d streams are told to come back", len(self._streams)
                )
                self.send_away()
            now = time.monotonic()
            if now >= check_at:
                check_at = now + CHECK_INTERVAL
                self._check(now)

    def _check(self, now: float) -> None:
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            try:
                stream.check(now)
            except Exception:  # one stream's fault may not leave the others alone
                log.exception("A stream could not be looked after")

    def _safely_end(self, stream: Stream) -> None:
        try:
            stream.end(*GOING_DOWN)
        except Exception:  # as above
            log.exception("A stream could not be ended")
