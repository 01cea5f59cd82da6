"""One socket's viewer, with no server behind it: what it does about one that takes nothing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask

from headway.core import frames
from headway.models import Execution, Phase, Status
from headway.server.counters import Count, Counts
from headway.server.streams.changes import Change, Frame
from headway.server.streams.connection import MAX_WAITING, Bytes
from headway.server.streams.handshake import SOCKETS
from headway.server.streams.hub import utc_now
from headway.server.streams.rfc6455 import PING
from headway.server.streams.sse import EventViewer
from headway.server.streams.websocket import TOO_SLOW, SocketViewer
from tests.unit.test_connection import Pair


class Ended(SocketViewer):
    """A viewer whose end can be looked at."""

    def __init__(self, line: Any) -> None:
        hub = SimpleNamespace(counts=line._counts)
        ws = SimpleNamespace(event=threading.Event(), ping_interval=None, input_buffer=[])
        settings = SimpleNamespace(ping_interval=3600.0)
        super().__init__(ws, line, SimpleNamespace(clock=utc_now, settings=settings, hub=hub))  # type: ignore[arg-type]

    @property
    def ended(self) -> Any:
        return self._ending


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    pair.line.enqueue(Bytes(b"-" * 500_000))
    yield pair
    pair.line.shutdown()
    pair.ours.close()
    pair.viewer.close()


def test_pongs_that_pile_up(pair: Pair) -> None:
    """A viewer that pings and reads nothing is let go by the keeper's next look, long before its
    patience is over.
    """
    viewer = Ended(pair.line)
    for _ in range(MAX_WAITING):
        pair.line.enqueue(Bytes(PING))
    viewer.check(pair.line.last_sent_at)
    assert viewer.ended is None
    pair.line.enqueue(Bytes(PING))
    viewer.check(pair.line.last_sent_at)
    assert viewer.ended == TOO_SLOW


def test_complaints_that_pile_up(pair: Pair) -> None:
    """A viewer that asks for what isn't there and reads no answer is let go as soon as too much
    waits.
    """
    viewer = Ended(pair.line)
    for _ in range(MAX_WAITING):
        viewer.send_error("not_found", "There is none", "x")
    assert viewer.ended is None
    viewer.send_error("not_found", "There is none", "x")
    assert viewer.ended == TOO_SLOW
    viewer.end(*TOO_SLOW)
    assert pair.counts[Count.CUT_OFF] == 1


def test_one_that_catches_up_stays(pair: Pair) -> None:
    """Much that waited once is no reason to let go of a viewer that has read it since."""
    viewer = Ended(pair.line)
    for _ in range(MAX_WAITING + 1):
        pair.line.enqueue(Bytes(PING))
    pair.read(500_000 + (MAX_WAITING + 1) * len(PING))
    viewer.check(pair.line.last_sent_at)
    assert viewer.ended is None


def test_no_frame_follows_an_end() -> None:
    """The hub tells a viewer until it has left; a new attempt that begins meanwhile is not told
    behind the close.
    """
    pair = Pair()
    try:
        viewer = Ended(pair.line)
        viewer.deliver(Change("x", None, (Frame({"type": "failed", "execution_id": "x"}),)))
        assert b"failed" in pair.viewer.recv(100)
        assert viewer.ended is not None
        viewer.deliver(Change("x", None, (Frame({"type": "status", "execution_id": "x"}),)))
        pair.viewer.setblocking(False)
        with pytest.raises(BlockingIOError):
            pair.viewer.recv(100)
    finally:
        pair.line.shutdown()
        pair.ours.close()
        pair.viewer.close()


def test_no_ping_follows_an_end() -> None:
    """The keeper's look may come between a viewer's end and its leave: nothing may follow the
    close.
    """
    pair = Pair()
    try:
        viewer = Ended(pair.line)
        viewer.end(1000, "over")
        viewer.check(pair.line.last_received_at + 1e6)
        pair.viewer.setblocking(False)
        with pytest.raises(BlockingIOError):
            pair.viewer.recv(100)
    finally:
        pair.line.shutdown()
        pair.ours.close()
        pair.viewer.close()


def test_an_event_stream_that_nobody_reads_is_cut_off() -> None:
    """The server's thread waits in its write without end: the keeper ends the connection; a quiet
    stream is left in peace.
    """
    here, there = socket.socketpair()
    there.settimeout(60)
    counts = Counts()
    execution = Execution("a", Status.RUNNING, Phase.RUNNING, attempt=1)
    with here, there, Flask("a").test_request_context(environ_overrides={SOCKETS[0]: here}):
        viewer = EventViewer(None, 1000.0, counts, "", utc_now, first_read=60.0)
        body = viewer.events()
        next(body)
        viewer.check(time.monotonic() + 60_000)
        viewer.deliver(Change("a", execution, (Frame(frames.status_frame(execution, utc_now())),)))
        assert b"event: status" in next(body)  # and doesn't come for more: it is being written
        viewer.check(time.monotonic() + 1000)
        assert counts[Count.CUT_OFF] == 0
        viewer.check(time.monotonic() + 3000)
        viewer.check(time.monotonic() + 6000)
        assert counts[Count.CUT_OFF] == 1
        assert there.recv(1) == b""
