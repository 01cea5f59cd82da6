"""The viewers of a WebSocket and an event stream: slow clients, and what follows an end."""

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
from tests.unit.test_connection import ConnectedPair


class UnservedViewer(SocketViewer):
    """A viewer without its own thread, whose requested end is visible."""

    def __init__(self, connection: Any) -> None:
        hub = SimpleNamespace(counts=connection._counts)
        ws = SimpleNamespace(event=threading.Event(), ping_interval=None, input_buffer=[])
        settings = SimpleNamespace(ping_interval=3600.0)
        services = SimpleNamespace(clock=utc_now, settings=settings, hub=hub)
        super().__init__(ws, connection, services)  # type: ignore[arg-type]

    @property
    def ended(self) -> Any:
        return self._ending


@pytest.fixture
def pair() -> Iterator[ConnectedPair]:
    pair = ConnectedPair()
    pair.connection.enqueue(Bytes(b"-" * 500_000))
    yield pair
    pair.connection.shutdown()
    pair.ours.close()
    pair.client.close()


def test_unread_pongs_disconnect_at_the_next_check(pair: ConnectedPair) -> None:
    """A client that pings and does not read is disconnected at the supervisor's next check."""
    viewer = UnservedViewer(pair.connection)
    for _ in range(MAX_WAITING):
        pair.connection.enqueue(Bytes(PING))
    viewer.check(pair.connection.last_sent_at)
    assert viewer.ended is None
    pair.connection.enqueue(Bytes(PING))
    viewer.check(pair.connection.last_sent_at)
    assert viewer.ended == TOO_SLOW


def test_unread_error_frames_disconnect_at_once(pair: ConnectedPair) -> None:
    """A client that does not read its ``error`` frames is disconnected when too many wait."""
    viewer = UnservedViewer(pair.connection)
    for _ in range(MAX_WAITING):
        viewer.send_error("not_found", "Not found", "x")
    assert viewer.ended is None
    viewer.send_error("not_found", "Not found", "x")
    assert viewer.ended == TOO_SLOW
    viewer.end(*TOO_SLOW)
    assert pair.counts[Count.CUT_OFF] == 1


def test_client_that_catches_up_stays_connected(pair: ConnectedPair) -> None:
    """A client that has read everything meanwhile is not disconnected."""
    viewer = UnservedViewer(pair.connection)
    for _ in range(MAX_WAITING + 1):
        pair.connection.enqueue(Bytes(PING))
    pair.read(500_000 + (MAX_WAITING + 1) * len(PING))
    viewer.check(pair.connection.last_sent_at)
    assert viewer.ended is None


def test_no_frame_is_sent_after_the_end() -> None:
    """The hub delivers until the viewer has left; a new attempt is not sent after the close."""
    pair = ConnectedPair()
    try:
        viewer = UnservedViewer(pair.connection)
        viewer.deliver(Change("x", None, (Frame({"type": "failed", "execution_id": "x"}),)))
        assert b"failed" in pair.client.recv(100)
        assert viewer.ended is not None
        viewer.deliver(Change("x", None, (Frame({"type": "status", "execution_id": "x"}),)))
        pair.client.setblocking(False)
        with pytest.raises(BlockingIOError):
            pair.client.recv(100)
    finally:
        pair.connection.shutdown()
        pair.ours.close()
        pair.client.close()


def test_no_ping_is_sent_after_the_end() -> None:
    """A check may come between a viewer's end and its close: nothing is sent."""
    pair = ConnectedPair()
    try:
        viewer = UnservedViewer(pair.connection)
        viewer.end(1000, "ended")
        viewer.check(pair.connection.last_received_at + 1e6)
        pair.client.setblocking(False)
        with pytest.raises(BlockingIOError):
            pair.client.recv(100)
    finally:
        pair.connection.shutdown()
        pair.ours.close()
        pair.client.close()


def test_unread_event_stream_is_disconnected() -> None:
    """A stream whose write does not return is disconnected; a quiet stream is not."""
    ours, client = socket.socketpair()
    client.settimeout(60)
    counts = Counts()
    execution = Execution("a", Status.RUNNING, Phase.RUNNING, attempt=1)
    with ours, client, Flask("a").test_request_context(environ_overrides={SOCKETS[0]: ours}):
        viewer = EventViewer(None, 1000.0, counts, "", utc_now, first_read=60.0)
        body = viewer.events()
        next(body)
        viewer.check(time.monotonic() + 60_000)
        viewer.deliver(Change("a", execution, (Frame(frames.status_frame(execution, utc_now())),)))
        assert b"event: status" in next(body)  # the write of this event does not return
        viewer.check(time.monotonic() + 1000)
        assert counts[Count.CUT_OFF] == 0
        viewer.check(time.monotonic() + 3000)
        viewer.check(time.monotonic() + 6000)
        assert counts[Count.CUT_OFF] == 1
        assert client.recv(1) == b""
