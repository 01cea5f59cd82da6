"""What goes out to one viewer: the wire, the queue, the line that never waits, the seats."""

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
def test_wire_text(length: int) -> None:
    """A text frame of any length is read back by a client's state machine."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(rfc6455.text(b"x" * length) + rfc6455.PING)
    *parts, ping = client.events()
    assert "".join(part.data for part in parts if isinstance(part, TextMessage)) == "x" * length
    assert isinstance(ping, Ping)


def test_wire_key() -> None:
    """A key is 16 bytes in base64, and nothing else is."""
    assert rfc6455.key_is_valid("dGhlIHNhbXBsZSBub25jZQ==")
    for bad in ("", "abc", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZSE=", "ä" * 24):
        assert not rfc6455.key_is_valid(bad)


def frame(kind: str, execution_id: str, number: int) -> Frame:
    return Frame({"type": kind, "execution_id": execution_id, "number": number})


@given(
    st.lists(st.tuples(st.sampled_from(["progress", "status", "completed"]), st.sampled_from("ab")))
)
def test_backlog(items: list[tuple[str, str]]) -> None:
    """The order of an execution is kept, and only a report that a newer one follows at once is left
    out.
    """
    backlog: Backlog[Frame] = Backlog()
    enqueue = [
        frame(kind, execution_id, number) for number, (kind, execution_id) in enumerate(items)
    ]
    for each in enqueue:
        backlog.put(each)
    taken = list(iter(backlog.take, None))
    for execution_id in "ab":
        of_it = [each for each in enqueue if each.execution_id == execution_id]
        following = [each.kind for each in of_it[1:]] + [None]
        wanted = [
            each
            for each, after in zip(of_it, following, strict=False)
            if not each.kind == after == "progress"
        ]
        assert [each.content["number"] for each in taken if each.execution_id == execution_id] == [
            each.content["number"] for each in wanted
        ]


def test_frames_are_encoded_once() -> None:
    """However often a frame is sent, its bytes are the same object."""
    sent = Frame(error_frame("unavailable", "ä", utc_now(), "x"))
    assert sent.on_wire is sent.on_wire
    assert sent.body is sent.body


class Pair:
    """A line, and the viewer's end of it."""

    def __init__(self) -> None:
        ours, self.viewer = socket.socketpair()
        self.ours = ours
        self.flusher = SelectorFlusher()
        self.counts = Counts()
        self.line = ViewerConnection(ours, self.flusher, 4096, self.counts)
        self.viewer.settimeout(60)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.viewer.recv(65536)
            assert more, "ended early"
            data += more
        return data


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.line.shutdown()
    pair.ours.close()
    pair.viewer.close()


def test_line_sends_at_once(pair: Pair) -> None:
    """What the kernel takes goes out within the call."""
    pair.line.enqueue(Bytes(b"abc"))
    assert pair.read(3) == b"abc"
    assert not pair.line.waiting


def test_line_never_waits_and_loses_nothing(pair: Pair) -> None:
    """Large frames to a viewer that doesn't read yet: no call waits, and later all arrive whole and
    in order (web fact 4).
    """
    items = [bytes([number]) * 500_000 for number in range(1, 6)]
    for item in items:
        pair.line.enqueue(Bytes(item))
    assert pair.line.waiting
    assert pair.read(2_500_000) == b"".join(items)
    until(lambda: not pair.line.waiting)


def test_line_merges_what_waits(pair: Pair) -> None:
    """While nothing is read, reports merge to the newest, and the end is still sent last."""
    pair.line.enqueue(Bytes(b"-" * 500_000))
    reports = [frame("progress", "x", number) for number in range(1000)]
    for report in reports:
        pair.line.enqueue(report)
    end = frame("completed", "x", 1000)
    pair.line.enqueue(end)
    wanted = reports[-1].on_wire + end.on_wire
    assert pair.read(500_000 + len(wanted))[500_000:] == wanted
    assert pair.counts[Count.MERGED] == 999
    assert pair.counts[Count.DROPPED] == 0


def test_line_says_when_too_much_waits(pair: Pair) -> None:
    """What can't be merged is bounded: the line says when a viewer has let too much pile up."""
    pair.line.enqueue(Bytes(b"-" * 500_000))
    for number in range(MAX_WAITING):
        pair.line.enqueue(frame("status", "x", number))
        assert not pair.line.overflowed
    pair.line.enqueue(frame("status", "x", 0))
    assert pair.line.overflowed


def test_line_holds_so_much_and_no_more(pair: Pair) -> None:
    """Beyond twice what may wait nothing is taken: memory is bounded, whoever is late to act on it,
    and it isn't forgotten.
    """
    pair.line.enqueue(Bytes(b"-" * 500_000))
    for _ in range(10 * MAX_WAITING):
        pair.line.enqueue(Bytes(b"x"))
    assert pair.read(500_000 + 2 * MAX_WAITING)[500_000:] == b"x" * 2 * MAX_WAITING
    until(lambda: not pair.line.waiting)
    assert pair.line.overflowed, "it lacks something, so it may not go on as if nothing were"
    assert pair.counts[Count.DROPPED] == 0, "only frames are counted"


def test_nothing_follows_a_close(pair: Pair) -> None:
    """What is told behind a close isn't sent, nor behind simple-websocket's own answer to one,
    wherever it stands.
    """
    pair.line.send(
        b"HTTP/1.1 101 Switching Protocols"
    )  # 0x48: by its last four bits this would be a close
    pair.line.enqueue(frame("status", "x", 1))
    pong, close = b"\x8a\x02\x88\x00", b"\x88\x02\x03\xe8"
    pair.line.send(pong)
    pair.line.enqueue(end := frame("completed", "x", 2))
    pair.line.send(pong + close)
    pair.line.enqueue(frame("progress", "x", 3))
    pair.line.send(pong)
    pair.line.shutdown()
    assert pair.viewer.recv(65536).endswith(pong + end.on_wire + pong + close)


def test_line_of_a_viewer_that_left(pair: Pair) -> None:
    """Sending to a viewer that has gone raises nothing, keeps nothing, and the flusher lets go of
    it; frames are counted.
    """
    pair.line.enqueue(Bytes(b"-" * 500_000))
    pair.line.enqueue(frame("status", "x", 1))
    pair.line.enqueue(Bytes(PING))
    pair.viewer.close()
    until(lambda: pair.line.closed and not pair.line.waiting)
    pair.line.enqueue(frame("status", "x", 2))
    assert not pair.line.waiting
    assert pair.counts[Count.DROPPED] == 3


def test_line_that_is_shut_while_it_waits(pair: Pair) -> None:
    """A line that is given up takes its flusher's thread along (the room is left empty)."""
    pair.line.enqueue(Bytes(b"-" * 500_000))
    assert pair.line.waiting
    pair.line.shutdown()
    assert not pair.line.waiting


def test_slow_lines_share_one_flusher() -> None:
    """Many slow viewers are flushed by one thread, each at its own pace."""
    pairs = [Pair() for _ in range(10)]
    flusher = pairs[0].flusher
    for pair in pairs:
        pair.line._flusher = flusher
        pair.line.enqueue(Bytes(b"-" * 300_000))
    for pair in reversed(pairs):
        assert len(pair.read(300_000)) == 300_000
    for pair in pairs:
        pair.line.shutdown()
        pair.ours.close()
        pair.viewer.close()


# Seats


def worker(kind: str, *, threads: int = 1, connections: int = 1000) -> Any:
    return SimpleNamespace(
        alive=True,
        cfg=SimpleNamespace(worker_class_str=kind, threads=threads, worker_connections=connections),
        term=None,
    )


@pytest.mark.parametrize(
    ("of", "limit"),
    [
        (None, limits.DEFAULT_CAPACITY),
        (worker("gevent"), 900),
        (worker("gevent", connections=2000), 1800),
        (worker("gevent", connections=5), 0),
        (worker("gthread", threads=32), 24),
        (worker("gthread", threads=4), 3),
        (worker("gthread", threads=2), 1),
        (worker("sync"), 0),
    ],
)
def test_capacity(of: Any, limit: int, caplog: pytest.LogCaptureFixture) -> None:
    """The limit lies below what the server holds (web fact 13); a server that can hold none says so
    in the log.
    """
    assert limits.capacity(of) == limit
    if of is not None and of.cfg.worker_class_str == "sync":
        assert "gevent" in caplog.records[0].getMessage()
        assert caplog.records[0].levelno == logging.ERROR


def test_budget() -> None:
    """A seat is given back when its block ends; beyond the limit there is none, nor more than the
    server holds.
    """
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


def test_gunicorn_is_found_by_its_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker is the object whose method handles TERM; any other handler is nobody's."""
    assert limits.gunicorn_worker() is None

    class Worker:
        alive = True
        cfg = None

        def handle_exit(self, *_: Any) -> None: ...

    found = Worker()
    monkeypatch.setattr(signal, "getsignal", lambda _: found.handle_exit)
    assert limits.gunicorn_worker() is found


# The keeper


class Recorded:
    def __init__(self) -> None:
        self.ends: list[tuple[int, str]] = []
        self.checks = 0
        self.fails = False

    def check(self, now: float) -> None:
        self.checks += 1
        if self.fails:
            raise RuntimeError("this stream was told to fail")

    def end(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))


def test_keeper_sends_away_when_the_server_goes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """When gunicorn's worker isn't alive any more, all who are here are sent away with 1012, and
    all who come later.
    """
    going = worker("gthread")
    monkeypatch.setattr("headway.server.streams.supervisor.gunicorn_worker", lambda: going)
    supervisor, early, late = StreamSupervisor(), Recorded(), Recorded()
    with supervisor.supervise(early):
        assert not early.ends
        going.alive = False
        until(lambda: early.ends == [GOING_DOWN])
        with supervisor.supervise(late):
            assert late.ends == [GOING_DOWN]


def test_keeper_checks_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stream is looked after again and again, and one that fails doesn't keep the others from
    it.
    """
    supervisor = StreamSupervisor(stream_check_interval=0.01, server_check_interval=0.01)
    bad, good = Recorded(), Recorded()
    bad.fails = True
    with supervisor.supervise(bad), supervisor.supervise(good):
        until(lambda: bad.checks > 2 and good.checks > 2)
