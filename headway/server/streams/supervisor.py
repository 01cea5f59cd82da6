"""Supervises the open streams of a process: pings, dead clients, and the shutdown of the server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from headway.server.streams.limits import gunicorn_worker

log = logging.getLogger(__name__)

#: Seconds between two checks of the server. gunicorn does not announce its shutdown, and waits for
#: its whole graceful timeout while streams are open (web-facts#sigterm-waits-for-streams).
SERVER_CHECK_INTERVAL = 0.25
#: Seconds between two checks of each stream.
STREAM_CHECK_INTERVAL = 1.0

#: "Service restart" in RFC 6455's registry of close codes. Clients reconnect after a random delay.
GOING_DOWN = (1012, "The server is going down")


class Stream(Protocol):
    """One open stream of any transport. The supervisor's thread calls it; calls must not block."""

    def check(self, now: float) -> None:
        """Send what is due; end the stream if its client is gone. ``now``: monotonic seconds."""

    def end(self, code: int, reason: str) -> None:
        """End the stream soon, with a close. A second call does nothing."""


class StreamSupervisor:
    """One per process. Its thread runs while streams are open.

    ``stream_check_interval`` and ``server_check_interval`` in seconds.
    """

    def __init__(
        self,
        *,
        stream_check_interval: float = STREAM_CHECK_INTERVAL,
        server_check_interval: float = SERVER_CHECK_INTERVAL,
    ) -> None:
        self.stream_check_interval = stream_check_interval
        self._server_check_interval = server_check_interval
        self._lock = threading.Lock()
        self._streams: set[Stream] = set()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._going_down = False

    @contextmanager
    def supervise(self, stream: Stream) -> Iterator[None]:
        """Supervise a stream during the block. During the shutdown it is ended at once."""
        with self._lock:
            self._streams.add(stream)
            if self._thread is None:
                self._wake.clear()
                self._thread = threading.Thread(
                    target=self._run, name="headway-supervisor", daemon=True
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

    def close_all(self) -> None:
        """End every stream, and every later one at its start: the server is going down."""
        with self._lock:
            self._going_down = True
            streams = list(self._streams)
        for stream in streams:
            self._safely_end(stream)

    def _run(self) -> None:
        worker = gunicorn_worker()
        check_at = time.monotonic() + self.stream_check_interval
        while True:
            self._wake.wait(self._server_check_interval)
            with self._lock:
                self._wake.clear()
                if not self._streams:
                    self._thread = None
                    return
            if worker is not None and not worker.alive and not self._going_down:
                log.info("The server is shutting down; closing %d streams", len(self._streams))
                self.close_all()
            now = time.monotonic()
            if now >= check_at:
                check_at = now + self.stream_check_interval
                self._check(now)

    def _check(self, now: float) -> None:
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            try:
                stream.check(now)
            except Exception:  # a failure of one stream must not affect the others
                log.exception("Checking a stream failed")

    def _safely_end(self, stream: Stream) -> None:
        try:
            stream.end(*GOING_DOWN)
        except Exception:  # as above
            log.exception("Ending a stream failed")
