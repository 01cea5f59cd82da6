"""Telling many, one after the other, and giving way in between."""

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

#: Viewers that are told before others get a turn: under gevent, 5,000 in a row would keep REST
#: waiting (web fact 10).
BURST = 200


class Fanout:
    """A context manager; all of it is for the one thread that entered it."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._ready: tuple[socket.socket, socket.socket] | None = None

    def __enter__(self) -> Self:
        if _under_gevent():
            self._ready = socket.socketpair()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for end in self._ready or ():
            end.close()

    def tell(self, viewers: Collection[Viewer], change: Change) -> None:
        """Tell all of them."""
        self._counts.add(Count.FRAMES, len(viewers) * len(change.frames))
        for number, viewer in enumerate(viewers, 1):
            try:
                viewer.tell(change)
            except Exception:  # one viewer's fault may not reach the others
                log.exception("A viewer could not be told")
            if number % BURST == 0:
                self._give_way()

    def refuse(self, viewers: Iterable[Viewer], execution_id: str, error: HeadwayError) -> None:
        """Tell all of them that there is no such execution."""
        for viewer in viewers:
            try:
                viewer.refuse(execution_id, error)
            except Exception:  # as above
                log.exception("A viewer could not be told")

    def _give_way(self) -> None:
        if self._ready is None:
            time.sleep(0)  # noqa: TID251 - not a wait: it lets other threads run
            return
        # `sleep(0)` would let other greenlets run, but not wake those who wait for the network:
        # gevent looks there only when it has had enough of callbacks, some milliseconds later, and
        # a request needs several looks. A socket that is always ready is answered by the very next
        # one.
        from gevent.socket import wait_write  # noqa: PLC0415 - here it is there, elsewhere it needn't be

        wait_write(self._ready[0].fileno())


def _under_gevent() -> bool:
    """Whether sockets are gevent's in this process."""
    return "gevent" in sys.modules and socket.socket.__module__.startswith("gevent")
