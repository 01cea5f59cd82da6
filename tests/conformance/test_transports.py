"""One suite for every way to look on: the same happens, and a viewer of each is told the same
(contract, section 4).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from headway.core.registry import Snapshot
from headway.server.streams.limits import Transport as Seat
from tests.support.fake_worker import FakeExecution
from tests.support.inprocess_server import InprocessServer, inprocess_server
from tests.support.transports import TRANSPORTS, ShownState, TransportClient
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

Look = Callable[..., TransportClient]

QUEUED, BEGUN = ShownState("pending", "queued", None), ShownState("running", "running", None)


def at(current: float | None) -> ShownState:
    return ShownState("running", "running", current)


@pytest.fixture(scope="module")
def durable() -> Iterator[ValkeyServer]:
    with ValkeyServer(durable=True) as server:
        yield server.keep()


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., InprocessServer]]:
    """Makes a house over the fakes, and over the real thing."""
    with ExitStack() as stack:

        def make(**settings: Any) -> InprocessServer:
            server = request.getfixturevalue("durable").keep() if request.param == "redis" else None
            return stack.enter_context(inprocess_server(server, **settings))

        yield make


@pytest.fixture
def home(make: Callable[..., InprocessServer]) -> InprocessServer:
    return make()


@pytest.fixture(params=TRANSPORTS)
def look(request: pytest.FixtureRequest) -> Iterator[Look]:
    """Begins to look on through the skin in turn; whoever still looks at the end of the test goes."""
    skins: list[TransportClient] = []

    def look(home: InprocessServer, run: FakeExecution | str, **options: Any) -> TransportClient:
        skin = TRANSPORTS[request.param](
            home.url, run if isinstance(run, str) else run.id, **options
        )
        skins.append(skin)
        return skin

    yield look
    for skin in skins:
        skin.close()


def told(viewer: TransportClient, beliefs: list[ShownState], kinds: str) -> None:
    """Fail unless this is all that it was told."""
    assert viewer.received_only(beliefs, kinds.split()), (
        viewer.kinds if viewer.sends_frames else "",
        viewer.shown,
    )


# The life of an execution


def test_from_publish_to_completed(home: InprocessServer, look: Look) -> None:
    """A viewer is told where it stands, the begin, each report, and the end; then its stream is
    over.
    """
    run = home.worker.publish()
    viewer = look(home, run)
    viewer.wait_for("pending", "queued")
    run.open()
    viewer.wait_for("running")
    for number in range(1, 4):
        run.report(number, 3, f"step {number}", {"bad": "0"})
        viewer.wait_for("running", "running", number)
    run.succeed({"rows": 3})
    assert viewer.wait_for_end() == "over"
    beliefs = [QUEUED, BEGUN, at(1), at(2), at(3), ShownState("completed", "succeeded", 3)]
    told(viewer, beliefs, "status started progress progress progress completed")
    if viewer.sends_frames:
        assert viewer.received[-1]["outputs"] == {"rows": 3}


def test_a_short_run(home: InprocessServer, look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that went from pending to its end while nothing could be heard, the begin is told as
    well.
    """
    run = home.worker.publish()
    viewer = look(home, run)
    viewer.wait_for("pending", "queued")
    gate, read = threading.Lock(), home.store.read

    def held(task_ids: Sequence[str]) -> list[Snapshot]:
        with gate:
            return read(task_ids)

    monkeypatch.setattr(home.store, "read", held)
    with gate:  # who looks sees nothing of it, or all
        run.open()
        run.succeed()
    assert viewer.wait_for_end() == "over"
    told(
        viewer,
        [
            QUEUED,
            *([BEGUN] if viewer.sends_frames else []),
            ShownState("completed", "succeeded", None),
        ],
        "status started completed",
    )


def test_failed(home: InprocessServer, look: Look) -> None:
    """A failure keeps the last progress, and says why."""
    run = home.worker.begin().report(3, 10)
    viewer = look(home, run)
    viewer.wait_for("running", "running", 3)
    run.fail("ValueError", "row 4 is no row")
    assert viewer.wait_for_end() == "over"
    told(viewer, [at(3), ShownState("failed", "failed", 3)], "status failed")
    if viewer.sends_frames:
        assert viewer.received[-1]["error"] == {
            "type": "ValueError",
            "message": "row 4 is no row",
            "details": {"module": "builtins"},
        }


def test_cancelled(home: InprocessServer, look: Look) -> None:
    """A cancel is shown from when it is asked for, and its confirmation is the end; the last
    progress is kept.
    """
    run = home.worker.begin().report(3, 10)
    viewer = look(home, run)
    viewer.wait_for("running", "running", 3)
    home.store.request_cancel(run.id, datetime.now(UTC))
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
    beliefs = [
        at(3),
        ShownState("running", "cancelling", 3),
        ShownState("cancelled", "cancelled", 3),
    ]
    told(viewer, beliefs, "status status cancelled")


@pytest.mark.parametrize("end", ["succeed", "fail"])
def test_already_over(home: InprocessServer, look: Look, end: str) -> None:
    """Who comes after the end is told where it stands, and the end."""
    run = home.worker.begin().report(3, 10)
    getattr(run, end)()
    viewer = look(home, run)
    assert viewer.wait_for_end() == "over"
    word, phase = {"succeed": ("completed", "succeeded"), "fail": ("failed", "failed")}[end]
    told(viewer, [ShownState(word, phase, 3)], f"status {word}")


def test_a_retry(home: InprocessServer, look: Look) -> None:
    """A retry and the attempt that follows are told, and progress starts anew with it."""
    run = home.worker.begin().report(5, 10)
    viewer = look(home, run)
    viewer.wait_for("running", "running", 5)
    run.write("RETRY", {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"})
    viewer.wait_for("running", "retrying", 5)
    run.open()
    viewer.wait_for("running", "running", None)
    run.report(1, 10)
    viewer.wait_for("running", "running", 1)
    run.succeed()
    assert viewer.wait_for_end() == "over"
    beliefs = [
        at(5),
        ShownState("running", "retrying", 5),
        BEGUN,
        at(1),
        ShownState("completed", "succeeded", 1),
    ]
    told(viewer, beliefs, "status status status progress completed")


def test_stalled(home: InprocessServer, look: Look) -> None:
    """That signs of life have stopped is told, though nothing happens; and that they are back."""
    run = home.worker.begin().report(1, 10)
    viewer = look(home, run)
    viewer.wait_for("running", "running", 1)
    home.store.heartbeat([run.id], "w1@test", 0.05)
    viewer.wait_for("running", "stalled", 1)
    home.store.heartbeat([run.id], "w1@test", 60)
    viewer.wait_for("running", "running", 1)
    run.report(2, 10)
    viewer.wait_for("running", "running", 2)
    beliefs = [at(1), ShownState("running", "stalled", 1), at(1), at(2)]
    told(viewer, beliefs, "status status status progress")


def test_never_twice_the_same(home: InprocessServer, look: Look) -> None:
    """A report that says what the last one said is told to nobody."""
    run = home.worker.begin()
    viewer = look(home, run)
    viewer.wait_for("running")
    for number in (1, 1, 2, 2, 2, 3):
        run.report(number, 3, "same")
        viewer.wait_for("running", "running", number)
    run.succeed()
    assert viewer.wait_for_end() == "over"
    told(
        viewer,
        [BEGUN, at(1), at(2), at(3), ShownState("completed", "succeeded", 3)],
        "status progress progress progress completed",
    )


def test_nothing_is_lost_on_the_way_in(home: InprocessServer, look: Look) -> None:
    """Whoever comes while reports are written sees no step twice and none after a later one, and
    always the end.
    """
    runs = [home.worker.begin() for _ in range(5)]
    viewers = []
    for run in runs:
        for number in range(1, 6):
            run.report(number, 5)
            viewers.append(look(home, run))
        run.succeed(number)
    for viewer in viewers:
        assert viewer.wait_for_end() == "over"
        currents = [belief.current for belief in viewer.shown if belief.current is not None]
        assert currents == sorted(currents)
        assert currents[-1] == 5
        assert not viewer.sends_frames or (viewer.kinds[0], viewer.kinds[-1]) == (
            "status",
            "completed",
        )


# When something is wrong


@pytest.mark.parametrize("execution_id", ["nobody", "a" * 300, "x%20y"])
def test_unknown(home: InprocessServer, look: Look, execution_id: str) -> None:
    """An id that nobody published, or that can be none, is unknown, and holds nothing open."""
    viewer = look(home, execution_id)
    assert viewer.wait_for_end() == "unknown"
    assert not viewer.received
    until(lambda: not home.webs[0].viewers)


def test_expired(home: InprocessServer, look: Look) -> None:
    """An execution whose result is gone has expired, which is not unknown."""
    run = home.worker.begin().succeed()
    home.expire(run.id)
    viewer = look(home, run)
    assert viewer.wait_for_end() == "expired"
    assert not viewer.received


def test_an_outage(home: InprocessServer, look: Look) -> None:
    """An outage is told once; who was there stays, who comes waits, and both go on with what is
    true then.
    """
    run = home.worker.begin().report(1, 10)
    early = look(home, run)
    early.wait_for("running", "running", 1)
    home.disconnect()
    early.wait_for_outage()
    late = look(home, run)
    late.wait_for_outage()
    home.reconnect(lambda: run.report(7, 10))
    for viewer in (early, late):
        viewer.wait_for("running", "running", 7)
    run.succeed()
    for viewer, kinds in ((early, ["status", "error", "status"]), (late, ["error", "status"])):
        assert viewer.wait_for_end() == "over"
        if viewer.sends_frames:
            # The feed may have been back before the report.
            assert viewer.kinds in ([*kinds, "completed"], [*kinds, "progress", "completed"])
        assert viewer.outages <= 1
        assert [belief.current for belief in viewer.shown][-1] == 7


def test_an_end_during_an_outage(home: InprocessServer, look: Look) -> None:
    """The end of which nobody could hear is told when the backend is back."""
    run = home.worker.begin().report(1, 10)
    viewer = look(home, run)
    viewer.wait_for("running", "running", 1)
    home.disconnect()
    viewer.wait_for_outage()
    home.reconnect(lambda: run.report(2, 10).succeed())
    assert viewer.wait_for_end() == "over"
    if viewer.sends_frames:
        assert viewer.kinds[:3] == ["status", "error", "status"]
        assert viewer.kinds.count("completed") == 1
    assert viewer.shown[-1].current == 2


def test_too_many(make: Callable[..., InprocessServer], look: Look) -> None:
    """Beyond the limit a viewer is told so, and a place that is left can be taken."""
    home = make(max_viewers=1)
    run = home.worker.begin().report(1, 10)
    with ExitStack() as slot:
        slot.enter_context(home.webs[0].headway.hub.limiter.slot(Seat.POLL))
        assert look(home, run).wait_for_end() == "full"
    look(home, run).wait_for("running", "running", 1)


def test_not_allowed(make: Callable[..., InprocessServer], look: Look) -> None:
    """The app's rule is asked about the execution: what it forbids is refused, what it allows is
    shown.
    """
    secret: set[Any] = set()
    home = make(authorize=lambda _who, _action, execution_id: execution_id not in secret)
    run, hidden = home.worker.begin().report(1, 10), home.worker.begin().report(1, 10)
    secret.add(hidden.id)
    assert look(home, hidden).wait_for_end() == "forbidden"
    look(home, run).wait_for("running", "running", 1)


def test_not_authenticated(make: Callable[..., InprocessServer], look: Look) -> None:
    """Where tokens are set, nothing is shown without one."""
    home = make(tokens="sesame")
    run = home.worker.begin().report(1, 10)
    assert look(home, run).wait_for_end() == "unauthenticated"
    assert (
        look(home, run, headers={"Authorization": "Bearer wrong"}).wait_for_end()
        == "unauthenticated"
    )
    look(home, run, headers={"Authorization": "Bearer sesame"}).wait_for("running", "running", 1)


def test_going_down(home: InprocessServer, look: Look) -> None:
    """A server that goes down sends its viewers away, to come back; it says nothing that isn't so."""
    run = home.worker.begin().report(1, 10)
    viewer = look(home, run)
    viewer.wait_for("running", "running", 1)
    home.webs[0].headway.hub.supervisor.close_all()
    assert viewer.wait_for_end() == "back"
    told(viewer, [at(1)], "status")
