"""What is sent to one viewer: frames, backlog, connection; limits and supervisor."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Ping, TextMessage

from headway.core.frames import error_frame
from headway.errors import TooManyRequests
from headway.server.counters import Count, Counts
from headway.server.streams import limits, rfc6455
from headway.server.streams.backlog import Backlog
from headway.server.streams.changes import Frame
from headway.server.streams.connection import MAX_WAITING, Bytes, ViewerConnection
from headway.server.streams.flusher import SelectorFlusher
from headway.server.streams.hub import utc_now
from headway.server.streams.limits import ConnectionLimiter, Transport
from headway.server.streams.rfc6455 import PING
from headway.server.streams.supervisor import GOING_DOWN, StreamSupervisor
from tests.support.wait import until


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65535, 65536, 70000])
def test_text_frame_is_read_back_by_a_client(length: int) -> None:
    """wsproto as the client reads back a text frame of any length."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(rfc6455.text(b"x" * length) + rfc6455.PING)
    *parts, ping = client.events()
    assert "".join(part.data for part in parts if isinstance(part, TextMessage)) == "x" * length
    assert isinstance(ping, Ping)


def test_key_must_be_16_bytes_in_base64() -> None:
    """A valid key is 16 bytes in base64."""
    assert rfc6455.key_is_valid("dGhlIHNhbXBsZSBub25jZQ==")
    for bad in ("", "abc", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "ä" * 24):
        assert not rfc6455.key_is_valid(bad)


def frame(kind: str, execution_id: str, number: int) -> Frame:
    return Frame({"type": kind, "execution_id": execution_id, "number": number})


@given(
    st.lists(st.tuples(st.sampled_from(["progress", "status", "completed"]), st.sampled_from("ab")))
)
def test_backlog_keeps_order_and_merges_consecutive_reports(items: list[tuple[str, str]]) -> None:
    """Each execution's order is kept; a report is dropped only if a newer one follows directly."""
    backlog: Backlog[Frame] = Backlog()
    frames_in = [
        frame(kind, execution_id, number) for number, (kind, execution_id) in enumerate(items)
    ]
    for each in frames_in:
        backlog.put(each)
    taken = list(iter(backlog.take, None))
    for execution_id in "ab":
        of_execution = [each for each in frames_in if each.execution_id == execution_id]
        following = [each.kind for each in of_execution[1:]] + [None]
        expected = [
            each
            for each, after in zip(of_execution, following, strict=False)
            if not each.kind == after == "progress"
        ]
        assert [each.content["number"] for each in taken if each.execution_id == execution_id] == [
            each.content["number"] for each in expected
        ]


def test_frame_is_encoded_once() -> None:
    """The bytes of a frame are the same object for every viewer."""
    sent = Frame(error_frame("unavailable", "ä", utc_now(), "x"))
    assert sent.on_wire is sent.on_wire
    assert sent.body is sent.body


class ConnectedPair:
    """A viewer's connection, and the client's end of it."""

    def __init__(self) -> None:
        ours, self.client = socket.socketpair()
        self.ours = ours
        self.flusher = SelectorFlusher()
        self.counts = Counts()
        self.connection = ViewerConnection(ours, self.flusher, 4096, self.counts)
        self.client.settimeout(60)

    def read(self, size: int) -> bytes:
        """Read so many bytes as the client."""
        data = b""
        while len(data) < size:
            more = self.client.recv(65536)
            assert more, "ended early"
            data += more
        return data


@pytest.fixture
def pair() -> Iterator[ConnectedPair]:
    pair = ConnectedPair()
    yield pair
    pair.connection.shutdown()
    pair.ours.close()
    pair.client.close()


def test_enqueue_sends_at_once(pair: ConnectedPair) -> None:
    """What the kernel takes is sent within the call."""
    pair.connection.enqueue(Bytes(b"abc"))
    assert pair.read(3) == b"abc"
    assert not pair.connection.waiting


def test_enqueue_never_blocks_and_loses_nothing(pair: ConnectedPair) -> None:
    """Large frames to a client that reads later: no call blocks, and all arrive whole and in order
    (web-facts#gevent-corrupts-large-frames).
    """
    items = [bytes([number]) * 500_000 for number in range(1, 6)]
    for item in items:
        pair.connection.enqueue(Bytes(item))
    assert pair.connection.waiting
    assert pair.read(2_500_000) == b"".join(items)
    until(lambda: not pair.connection.waiting)


def test_waiting_reports_are_merged(pair: ConnectedPair) -> None:
    """While the client does not read, reports merge to the newest; the end is sent last."""
    pair.connection.enqueue(Bytes(b"-" * 500_000))
    reports = [frame("progress", "x", number) for number in range(1000)]
    for report in reports:
        pair.connection.enqueue(report)
    end = frame("completed", "x", 1000)
    pair.connection.enqueue(end)
    expected = reports[-1].on_wire + end.on_wire
    assert pair.read(500_000 + len(expected))[500_000:] == expected
    assert pair.counts[Count.MERGED] == 999
    assert pair.counts[Count.DROPPED] == 0


def test_too_many_waiting_frames_set_overflowed(pair: ConnectedPair) -> None:
    """Frames that cannot be merged are bounded: `overflowed` reports too many of them."""
    pair.connection.enqueue(Bytes(b"-" * 500_000))
    for number in range(MAX_WAITING):
        pair.connection.enqueue(frame("status", "x", number))
        assert not pair.connection.overflowed
    pair.connection.enqueue(frame("status", "x", 0))
    assert pair.connection.overflowed


def test_frames_beyond_twice_the_bound_are_dropped(pair: ConnectedPair) -> None:
    """Memory is bounded even if nothing acts on `overflowed`, and `overflowed` stays set."""
    pair.connection.enqueue(Bytes(b"-" * 500_000))
    for _ in range(10 * MAX_WAITING):
        pair.connection.enqueue(Bytes(b"x"))
    assert pair.read(500_000 + 2 * MAX_WAITING)[500_000:] == b"x" * 2 * MAX_WAITING
    until(lambda: not pair.connection.waiting)
    assert pair.connection.overflowed, "a frame was lost, so the viewer must be disconnected"
    assert pair.counts[Count.DROPPED] == 0, "only frames count, not bytes"


def test_nothing_is_sent_after_a_close(pair: ConnectedPair) -> None:
    """Nothing follows a close, nor simple-websocket's own reply to one, wherever it is."""
    # "H" is 0x48: with these last four bits, a frame would be a close.
    pair.connection.send(b"HTTP/1.1 101 Switching Protocols")
    pair.connection.enqueue(frame("status", "x", 1))
    pong, close = b"\x8a\x02\x88\x00", b"\x88\x02\x03\xe8"
    pair.connection.send(pong)
    pair.connection.enqueue(end := frame("completed", "x", 2))
    pair.connection.send(pong + close)
    pair.connection.enqueue(frame("progress", "x", 3))
    pair.connection.send(pong)
    pair.connection.shutdown()
    assert pair.client.recv(65536).endswith(pong + end.on_wire + pong + close)


def test_enqueue_after_the_client_left_is_dropped(pair: ConnectedPair) -> None:
    """Sending to a client that has left raises nothing and keeps nothing; lost frames count."""
    pair.connection.enqueue(Bytes(b"-" * 500_000))
    pair.connection.enqueue(frame("status", "x", 1))
    pair.connection.enqueue(Bytes(PING))
    pair.client.close()
    until(lambda: pair.connection.closed and not pair.connection.waiting)
    pair.connection.enqueue(frame("status", "x", 2))
    assert not pair.connection.waiting
    assert pair.counts[Count.DROPPED] == 3


def test_shutdown_ends_the_flushers_thread(pair: ConnectedPair) -> None:
    """A connection that is shut down while something waits ends the flusher's thread too."""
    pair.connection.enqueue(Bytes(b"-" * 500_000))
    assert pair.connection.waiting
    pair.connection.shutdown()
    assert not pair.connection.waiting


def test_slow_connections_share_one_flusher() -> None:
    """One thread flushes many slow clients, each at its own pace."""
    pairs = [ConnectedPair() for _ in range(10)]
    flusher = pairs[0].flusher
    for pair in pairs:
        pair.connection._flusher = flusher
        pair.connection.enqueue(Bytes(b"-" * 300_000))
    for pair in reversed(pairs):
        assert len(pair.read(300_000)) == 300_000
    for pair in pairs:
        pair.connection.shutdown()
        pair.ours.close()
        pair.client.close()


# Limits


def gunicorn(kind: str, *, threads: int = 1, connections: int = 1000) -> Any:
    return SimpleNamespace(
        alive=True,
        cfg=SimpleNamespace(worker_class_str=kind, threads=threads, worker_connections=connections),
        term=None,
    )


@pytest.mark.parametrize(
    ("of", "limit"),
    [
        (None, limits.DEFAULT_CAPACITY),
        (gunicorn("gevent"), 900),
        (gunicorn("gevent", connections=2000), 1800),
        (gunicorn("gevent", connections=5), 0),
        (gunicorn("gthread", threads=32), 24),
        (gunicorn("gthread", threads=4), 3),
        (gunicorn("gthread", threads=2), 1),
        (gunicorn("sync"), 0),
    ],
)
def test_capacity_leaves_room_for_rest(
    of: Any, limit: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit is below the server's capacity (web-facts#one-budget-for-all-streams); a server
    that cannot serve any stream logs an error.
    """
    assert limits.capacity(of) == limit
    if of is not None and of.cfg.worker_class_str == "sync":
        assert "gevent" in caplog.records[0].getMessage()
        assert caplog.records[0].levelno == logging.ERROR


def test_limiter_counts_and_refuses_viewers() -> None:
    """A slot is freed after its block; none is beyond the limit or the server's capacity."""
    limiter = ConnectionLimiter(2)
    with (
        limiter.slot(Transport.SOCKET),
        limiter.slot(Transport.POLL),
        pytest.raises(TooManyRequests),
        limiter.slot(Transport.POLL),
    ):
        pass
    assert limiter.in_use == 0
    assert (limiter.refused(Transport.SOCKET), limiter.refused(Transport.POLL)) == (0, 1)
    assert ConnectionLimiter(10**9).limit == limits.DEFAULT_CAPACITY
    assert ConnectionLimiter().limit == limits.DEFAULT_CAPACITY


def test_gunicorn_worker_is_found_by_its_signal_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is the object whose method handles SIGTERM; other handlers are ignored."""
    assert limits.gunicorn_worker() is None

    class Worker:
        alive = True
        cfg = None

        def handle_exit(self, *_: Any) -> None: ...

    worker = Worker()
    monkeypatch.setattr(signal, "getsignal", lambda _: worker.handle_exit)
    assert limits.gunicorn_worker() is worker


# The supervisor


class RecordingStream:
    """A stream that records its checks and ends."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str]] = []
        self.checks = 0
        self.fails = False

    def check(self, now: float) -> None:
        self.checks += 1
        if self.fails:
            raise RuntimeError("the test makes this stream fail")

    def end(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))


def test_supervisor_ends_streams_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """When gunicorn's worker stops, every stream ends with 1012, and so does every later one."""
    stopping = gunicorn("gthread")
    monkeypatch.setattr("headway.server.streams.supervisor.gunicorn_worker", lambda: stopping)
    supervisor, early, late = StreamSupervisor(), RecordingStream(), RecordingStream()
    with supervisor.supervise(early):
        assert not early.ends
        stopping.alive = False
        until(lambda: early.ends == [GOING_DOWN])
        with supervisor.supervise(late):
            assert late.ends == [GOING_DOWN]


def test_supervisor_checks_all_streams_despite_failures() -> None:
    """Each stream is checked again and again; one that fails does not affect the others."""
    supervisor = StreamSupervisor(stream_check_interval=0.01, server_check_interval=0.01)
    bad, good = RecordingStream(), RecordingStream()
    bad.fails = True
    with supervisor.supervise(bad), supervisor.supervise(good):
        until(lambda: bad.checks > 2 and good.checks > 2)
