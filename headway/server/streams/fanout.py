"""Delivers a change to many viewers, with pauses for other threads in between."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Collection, Iterable
from types import TracebackType
from typing import Self

from headway.errors import HeadwayError
from headway.server.counters import Count, Counts
from headway.server.streams.changes import Change, Viewer

log = logging.getLogger(__name__)

#: Deliveries between two pauses. Under gevent, 5,000 in a row would block REST
#: (web-facts#flush-only-slow-viewers).
BURST = 200


class Fanout:
    """A context manager. Only the thread that entered it may use it."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._always_writable: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Self:
        if _under_gevent():
            self._always_writable = socket.socketpair()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for end in self._always_writable or ():
            end.close()

    def deliver(self, viewers: Collection[Viewer], change: Change) -> None:
        """Deliver a change to all of them."""
        self._counts.add(Count.FRAMES, len(viewers) * len(change.frames))
        for number, viewer in enumerate(viewers, 1):
            try:
                viewer.deliver(change)
            except Exception:  # a failure of one viewer must not affect the others
                log.exception("Delivering to a viewer failed")
            if number % BURST == 0:
                self._yield_to_others()

    def refuse(self, viewers: Iterable[Viewer], execution_id: str, error: HeadwayError) -> None:
        """Refuse the execution to all of them."""
        for viewer in viewers:
            try:
                viewer.refuse(execution_id, error)
            except Exception:  # as above
                log.exception("Refusing a viewer failed")

    def _yield_to_others(self) -> None:
        if self._always_writable is None:
            time.sleep(0)  # noqa: TID251 - not a wait: it lets other threads run
            return
        # `sleep(0)` would run other greenlets, but not wake those that wait for the network: gevent
        # polls the network only after some milliseconds of callbacks, and one request needs
        # several polls. Waiting for a socket that is always writable takes exactly one poll.
        from gevent.socket import wait_write  # noqa: PLC0415 - only here is gevent certain to exist

        wait_write(self._always_writable[0].fileno())


def _under_gevent() -> bool:
    """Whether gevent has patched the sockets of this process."""
    return "gevent" in sys.modules and socket.socket.__module__.startswith("gevent")
