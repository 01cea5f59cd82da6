"""What can be said on the socket of many, and what comes of it: nothing of it closes the socket on
the others.
"""

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
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.wait import until


class Talker:
    """A viewer of many."""

    def __init__(self, home: InprocessServer) -> None:
        self.socket = websocket.create_connection(
            home.url.replace("http", "ws") + "/api/v1/progress/ws", timeout=RESPONSE_TIMEOUT
        )

    def say(self, **orders: list[str]) -> None:
        self.socket.send(json.dumps(orders))

    def next(self) -> dict[str, Any]:
        return dict(json.loads(self.socket.recv()))

    def told(self, count: int) -> list[tuple[str, str]]:
        """The next frames: type or code, and whose."""
        frames = [self.next() for _ in range(count)]
        return [(frame.get("code", frame["type"]), frame["execution_id"]) for frame in frames]

    def is_quiet(self) -> None:
        """Fail if anything came that nobody has read: an order is answered behind it."""
        self.socket.send("{}")
        frame = self.next()
        assert frame.get("code") == "invalid", frame


@pytest.fixture
def home() -> Iterator[InprocessServer]:
    with inprocess_server() as home:
        yield home


@pytest.fixture
def talker(home: InprocessServer) -> Iterator[Talker]:
    talker = Talker(home)
    yield talker
    talker.socket.close()


@pytest.fixture
def run(home: InprocessServer) -> FakeExecution:
    return home.worker.begin()


def test_an_execution_that_has_ended(
    home: InprocessServer, talker: Talker, run: FakeExecution
) -> None:
    """It gives ``status`` and its end as often as it is asked for, and takes no place."""
    run.succeed("done")
    for _ in range(2):
        talker.say(subscribe=[run.id])
        assert talker.told(2) == [("status", run.id), ("completed", run.id)]
    until(lambda: not home.webs[0].headway.hub.watched)


@pytest.mark.parametrize("known", [True, False])
def test_who_asks_again_at_once(
    home: InprocessServer,
    talker: Talker,
    run: FakeExecution,
    monkeypatch: pytest.MonkeyPatch,
    known: bool,
) -> None:
    """However soon it is asked for again, an execution that has ended, or that nobody knows, is
    answered again.
    """
    order = {"subscribe": [run.succeed().id if known else "nobody"]}
    enqueue, last = ViewerConnection.enqueue, "completed" if known else "error"
    asked: list[bool] = []

    def put_and_ask(line: ViewerConnection, item: Any) -> Any:
        answer = enqueue(line, item)
        if getattr(item, "kind", "") == last and not asked:
            asked.append(True)
            [viewer] = home.webs[0].headway.hub.supervisor._streams
            assert isinstance(viewer, websocket_multi.MultiViewer)
            viewer.on_message(json.dumps(order))
        return answer

    monkeypatch.setattr(
        home.webs[0].headway.policy, "permit", lambda *_: None
    )  # it would want the request's own thread
    monkeypatch.setattr(ViewerConnection, "enqueue", put_and_ask)
    talker.say(**order)
    once = [("status", run.id), ("completed", run.id)] if known else [("not_found", "nobody")]
    assert talker.told(2 * len(once)) == once * 2


def test_what_cannot_be_watched(home: InprocessServer, talker: Talker, run: FakeExecution) -> None:
    """An id that nobody knows, that has expired, or that can be none is told as that; the others of
    the message go on.
    """
    gone = home.worker.begin().succeed()
    home.expire(gone.id)
    bad = ["nobody", "", "a/b", "a\nb", "\ufffd", "x" * 1000]
    talker.say(subscribe=[*bad, gone.id, run.id])
    wanted = {*((("not_found", each)) for each in bad), ("expired", gone.id), ("status", run.id)}
    assert set(talker.told(len(bad) + 2)) == wanted
    run.report(1, 2)
    assert talker.told(1) == [("progress", run.id)]


def test_ids_twice(talker: Talker, run: FakeExecution) -> None:
    """An id that is there twice, in one message or in two, is watched once."""
    talker.say(subscribe=[run.id, run.id])
    talker.say(subscribe=[run.id])
    assert talker.told(1) == [("status", run.id)]
    talker.is_quiet()
    run.report(1, 2)
    assert talker.told(1) == [("progress", run.id)]
    talker.is_quiet()


def test_unsubscribe(home: InprocessServer, talker: Talker, run: FakeExecution) -> None:
    """What is unsubscribed says nothing more, upstream too; what never was is fine; what comes
    again begins with ``status``.
    """
    talker.say(subscribe=[run.id])
    assert talker.told(1) == [("status", run.id)]
    talker.say(unsubscribe=[run.id, run.id, "nobody"])
    talker.is_quiet()
    assert not home.webs[0].headway.hub.watched
    run.report(1, 2)
    talker.say(unsubscribe=[run.id], subscribe=[run.id])
    assert talker.told(1) == [("status", run.id)]
    talker.is_quiet()


def test_during_an_outage(home: InprocessServer, talker: Talker, run: FakeExecution) -> None:
    """With the backend away each id is told so once, and all get ``status`` when it is back; only
    then one is found unknown.
    """
    home.disconnect()
    talker.say(subscribe=[run.id, "nobody"])
    assert set(talker.told(2)) == {("unavailable", run.id), ("unavailable", "nobody")}
    home.reconnect(lambda: None)
    assert set(talker.told(2)) == {("status", run.id), ("not_found", "nobody")}
    talker.is_quiet()


def test_ten_thousand_ids(home: InprocessServer, talker: Talker, run: FakeExecution) -> None:
    """As many as there is room for are watched; of the others one frame says that they aren't. What
    goes makes room.
    """
    ids = [home.worker.publish().id for _ in range(10_000)]
    assert len(json.dumps({"subscribe": ids})) < websocket_multi.MultiViewer.max_message
    talker.say(subscribe=ids)
    frames = [talker.next() for _ in range(websocket_multi.MAX_WATCHED + 1)]
    [refusal] = [frame for frame in frames if frame["type"] == "error"]
    assert (refusal["code"], refusal["execution_id"]) == ("too_many", None)
    assert refusal["execution_ids"] == ids[websocket_multi.MAX_WATCHED :]
    assert {frame["execution_id"] for frame in frames if frame["type"] == "status"} == set(
        ids[: websocket_multi.MAX_WATCHED]
    )
    talker.say(subscribe=[run.id])
    assert talker.next()["execution_ids"] == [run.id]
    talker.say(unsubscribe=ids[:1], subscribe=[run.id])
    assert talker.told(1) == [("status", run.id)]
    talker.is_quiet()


def test_ten_thousand_ids_that_nobody_knows(
    home: InprocessServer, talker: Talker, run: FakeExecution
) -> None:
    """They can't fill a socket with refusals that nobody can read as fast: it goes on."""
    ids = [f"nobody-{number}" for number in range(10_000)]
    talker.say(subscribe=ids)
    frames = [talker.next() for _ in range(websocket_multi.MAX_WATCHED + 1)]
    assert sorted(frame["code"] for frame in frames) == [
        "not_found"
    ] * websocket_multi.MAX_WATCHED + ["too_many"]
    until(lambda: not home.webs[0].headway.hub.watched)
    talker.say(subscribe=[run.id])
    assert talker.told(1) == [("status", run.id)]


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
def test_what_makes_no_sense(talker: Talker, run: FakeExecution, message: str | bytes) -> None:
    """A message that is no order is answered with what would be right, and the socket stays."""
    talker.socket.send(
        message,
        websocket.ABNF.OPCODE_BINARY if isinstance(message, bytes) else websocket.ABNF.OPCODE_TEXT,
    )
    frame = talker.next()
    assert (frame["type"], frame["code"]) == ("error", "invalid")
    assert "subscribe" in frame["message"]
    talker.say(subscribe=[run.id])
    assert talker.told(1) == [("status", run.id)]
