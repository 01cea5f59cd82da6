"""Server-sent events that are cut off and come back with ``Last-Event-ID``, to whichever web
process.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
import requests

from headway.core.registry import Snapshot
from headway.server.streams import sse, supervisor
from tests.support.inprocess_server import InprocessServer, inprocess_server
from tests.support.transports import PATIENCE, Belief, Events, TensorlakeEvents, Transport
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


@pytest.fixture(scope="module")
def durable() -> Iterator[ValkeyServer]:
    with ValkeyServer(durable=True) as server:
        yield server.keep()


@pytest.fixture(params=["memory", "redis"])
def home(request: pytest.FixtureRequest) -> Iterator[InprocessServer]:
    """Two web processes over one store."""
    server = request.getfixturevalue("durable").keep() if request.param == "redis" else None
    with inprocess_server(server, webs=2) as home:
        yield home


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def begin(
    home: InprocessServer, stack: ExitStack, execution_id: str, skin: type[Events] = Events
) -> Events:
    viewer = skin(home.url, execution_id)
    stack.callback(viewer.close)
    return viewer


#: What happens to an execution, one after the other, and what a viewer takes for true after each.
HEARTBEAT_SUFFIX: list[tuple[Callable[..., object], Belief]] = [
    (lambda run: run.open(), Belief("running", "running", None)),
    (lambda run: run.report(1, 4), Belief("running", "running", 1)),
    (lambda run: run.report(2, 4, "two", {"a": "b"}), Belief("running", "running", 2)),
    (
        lambda run: run.write("RETRY", {"exc_type": "E", "exc_message": [], "exc_module": "m"}),
        Belief("running", "retrying", 2),
    ),
    (lambda run: run.open(), Belief("running", "running", None)),
    (lambda run: run.report(3, 4), Belief("running", "running", 3)),
    (lambda run: run.fail(), Belief("failed", "failed", 3)),
]
KINDS = ["status", "started", "progress", "progress", "status", "status", "progress", "failed"]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_stream_that_is_cut_again_and_again(
    home: InprocessServer, stack: ExitStack, every: int
) -> None:
    """Cut off after each event, or each second or third one, a client gets what an uncut stream
    gives, and nothing twice.
    """
    webs = itertools.cycle(web.url for web in home.webs)
    run = home.runs.publish()
    viewer = begin(home, stack, run.id)
    viewer.sees("pending", "queued")
    for number, (act, belief) in enumerate(HEARTBEAT_SUFFIX):
        if number % every == 0:
            viewer.come_back(next(webs))
        act(run)
        viewer.sees(*belief)
    assert viewer.kinds == KINDS
    assert viewer.ends() == "over"


def test_what_came_while_it_was_away(home: InprocessServer, stack: ExitStack) -> None:
    """A change of state that a client was not there for is told when it is back, merged to the
    newest, and once.
    """
    run = home.runs.publish()
    viewer = begin(home, stack, run.id)
    viewer.sees("pending", "queued")
    away = [slice(0, 1), slice(1, 3), slice(3, 6), slice(6, 7)]
    for part in away:
        viewer.close()
        for act, _ in HEARTBEAT_SUFFIX[part]:
            act(run)
        viewer.come_back(home.webs[1].url)
        viewer.sees(*HEARTBEAT_SUFFIX[part][-1][1])
    # Of the second attempt, which began while it was away, a `status` tells.
    assert viewer.kinds == ["status", "started", "progress", "status", "failed"]
    assert viewer.ends() == "over"


def test_tensorlakes_stream_is_cut(home: InprocessServer, stack: ExitStack) -> None:
    """Tensorlake's stream has ids too: no report is told twice, and who has seen the last one is
    told to stay away.
    """
    run = home.runs.begin().report(1, 4)
    viewer = begin(home, stack, run.id, TensorlakeEvents)
    viewer.sees("", current=1)
    viewer.come_back(home.webs[1].url)
    run.report(2, 4)
    viewer.sees("", current=2)
    viewer.come_back(home.webs[0].url)
    run.succeed()
    assert viewer.ends() == "over"
    assert [belief.current for belief in viewer.beliefs] == [1, 2]


@pytest.mark.parametrize("last_id", ["", "some garbage", "1-completed"])
def test_who_cannot_say_what_it_knows(
    home: InprocessServer, stack: ExitStack, last_id: str
) -> None:
    """With an id that nobody here wrote, a client is told everything, as a newcomer is."""
    run = home.runs.begin().report(1, 4)
    viewer = begin(home, stack, run.id)
    viewer.last_id = last_id
    viewer.come_back(home.url)
    viewer.sees("running", "running", 1)
    run.succeed()
    assert viewer.ends() == "over"
    assert viewer.kinds == ["status", "completed"]


def test_who_comes_back_into_an_outage(home: InprocessServer, stack: ExitStack) -> None:
    """It isn't refused (a browser would never come back), but told; and then what is true, though
    it may have known.
    """
    run = home.runs.begin().report(1, 4)
    viewer = begin(home, stack, run.id)
    viewer.sees("running", "running", 1)
    home.cut()
    viewer.is_told_of_an_outage()
    viewer.come_back(home.webs[1].url)
    viewer.is_told_of_an_outage()
    home.mend(lambda: None)
    while viewer.kinds[-1] != "status":
        assert viewer.next()
    assert viewer.kinds == ["status", "error", "error", "status"]


def test_who_waits_through_an_outage_for_nothing(home: InprocessServer, stack: ExitStack) -> None:
    """An id that turns out to be unknown when the backend is back ends the stream; who comes back
    is told why, by a 404.
    """
    home.cut()
    viewer = begin(home, stack, "nobody")
    viewer.is_told_of_an_outage()
    home.mend(lambda: None)
    assert viewer.ends() == "unknown"


def test_all_come_back_at_another_time(home: InprocessServer, stack: ExitStack) -> None:
    """Each stream draws its own pause for the coming back, so that not all come at once; a quiet
    one has a heartbeat.
    """
    run = home.runs.begin()
    viewers: list[Transport] = [begin(home, stack, run.id) for _ in range(20)]
    for viewer in viewers:
        viewer.sees("running")
    pauses = [viewer.retry for viewer in viewers if isinstance(viewer, Events)]
    assert all(pause is not None and sse.RETRY[0] <= pause <= sse.RETRY[1] for pause in pauses)
    assert len(set(pauses)) > 10


def test_who_has_seen_the_end_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the answer began before the first word, and there is none to tell, the stream ends:
    nobody is held for nothing.
    """
    with inprocess_server() as home, ExitStack() as stack:
        run = home.runs.begin().succeed()
        viewer = begin(home, stack, run.id)
        while viewer.next() and viewer.kinds[-1] != "completed":
            pass
        gate, read = threading.Lock(), home.store.read

        def held(task_ids: Sequence[str]) -> list[Snapshot]:
            with gate:
                return read(task_ids)

        monkeypatch.setattr(home.store, "read", held)
        home.webs[0].headway.hub.first_read = 0.0
        with gate:
            viewer.come_back(home.url)
        assert viewer._answer.status_code == 200
        lines = viewer._answer.iter_lines(chunk_size=1)
        until(lambda: next(lines, None) is None, what="the stream to end")


def test_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet stream says a comment now and then: only a write shows that a client has gone (web
    fact 14).
    """
    monkeypatch.setattr(
        supervisor, "STREAM_CHECK_INTERVAL", PATIENCE
    )  # it would take a held up server for a client that reads nothing
    with inprocess_server(ping_interval=0.05) as home:
        run = home.runs.begin()
        url = f"{home.url}/api/v1/executions/{run.id}/progress/events"
        with requests.get(url, stream=True, timeout=PATIENCE) as answer:
            lines = answer.iter_lines(chunk_size=1)
            until(lambda: next(lines) == b":")
        until(lambda: not home.webs[0].viewers)
