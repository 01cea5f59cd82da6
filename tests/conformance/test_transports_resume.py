"""Event streams that are cut off and reconnect with ``Last-Event-ID``, to any web process."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
import requests

from headway.core.registry import Snapshot
from headway.server.streams import sse
from tests.support.inprocess_server import InprocessServer, inprocess_server
from tests.support.transports import (
    RESPONSE_TIMEOUT,
    Events,
    ShownState,
    TensorlakeEvents,
    TransportClient,
)
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


@pytest.fixture(scope="module")
def durable() -> Iterator[ValkeyServer]:
    with ValkeyServer(durable=True) as valkey:
        yield valkey.keep()


@pytest.fixture(params=["memory", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[InprocessServer]:
    """Two web processes over one store."""
    valkey = request.getfixturevalue("durable").keep() if request.param == "redis" else None
    with inprocess_server(valkey, webs=2) as server:
        yield server


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def begin(
    server: InprocessServer, stack: ExitStack, execution_id: str, transport: type[Events] = Events
) -> Events:
    viewer = transport(server.url, execution_id)
    stack.callback(viewer.close)
    return viewer


#: The steps of an execution, and the state that a viewer knows after each.
STEPS: list[tuple[Callable[..., object], ShownState]] = [
    (lambda run: run.open(), ShownState("running", "running", None)),
    (lambda run: run.report(1, 4), ShownState("running", "running", 1)),
    (lambda run: run.report(2, 4, "two", {"a": "b"}), ShownState("running", "running", 2)),
    (
        lambda run: run.write("RETRY", {"exc_type": "E", "exc_message": [], "exc_module": "m"}),
        ShownState("running", "retrying", 2),
    ),
    (lambda run: run.open(), ShownState("running", "running", None)),
    (lambda run: run.report(3, 4), ShownState("running", "running", 3)),
    (lambda run: run.fail(), ShownState("failed", "failed", 3)),
]
KINDS = ["status", "started", "progress", "progress", "status", "status", "progress", "failed"]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_reconnecting_client_gets_the_uncut_stream(
    server: InprocessServer, stack: ExitStack, every: int
) -> None:
    """Cut off after every first, second or third event, a client gets the same frames once."""
    webs = itertools.cycle(web.url for web in server.webs)
    run = server.worker.publish()
    viewer = begin(server, stack, run.id)
    viewer.wait_for("pending", "queued")
    for number, (act, state) in enumerate(STEPS):
        if number % every == 0:
            viewer.reconnect(next(webs))
        act(run)
        viewer.wait_for(*state)
    assert viewer.kinds == KINDS
    assert viewer.wait_for_end() == "over"


def test_changes_while_disconnected_are_merged(server: InprocessServer, stack: ExitStack) -> None:
    """Changes while a client is disconnected are sent after its reconnect, merged, once."""
    run = server.worker.publish()
    viewer = begin(server, stack, run.id)
    viewer.wait_for("pending", "queued")
    missed = [slice(0, 1), slice(1, 3), slice(3, 6), slice(6, 7)]
    for part in missed:
        viewer.close()
        for act, _ in STEPS[part]:
            act(run)
        viewer.reconnect(server.webs[1].url)
        viewer.wait_for(*STEPS[part][-1][1])
    # The second attempt started while it was disconnected: it is in a `status`.
    assert viewer.kinds == ["status", "started", "progress", "status", "failed"]
    assert viewer.wait_for_end() == "over"


def test_tensorlake_stream_resumes(server: InprocessServer, stack: ExitStack) -> None:
    """Tensorlake's stream has ids too: no report comes twice, and after the last one a 204."""
    run = server.worker.begin().report(1, 4)
    viewer = begin(server, stack, run.id, TensorlakeEvents)
    viewer.wait_for("", current=1)
    viewer.reconnect(server.webs[1].url)
    run.report(2, 4)
    viewer.wait_for("", current=2)
    viewer.reconnect(server.webs[0].url)
    run.succeed()
    assert viewer.wait_for_end() == "over"
    assert [state.current for state in viewer.shown] == [1, 2]


@pytest.mark.parametrize("last_id", ["", "some garbage", "1-completed"])
def test_unknown_event_id_gives_everything(
    server: InprocessServer, stack: ExitStack, last_id: str
) -> None:
    """With an id that Headway did not write, a client gets everything, like a new one."""
    run = server.worker.begin().report(1, 4)
    viewer = begin(server, stack, run.id)
    viewer.last_id = last_id
    viewer.reconnect(server.url)
    viewer.wait_for("running", "running", 1)
    run.succeed()
    assert viewer.wait_for_end() == "over"
    assert viewer.kinds == ["status", "completed"]


def test_reconnect_during_outage_gets_error_then_status(
    server: InprocessServer, stack: ExitStack
) -> None:
    """A reconnect in an outage is not refused: browsers would not retry after a refusal."""
    run = server.worker.begin().report(1, 4)
    viewer = begin(server, stack, run.id)
    viewer.wait_for("running", "running", 1)
    server.disconnect()
    viewer.wait_for_outage()
    viewer.reconnect(server.webs[1].url)
    viewer.wait_for_outage()
    server.reconnect(lambda: None)
    while viewer.kinds[-1] != "status":
        assert viewer.next()
    assert viewer.kinds == ["status", "error", "error", "status"]


def test_unknown_id_after_outage_ends_the_stream(server: InprocessServer, stack: ExitStack) -> None:
    """An id that is unknown after the outage ends the stream; the reconnect gets a 404."""
    server.disconnect()
    viewer = begin(server, stack, "unknown")
    viewer.wait_for_outage()
    server.reconnect(lambda: None)
    assert viewer.wait_for_end() == "unknown"


def test_streams_have_different_retry_times(server: InprocessServer, stack: ExitStack) -> None:
    """Each stream draws its own retry time, so that clients do not reconnect all at once."""
    run = server.worker.begin()
    viewers: list[TransportClient] = [begin(server, stack, run.id) for _ in range(20)]
    for viewer in viewers:
        viewer.wait_for("running")
    retries = [viewer.retry for viewer in viewers if isinstance(viewer, Events)]
    assert all(retry is not None and sse.RETRY[0] <= retry <= sse.RETRY[1] for retry in retries)
    assert len(set(retries)) > 10


def test_stream_without_anything_to_send_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the response started before the first read and nothing is left to send, it ends."""
    with inprocess_server() as server, ExitStack() as stack:
        run = server.worker.begin().succeed()
        viewer = begin(server, stack, run.id)
        while viewer.next() and viewer.kinds[-1] != "completed":
            pass
        gate, read = threading.Lock(), server.store.read

        def held(task_ids: Sequence[str]) -> list[Snapshot]:
            with gate:
                return read(task_ids)

        monkeypatch.setattr(server.store, "read", held)
        server.webs[0].headway.hub.first_read = 0.0
        with gate:
            viewer.reconnect(server.url)
        assert viewer._response.status_code == 200
        lines = viewer._response.iter_lines(chunk_size=1)
        until(lambda: next(lines, None) is None, what="the stream to end")


def test_quiet_stream_has_heartbeats() -> None:
    """A quiet stream sends comments: only a write finds a client that left
    (web-facts#sse-notices-on-write).
    """
    with inprocess_server(ping_interval=0.05) as server:
        # A busy server must not look like a client that reads nothing.
        server.webs[0].headway.hub.supervisor.stream_check_interval = RESPONSE_TIMEOUT
        run = server.worker.begin()
        url = f"{server.url}/api/v1/executions/{run.id}/progress/events"
        with requests.get(url, stream=True, timeout=RESPONSE_TIMEOUT) as response:
            lines = response.iter_lines(chunk_size=1)
            until(lambda: next(lines) == b":")
        until(lambda: not server.webs[0].viewers)
