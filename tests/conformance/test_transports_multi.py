"""Messages on the socket for many executions. No error of one execution closes the socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import websocket

from headway.server.streams import websocket_multi
from headway.server.streams.connection import ViewerConnection
from tests.support.fake_worker import FakeExecution
from tests.support.inprocess_server import InprocessServer, inprocess_server
from tests.support.transports import RESPONSE_TIMEOUT
from tests.support.wait import until


class MultiClient:
    """A client of the socket for many executions."""

    def __init__(self, server: InprocessServer) -> None:
        self.socket = websocket.create_connection(
            server.url.replace("http", "ws") + "/api/v1/progress/ws", timeout=RESPONSE_TIMEOUT
        )

    def send(self, **commands: list[str]) -> None:
        self.socket.send(json.dumps(commands))

    def next(self) -> dict[str, Any]:
        return dict(json.loads(self.socket.recv()))

    def received(self, count: int) -> list[tuple[str, str]]:
        """The next frames: type or error code, and execution id."""
        frames = [self.next() for _ in range(count)]
        return [(frame.get("code", frame["type"]), frame["execution_id"]) for frame in frames]

    def assert_no_frame(self) -> None:
        """Fail if an unread frame is there: the reply to an invalid message comes after it."""
        self.socket.send("{}")
        frame = self.next()
        assert frame.get("code") == "invalid", frame


@pytest.fixture
def server() -> Iterator[InprocessServer]:
    with inprocess_server() as server:
        yield server


@pytest.fixture
def client(server: InprocessServer) -> Iterator[MultiClient]:
    client = MultiClient(server)
    yield client
    client.socket.close()


@pytest.fixture
def run(server: InprocessServer) -> FakeExecution:
    return server.worker.begin()


def test_terminal_execution_ends_its_subscription(
    server: InprocessServer, client: MultiClient, run: FakeExecution
) -> None:
    """Each subscription gives ``status`` and the end, and does not count as watched."""
    run.succeed("done")
    for _ in range(2):
        client.send(subscribe=[run.id])
        assert client.received(2) == [("status", run.id), ("completed", run.id)]
    until(lambda: not server.webs[0].headway.hub.watched)


@pytest.mark.parametrize("known", [True, False])
def test_immediate_resubscription_is_answered(
    server: InprocessServer,
    client: MultiClient,
    run: FakeExecution,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
) -> None:
    """Subscribing again at once to an ended or unknown execution gives its frames again."""
    message_to_send = {"subscribe": [run.succeed().id if known else "unknown"]}
    enqueue, last = ViewerConnection.enqueue, "completed" if known else "error"
    resubscribed: list[bool] = []

    def enqueue_and_subscribe(connection: ViewerConnection, item: Any, **options: Any) -> None:
        enqueue(connection, item, **options)
        if getattr(item, "kind", "") == last and not resubscribed:
            resubscribed.append(True)
            [viewer] = server.webs[0].headway.hub.supervisor._streams
            assert isinstance(viewer, websocket_multi.MultiViewer)
            viewer.on_message(json.dumps(message_to_send))

    # `permit` needs the request's own thread.
    monkeypatch.setattr(server.webs[0].headway.policy, "permit", lambda *_: None)
    monkeypatch.setattr(ViewerConnection, "enqueue", enqueue_and_subscribe)
    client.send(**message_to_send)
    frames = [("status", run.id), ("completed", run.id)] if known else [("not_found", "unknown")]
    assert client.received(2 * len(frames)) == frames * 2


def test_refused_ids_do_not_affect_the_others(
    server: InprocessServer, client: MultiClient, run: FakeExecution
) -> None:
    """Unknown, expired and invalid ids get an error each; the other ids of the message stream."""
    expired = server.worker.begin().succeed()
    server.expire(expired.id)
    bad = ["unknown", "", "a/b", "a\nb", "\ufffd", "x" * 1000]
    client.send(subscribe=[*bad, expired.id, run.id])
    expected = {
        *((("not_found", each)) for each in bad),
        ("expired", expired.id),
        ("status", run.id),
    }
    assert set(client.received(len(bad) + 2)) == expected
    run.report(1, 2)
    assert client.received(1) == [("progress", run.id)]


def test_repeated_id_is_watched_once(client: MultiClient, run: FakeExecution) -> None:
    """An id that is sent twice, in one message or in two, is watched once."""
    client.send(subscribe=[run.id, run.id])
    client.send(subscribe=[run.id])
    assert client.received(1) == [("status", run.id)]
    client.assert_no_frame()
    run.report(1, 2)
    assert client.received(1) == [("progress", run.id)]
    client.assert_no_frame()


def test_unsubscribed_execution_is_silent(
    server: InprocessServer, client: MultiClient, run: FakeExecution
) -> None:
    """An unsubscribed execution sends nothing more; a new subscription starts with ``status``."""
    client.send(subscribe=[run.id])
    assert client.received(1) == [("status", run.id)]
    client.send(unsubscribe=[run.id, run.id, "unknown"])
    client.assert_no_frame()
    assert not server.webs[0].headway.hub.watched
    run.report(1, 2)
    client.send(unsubscribe=[run.id], subscribe=[run.id])
    assert client.received(1) == [("status", run.id)]
    client.assert_no_frame()


def test_outage_is_reported_per_execution(
    server: InprocessServer, client: MultiClient, run: FakeExecution
) -> None:
    """In an outage each id gets one error, and ``status`` or its refusal afterwards."""
    server.disconnect()
    client.send(subscribe=[run.id, "unknown"])
    assert set(client.received(2)) == {("unavailable", run.id), ("unavailable", "unknown")}
    server.reconnect(lambda: None)
    assert set(client.received(2)) == {("status", run.id), ("not_found", "unknown")}
    client.assert_no_frame()


def test_ids_beyond_the_limit_are_refused_in_one_frame(
    server: InprocessServer, client: MultiClient, run: FakeExecution
) -> None:
    """One frame names the ids beyond the limit, and an unsubscription frees a place."""
    ids = [server.worker.publish().id for _ in range(10_000)]
    assert len(json.dumps({"subscribe": ids})) < websocket_multi.MultiViewer.max_message
    client.send(subscribe=ids)
    frames = [client.next() for _ in range(websocket_multi.MAX_WATCHED + 1)]
    [refusal] = [frame for frame in frames if frame["type"] == "error"]
    assert (refusal["code"], refusal["execution_id"]) == ("too_many", None)
    assert refusal["execution_ids"] == ids[websocket_multi.MAX_WATCHED :]
    assert {frame["execution_id"] for frame in frames if frame["type"] == "status"} == set(
        ids[: websocket_multi.MAX_WATCHED]
    )
    client.send(subscribe=[run.id])
    assert client.next()["execution_ids"] == [run.id]
    client.send(unsubscribe=ids[:1], subscribe=[run.id])
    assert client.received(1) == [("status", run.id)]
    client.assert_no_frame()


def test_ten_thousand_unknown_ids_keep_the_socket_open(
    server: InprocessServer, client: MultiClient, run: FakeExecution
) -> None:
    """Their refusals do not overflow the connection: the socket stays open."""
    ids = [f"unknown-{number}" for number in range(10_000)]
    client.send(subscribe=ids)
    frames = [client.next() for _ in range(websocket_multi.MAX_WATCHED + 1)]
    assert sorted(frame["code"] for frame in frames) == [
        "not_found"
    ] * websocket_multi.MAX_WATCHED + ["too_many"]
    until(lambda: not server.webs[0].headway.hub.watched)
    client.send(subscribe=[run.id])
    assert client.received(1) == [("status", run.id)]


@pytest.mark.parametrize(
    "message",
    [
        "hello",
        "[]",
        "{}",
        "3",
        '{"subscribe": "x"}',
        '{"subscribe": [1]}',
        '{"watch": []}',
        "[" * 5000,
        b"\xff\x00",
    ],
)
def test_invalid_message_is_answered_with_help(
    client: MultiClient, run: FakeExecution, message: str | bytes
) -> None:
    """An invalid message is answered with the valid format, and the socket stays open."""
    client.socket.send(
        message,
        websocket.ABNF.OPCODE_BINARY if isinstance(message, bytes) else websocket.ABNF.OPCODE_TEXT,
    )
    frame = client.next()
    assert (frame["type"], frame["code"]) == ("error", "invalid")
    assert "subscribe" in frame["message"]
    client.send(subscribe=[run.id])
    assert client.received(1) == [("status", run.id)]
