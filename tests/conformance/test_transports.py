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
from tests.support.transports import TRANSPORTS, Belief, Transport
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

Watch = Callable[..., Transport]

QUEUED, STARTED = Belief("pending", "queued", None), Belief("running", "running", None)


def at(current: float | None) -> Belief:
    return Belief("running", "running", current)


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
    viewers: list[Transport] = []

    def watch(server: InprocessServer, run: FakeExecution | str, **options: Any) -> Transport:
        viewer = TRANSPORTS[request.param](
            server.url, run if isinstance(run, str) else run.id, **options
        )
        viewers.append(viewer)
        return viewer

    yield watch
    for viewer in viewers:
        viewer.close()


def assert_received(viewer: Transport, beliefs: list[Belief], kinds: str) -> None:
    """Fail unless the viewer received exactly this."""
    assert viewer.was_told(beliefs, kinds.split()), (
        viewer.kinds if viewer.frames else "",
        viewer.beliefs,
    )


# From publication to end


def test_viewer_gets_every_change_until_the_end(server: InprocessServer, watch: Watch) -> None:
    """A viewer gets the current state, the start, each report, and the end of the stream."""
    run = server.runs.publish()
    viewer = watch(server, run)
    viewer.sees("pending", "queued")
    run.open()
    viewer.sees("running")
    for number in range(1, 4):
        run.report(number, 3, f"step {number}", {"bad": "0"})
        viewer.sees("running", "running", number)
    run.succeed({"rows": 3})
    assert viewer.ends() == "over"
    beliefs = [QUEUED, STARTED, at(1), at(2), at(3), Belief("completed", "succeeded", 3)]
    assert_received(viewer, beliefs, "status started progress progress progress completed")
    if viewer.frames:
        assert viewer.told[-1]["outputs"] == {"rows": 3}


def test_start_is_sent_before_an_end_in_the_same_read(
    server: InprocessServer, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a pending execution is read as ended, the start is sent too."""
    run = server.runs.publish()
    viewer = watch(server, run)
    viewer.sees("pending", "queued")
    gate, read = threading.Lock(), server.store.read

    def held(task_ids: Sequence[str]) -> list[Snapshot]:
        with gate:
            return read(task_ids)

    monkeypatch.setattr(server.store, "read", held)
    with gate:  # a read sees none of this, or all of it
        run.open()
        run.succeed()
    assert viewer.ends() == "over"
    assert_received(
        viewer,
        [QUEUED, *([STARTED] if viewer.frames else []), Belief("completed", "succeeded", None)],
        "status started completed",
    )


def test_failure_keeps_the_progress_and_has_the_error(
    server: InprocessServer, watch: Watch
) -> None:
    """A failure keeps the last progress, and contains the error."""
    run = server.runs.begin().report(3, 10)
    viewer = watch(server, run)
    viewer.sees("running", "running", 3)
    run.fail("ValueError", "row 4 is invalid")
    assert viewer.ends() == "over"
    assert_received(viewer, [at(3), Belief("failed", "failed", 3)], "status failed")
    if viewer.frames:
        assert viewer.told[-1]["error"] == {
            "type": "ValueError",
            "message": "row 4 is invalid",
            "details": {"module": "builtins"},
        }


def test_cancel_request_is_shown_until_confirmed(server: InprocessServer, watch: Watch) -> None:
    """A cancel request is shown at once; its confirmation is the end, with the last progress."""
    run = server.runs.begin().report(3, 10)
    viewer = watch(server, run)
    viewer.sees("running", "running", 3)
    server.store.request_cancel(run.id, datetime.now(UTC))
    viewer.sees("running", "cancelling", 3)
    run.write(
        "REVOKED",
        {
            "exc_type": "TaskRevokedError",
            "exc_message": ["revoked"],
            "exc_module": "celery.exceptions",
        },
    )
    assert viewer.ends() == "over"
    beliefs = [at(3), Belief("running", "cancelling", 3), Belief("cancelled", "cancelled", 3)]
    assert_received(viewer, beliefs, "status status cancelled")


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_terminal_execution_gives_state_and_end(
    server: InprocessServer, watch: Watch, end: str
) -> None:
    """A viewer of a terminal execution gets the state and the end."""
    run = server.runs.begin().report(3, 10)
    getattr(run, end)()
    viewer = watch(server, run)
    assert viewer.ends() == "over"
    status, phase = {"succeed": ("completed", "succeeded"), "fail": ("failed", "failed")}[end]
    assert_received(viewer, [Belief(status, phase, 3)], f"status {status}")


def test_retry_restarts_the_progress(server: InprocessServer, watch: Watch) -> None:
    """A retry and the next attempt are shown, and progress restarts."""
    run = server.runs.begin().report(5, 10)
    viewer = watch(server, run)
    viewer.sees("running", "running", 5)
    run.write("RETRY", {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"})
    viewer.sees("running", "retrying", 5)
    run.open()
    viewer.sees("running", "running", None)
    run.report(1, 10)
    viewer.sees("running", "running", 1)
    run.succeed()
    assert viewer.ends() == "over"
    beliefs = [
        at(5),
        Belief("running", "retrying", 5),
        STARTED,
        at(1),
        Belief("completed", "succeeded", 1),
    ]
    assert_received(viewer, beliefs, "status status status progress completed")


def test_stopped_and_resumed_heartbeats_are_shown(server: InprocessServer, watch: Watch) -> None:
    """Heartbeats that stop or resume are shown, although no message reports them."""
    run = server.runs.begin().report(1, 10)
    viewer = watch(server, run)
    viewer.sees("running", "running", 1)
    server.store.heartbeat([run.id], "w1@test", 0.05)
    viewer.sees("running", "stalled", 1)
    server.store.heartbeat([run.id], "w1@test", 60)
    viewer.sees("running", "running", 1)
    run.report(2, 10)
    viewer.sees("running", "running", 2)
    beliefs = [at(1), Belief("running", "stalled", 1), at(1), at(2)]
    assert_received(viewer, beliefs, "status status status progress")


def test_equal_reports_are_sent_once(server: InprocessServer, watch: Watch) -> None:
    """A report that equals the last one is not sent."""
    run = server.runs.begin()
    viewer = watch(server, run)
    viewer.sees("running")
    for number in (1, 1, 2, 2, 2, 3):
        run.report(number, 3, "same")
        viewer.sees("running", "running", number)
    run.succeed()
    assert viewer.ends() == "over"
    assert_received(
        viewer,
        [STARTED, at(1), at(2), at(3), Belief("completed", "succeeded", 3)],
        "status progress progress progress completed",
    )


def test_viewers_that_connect_between_reports_miss_nothing(
    server: InprocessServer, watch: Watch
) -> None:
    """A viewer that connects between reports gets no step twice, none late, and the end."""
    runs = [server.runs.begin() for _ in range(5)]
    viewers = []
    for run in runs:
        for number in range(1, 6):
            run.report(number, 5)
            viewers.append(watch(server, run))
        run.succeed(number)
    for viewer in viewers:
        assert viewer.ends() == "over"
        currents = [belief.current for belief in viewer.beliefs if belief.current is not None]
        assert currents == sorted(currents)
        assert currents[-1] == 5
        assert not viewer.frames or (viewer.kinds[0], viewer.kinds[-1]) == ("status", "completed")


# Refusals and outages


@pytest.mark.parametrize("execution_id", ["unknown", "a" * 300, "x%20y"])
def test_unknown_id_is_refused(server: InprocessServer, watch: Watch, execution_id: str) -> None:
    """An unpublished or invalid id is unknown, and its stream ends."""
    viewer = watch(server, execution_id)
    assert viewer.ends() == "unknown"
    assert not viewer.told
    until(lambda: not server.webs[0].viewers)


def test_expired_execution_is_refused(server: InprocessServer, watch: Watch) -> None:
    """An execution whose result is gone is expired, and not unknown."""
    run = server.runs.begin().succeed()
    server.expire(run.id)
    viewer = watch(server, run)
    assert viewer.ends() == "expired"
    assert not viewer.told


def test_outage_is_reported_once_and_recovers(server: InprocessServer, watch: Watch) -> None:
    """An outage is reported once; viewers stay, new ones wait, and both get the changes."""
    run = server.runs.begin().report(1, 10)
    early = watch(server, run)
    early.sees("running", "running", 1)
    server.cut()
    early.is_told_of_an_outage()
    late = watch(server, run)
    late.is_told_of_an_outage()
    server.mend(lambda: run.report(7, 10))
    for viewer in (early, late):
        viewer.sees("running", "running", 7)
    run.succeed()
    for viewer, kinds in ((early, ["status", "error", "status"]), (late, ["error", "status"])):
        assert viewer.ends() == "over"
        if viewer.frames:
            # The feed may have reconnected before the report.
            assert viewer.kinds in ([*kinds, "completed"], [*kinds, "progress", "completed"])
        assert viewer.outages <= 1
        assert [belief.current for belief in viewer.beliefs][-1] == 7


def test_end_during_outage_is_delivered(server: InprocessServer, watch: Watch) -> None:
    """An end during an outage is delivered when the backend is back."""
    run = server.runs.begin().report(1, 10)
    viewer = watch(server, run)
    viewer.sees("running", "running", 1)
    server.cut()
    viewer.is_told_of_an_outage()
    server.mend(lambda: run.report(2, 10).succeed())
    assert viewer.ends() == "over"
    if viewer.frames:
        assert viewer.kinds[:3] == ["status", "error", "status"]
        assert viewer.kinds.count("completed") == 1
    assert viewer.beliefs[-1].current == 2


def test_viewer_beyond_the_limit_is_refused(
    make: Callable[..., InprocessServer], watch: Watch
) -> None:
    """Beyond the limit a viewer is refused; a free slot can be taken."""
    server = make(max_viewers=1)
    run = server.runs.begin().report(1, 10)
    with ExitStack() as slot:
        slot.enter_context(server.webs[0].headway.hub.limiter.slot(ServerTransport.POLL))
        assert watch(server, run).ends() == "full"
    watch(server, run).sees("running", "running", 1)


def test_authorize_decides_per_execution(
    make: Callable[..., InprocessServer], watch: Watch
) -> None:
    """``authorize`` is called with the execution; it refuses one and allows another."""
    forbidden: set[Any] = set()
    server = make(authorize=lambda _who, _action, execution_id: execution_id not in forbidden)
    run, hidden = server.runs.begin().report(1, 10), server.runs.begin().report(1, 10)
    forbidden.add(hidden.id)
    assert watch(server, hidden).ends() == "forbidden"
    watch(server, run).sees("running", "running", 1)


def test_viewer_needs_a_token(make: Callable[..., InprocessServer], watch: Watch) -> None:
    """With tokens configured, a viewer needs one."""
    server = make(tokens="sesame")
    run = server.runs.begin().report(1, 10)
    assert watch(server, run).ends() == "unauthenticated"
    assert watch(server, run, headers={"Authorization": "Bearer wrong"}).ends() == "unauthenticated"
    watch(server, run, headers={"Authorization": "Bearer sesame"}).sees("running", "running", 1)


def test_shutdown_asks_viewers_to_reconnect(server: InprocessServer, watch: Watch) -> None:
    """A server that shuts down ends its streams for a reconnect, without another frame."""
    run = server.runs.begin().report(1, 10)
    viewer = watch(server, run)
    viewer.sees("running", "running", 1)
    server.webs[0].headway.hub.supervisor.close_all()
    assert viewer.ends() == "back"
    assert_received(viewer, [at(1)], "status")
