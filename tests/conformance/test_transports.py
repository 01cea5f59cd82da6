"""One suite for every transport: the same events lead to the same frames (contract, section 4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from headway.core.registry import Snapshot
from headway.server.streams.limits import Transport as ServerTransport
from tests.support.fake_worker import FakeExecution
from tests.support.inprocess_server import InprocessServer, inprocess_server
from tests.support.transports import TRANSPORTS, ShownState, TransportClient
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

Watch = Callable[..., TransportClient]

QUEUED, STARTED = ShownState("pending", "queued", None), ShownState("running", "running", None)


def at(current: float | None) -> ShownState:
    return ShownState("running", "running", current)


@pytest.fixture(scope="module")
def durable() -> Iterator[ValkeyServer]:
    with ValkeyServer(durable=True) as valkey:
        yield valkey.keep()


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., InprocessServer]]:
    """Makes an in-process server, over the fakes and over Redis."""
    with ExitStack() as stack:

        def make(**settings: Any) -> InprocessServer:
            valkey = request.getfixturevalue("durable").keep() if request.param == "redis" else None
            return stack.enter_context(inprocess_server(valkey, **settings))

        yield make


@pytest.fixture
def server(make: Callable[..., InprocessServer]) -> InprocessServer:
    return make()


@pytest.fixture(params=TRANSPORTS)
def watch(request: pytest.FixtureRequest) -> Iterator[Watch]:
    """Opens a stream on each transport in turn. Open streams are closed after the test."""
    viewers: list[TransportClient] = []

    def watch(server: InprocessServer, run: FakeExecution | str, **options: Any) -> TransportClient:
        viewer = TRANSPORTS[request.param](
            server.url, run if isinstance(run, str) else run.id, **options
        )
        viewers.append(viewer)
        return viewer

    yield watch
    for viewer in viewers:
        viewer.close()


def assert_received(viewer: TransportClient, states: list[ShownState], kinds: str) -> None:
    """Fail unless the viewer received exactly this."""
    assert viewer.received_only(states, kinds.split()), (
        viewer.kinds if viewer.sends_frames else "",
        viewer.shown,
    )


# From publication to end


def test_viewer_gets_every_change_until_the_end(server: InprocessServer, watch: Watch) -> None:
    """A viewer gets the current state, the start, each report, and the end of the stream."""
    run = server.worker.publish()
    viewer = watch(server, run)
    viewer.wait_for("pending", "queued")
    run.open()
    viewer.wait_for("running")
    for number in range(1, 4):
        run.report(number, 3, f"step {number}", {"bad": "0"})
        viewer.wait_for("running", "running", number)
    run.succeed({"rows": 3})
    assert viewer.wait_for_end() == "over"
    states = [QUEUED, STARTED, at(1), at(2), at(3), ShownState("completed", "succeeded", 3)]
    assert_received(viewer, states, "status started progress progress progress completed")
    if viewer.sends_frames:
        assert viewer.received[-1]["outputs"] == {"rows": 3}


def test_start_is_sent_before_an_end_in_the_same_read(
    server: InprocessServer, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a pending execution is read as ended, the start is sent too."""
    run = server.worker.publish()
    viewer = watch(server, run)
    viewer.wait_for("pending", "queued")
    gate, read = threading.Lock(), server.store.read

    def held(task_ids: Sequence[str]) -> list[Snapshot]:
        with gate:
            return read(task_ids)

    monkeypatch.setattr(server.store, "read", held)
    with gate:  # a read sees none of this, or all of it
        run.open()
        run.succeed()
    assert viewer.wait_for_end() == "over"
    assert_received(
        viewer,
        [
            QUEUED,
            *([STARTED] if viewer.sends_frames else []),
            ShownState("completed", "succeeded", None),
        ],
        "status started completed",
    )


def test_failure_keeps_the_progress_and_has_the_error(
    server: InprocessServer, watch: Watch
) -> None:
    """A failure keeps the last progress, and contains the error."""
    run = server.worker.begin().report(3, 10)
    viewer = watch(server, run)
    viewer.wait_for("running", "running", 3)
    run.fail("ValueError", "row 4 is invalid")
    assert viewer.wait_for_end() == "over"
    assert_received(viewer, [at(3), ShownState("failed", "failed", 3)], "status failed")
    if viewer.sends_frames:
        assert viewer.received[-1]["error"] == {
            "type": "ValueError",
            "message": "row 4 is invalid",
            "details": {"module": "builtins"},
        }


def test_cancel_request_is_shown_until_confirmed(server: InprocessServer, watch: Watch) -> None:
    """A cancel request is shown at once; its confirmation is the end, with the last progress."""
    run = server.worker.begin().report(3, 10)
    viewer = watch(server, run)
    viewer.wait_for("running", "running", 3)
    server.store.request_cancel(run.id, datetime.now(UTC))
    viewer.wait_for("running", "cancelling", 3)
    run.write(
        "REVOKED",
        {
            "exc_type": "TaskRevokedError",
            "exc_message": ["revoked"],
            "exc_module": "celery.exceptions",
        },
    )
    assert viewer.wait_for_end() == "over"
    states = [
        at(3),
        ShownState("running", "cancelling", 3),
        ShownState("cancelled", "cancelled", 3),
    ]
    assert_received(viewer, states, "status status cancelled")


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_terminal_execution_gives_state_and_end(
    server: InprocessServer, watch: Watch, end: str
) -> None:
    """A viewer of a terminal execution gets the state and the end."""
    run = server.worker.begin().report(3, 10)
    getattr(run, end)()
    viewer = watch(server, run)
    assert viewer.wait_for_end() == "over"
    status, phase = {"succeed": ("completed", "succeeded"), "fail": ("failed", "failed")}[end]
    assert_received(viewer, [ShownState(status, phase, 3)], f"status {status}")


def test_retry_restarts_the_progress(server: InprocessServer, watch: Watch) -> None:
    """A retry and the next attempt are shown, and progress restarts."""
    run = server.worker.begin().report(5, 10)
    viewer = watch(server, run)
    viewer.wait_for("running", "running", 5)
    run.write("RETRY", {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"})
    viewer.wait_for("running", "retrying", 5)
    run.open()
    viewer.wait_for("running", "running", None)
    run.report(1, 10)
    viewer.wait_for("running", "running", 1)
    run.succeed()
    assert viewer.wait_for_end() == "over"
    states = [
        at(5),
        ShownState("running", "retrying", 5),
        STARTED,
        at(1),
        ShownState("completed", "succeeded", 1),
    ]
    assert_received(viewer, states, "status status status progress completed")


def test_stopped_and_resumed_heartbeats_are_shown(server: InprocessServer, watch: Watch) -> None:
    """Heartbeats that stop or resume are shown, although no message reports them."""
    run = server.worker.begin().report(1, 10)
    viewer = watch(server, run)
    viewer.wait_for("running", "running", 1)
    server.store.heartbeat([run.id], "w1@test", 0.05)
    viewer.wait_for("running", "stalled", 1)
    server.store.heartbeat([run.id], "w1@test", 60)
    viewer.wait_for("running", "running", 1)
    run.report(2, 10)
    viewer.wait_for("running", "running", 2)
    states = [at(1), ShownState("running", "stalled", 1), at(1), at(2)]
    assert_received(viewer, states, "status status status progress")


def test_equal_reports_are_sent_once(server: InprocessServer, watch: Watch) -> None:
    """A report that equals the last one is not sent."""
    run = server.worker.begin()
    viewer = watch(server, run)
    viewer.wait_for("running")
    for number in (1, 1, 2, 2, 2, 3):
        run.report(number, 3, "same")
        viewer.wait_for("running", "running", number)
    run.succeed()
    assert viewer.wait_for_end() == "over"
    assert_received(
        viewer,
        [STARTED, at(1), at(2), at(3), ShownState("completed", "succeeded", 3)],
        "status progress progress progress completed",
    )


def test_viewers_that_connect_between_reports_miss_nothing(
    server: InprocessServer, watch: Watch
) -> None:
    """A viewer that connects between reports gets no step twice, none late, and the end."""
    runs = [server.worker.begin() for _ in range(5)]
    viewers = []
    for run in runs:
        for number in range(1, 6):
            run.report(number, 5)
            viewers.append(watch(server, run))
        run.succeed(number)
    for viewer in viewers:
        assert viewer.wait_for_end() == "over"
        currents = [state.current for state in viewer.shown if state.current is not None]
        assert currents == sorted(currents)
        assert currents[-1] == 5
        assert not viewer.sends_frames or (viewer.kinds[0], viewer.kinds[-1]) == (
            "status",
            "completed",
        )


# Refusals and outages


@pytest.mark.parametrize("execution_id", ["unknown", "a" * 300, "x%20y"])
def test_unknown_id_is_refused(server: InprocessServer, watch: Watch, execution_id: str) -> None:
    """An unpublished or invalid id is unknown, and its stream ends."""
    viewer = watch(server, execution_id)
    assert viewer.wait_for_end() == "unknown"
    assert not viewer.received
    until(lambda: not server.webs[0].viewers)


def test_expired_execution_is_refused(server: InprocessServer, watch: Watch) -> None:
    """An execution whose result is gone is expired, and not unknown."""
    run = server.worker.begin().succeed()
    server.expire(run.id)
    viewer = watch(server, run)
    assert viewer.wait_for_end() == "expired"
    assert not viewer.received


def test_outage_is_reported_once_and_recovers(server: InprocessServer, watch: Watch) -> None:
    """An outage is reported once; viewers stay, new ones wait, and both get the changes."""
    run = server.worker.begin().report(1, 10)
    early = watch(server, run)
    early.wait_for("running", "running", 1)
    server.disconnect()
    early.wait_for_outage()
    late = watch(server, run)
    late.wait_for_outage()
    server.reconnect(lambda: run.report(7, 10))
    for viewer in (early, late):
        viewer.wait_for("running", "running", 7)
    run.succeed()
    for viewer, kinds in ((early, ["status", "error", "status"]), (late, ["error", "status"])):
        assert viewer.wait_for_end() == "over"
        if viewer.sends_frames:
            # The feed may have reconnected before the report.
            assert viewer.kinds in ([*kinds, "completed"], [*kinds, "progress", "completed"])
        assert viewer.outages <= 1
        assert [state.current for state in viewer.shown][-1] == 7


def test_end_during_outage_is_delivered(server: InprocessServer, watch: Watch) -> None:
    """An end during an outage is delivered when the backend is back."""
    run = server.worker.begin().report(1, 10)
    viewer = watch(server, run)
    viewer.wait_for("running", "running", 1)
    server.disconnect()
    viewer.wait_for_outage()
    server.reconnect(lambda: run.report(2, 10).succeed())
    assert viewer.wait_for_end() == "over"
    if viewer.sends_frames:
        assert viewer.kinds[:3] == ["status", "error", "status"]
        assert viewer.kinds.count("completed") == 1
    assert viewer.shown[-1].current == 2


def test_viewer_beyond_the_limit_is_refused(
    make: Callable[..., InprocessServer], watch: Watch
) -> None:
    """Beyond the limit a viewer is refused; a free slot can be taken."""
    server = make(max_viewers=1)
    run = server.worker.begin().report(1, 10)
    with ExitStack() as slot:
        slot.enter_context(server.webs[0].headway.hub.limiter.slot(ServerTransport.POLL))
        assert watch(server, run).wait_for_end() == "full"
    watch(server, run).wait_for("running", "running", 1)


def test_authorize_decides_per_execution(
    make: Callable[..., InprocessServer], watch: Watch
) -> None:
    """``authorize`` is called with the execution; it refuses one and allows another."""
    forbidden: set[Any] = set()
    server = make(authorize=lambda _who, _action, execution_id: execution_id not in forbidden)
    run, hidden = server.worker.begin().report(1, 10), server.worker.begin().report(1, 10)
    forbidden.add(hidden.id)
    assert watch(server, hidden).wait_for_end() == "forbidden"
    watch(server, run).wait_for("running", "running", 1)


def test_viewer_needs_a_token(make: Callable[..., InprocessServer], watch: Watch) -> None:
    """With tokens configured, a viewer needs one."""
    server = make(tokens="sesame")
    run = server.worker.begin().report(1, 10)
    assert watch(server, run).wait_for_end() == "unauthenticated"
    assert (
        watch(server, run, headers={"Authorization": "Bearer wrong"}).wait_for_end()
        == "unauthenticated"
    )
    watch(server, run, headers={"Authorization": "Bearer sesame"}).wait_for("running", "running", 1)


def test_shutdown_asks_viewers_to_reconnect(server: InprocessServer, watch: Watch) -> None:
    """A server that shuts down ends its streams for a reconnect, without another frame."""
    run = server.worker.begin().report(1, 10)
    viewer = watch(server, run)
    viewer.wait_for("running", "running", 1)
    server.webs[0].headway.hub.supervisor.close_all()
    assert viewer.wait_for_end() == "back"
    assert_received(viewer, [at(1)], "status")
