"""Signs of life: for what a worker runs, while it runs, and whatever happens to the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import pytest

from headway.core.registry import AttemptStart
from headway.core.states import resolve
from headway.models import Phase
from headway.stores.memory import MemoryStore
from headway.worker import celery_internals
from headway.worker.app_state import AppState, app_state_of
from headway.worker.heartbeat import Heartbeat, HeartbeatStep
from tests.support.fake_scheduler import FakeScheduler
from tests.support.wait import until
from tests.unit.tracing import Lab


class Listening(MemoryStore):
    """Writes down the signs that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.signs: list[tuple[tuple[str, ...], str, float]] = []

    def heartbeat(self, task_ids: Sequence[str], worker: str, lifetime: float) -> frozenset[str]:
        answer = super().heartbeat(task_ids, worker, lifetime)
        self.signs.append((tuple(task_ids), worker, lifetime))
        return answer


class Ward:
    """A worker without a worker: `running` is what it runs."""

    def __init__(self) -> None:
        self.store = Listening()
        self.timer = FakeScheduler()
        self.running: list[str] = []
        self.installation = AppState(
            None, interval=0.25, store=self.store, fence=lambda backend: backend
        )
        self.signs = Heartbeat(
            self.installation,
            "w1@ward",
            running=lambda: list(self.running),
            scheduler=self.timer,  # type: ignore[arg-type]
            clock=lambda: self.timer.now,
        )


@pytest.fixture
def ward() -> Ward:
    return Ward()


def test_a_sign_every_five_seconds_for_all_of_them(ward: Ward) -> None:
    """One call for all that run, each lasting twenty seconds; none while nothing runs."""
    ward.signs.start()
    ward.timer.pass_to(7)
    assert ward.store.signs == []
    ward.running = ["a", "b"]
    ward.timer.pass_to(21)
    assert ward.store.signs == [(("a", "b"), "w1@ward", 20.0)] * 3


def test_a_worker_that_stops_goes_on_until_its_last_task_has_ended(ward: Ward) -> None:
    """A warm shutdown waits for its tasks: they don't stall meanwhile, and then nothing is left
    behind.
    """
    ward.running = ["a"]
    ward.signs.start()
    ward.timer.pass_to(1)
    ward.signs.stop()
    ward.timer.pass_to(11)
    assert len(ward.store.signs) == 3
    ward.running = []
    ward.timer.pass_to(16)
    assert ward.timer.due == []


def test_a_store_that_is_away_is_asked_as_soon_as_it_may_be(ward: Ward) -> None:
    """The signs are back within seconds of the store, and a defect of it doesn't end them."""
    ward.running = ["a"]
    ward.store.away = True
    ward.signs._clock = monotonic  # the breaker's time is the real one
    ward.signs.start()
    ward.timer.pass_to(ward.timer.due[0][0])
    assert ward.timer.due[0][0] == ward.installation.breaker.retry_at, "and not five seconds later"
    ward.store.away = False
    until(ward.installation.store_available)
    ward.timer.pass_to(ward.timer.due[0][0])
    assert len(ward.store.signs) == 1

    def broken(*args: Any) -> frozenset[str]:
        raise KeyError(args)

    ward.store.heartbeat = broken  # type: ignore[method-assign]
    ward.timer.pass_to(ward.timer.due[0][0])
    assert ward.timer.due


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def open_one(lab: Lab, task_id: str) -> Any:
    """Run a task that looks at its own snapshot."""

    @lab.task(name=f"looks.{task_id}")
    def looks() -> Any:
        return lab.store.read([task_id])[0].alive

    return lab.run(looks, task_id)


def test_the_start_is_the_first_sign(lab: Lab) -> None:
    """In a worker that gives signs, an attempt has given one when it has begun: it may be killed
    before the next.
    """
    installation = app_state_of(lab.app)
    assert installation is not None
    assert open_one(lab, "no_signs") is None
    installation.sends_heartbeats = True
    assert open_one(lab, "signs") is True


def test_install_gives_workers_the_step(lab: Lab) -> None:
    """The worker's blueprint has the step, which makes the signs before the pool forks."""

    class Worker:
        app = lab.app
        hostname = "w1@lab"
        steps: list[Any] = []  # noqa: RUF012  as in Celery

    assert HeartbeatStep in lab.app.steps["worker"]
    step = HeartbeatStep(Worker())
    step.include(Worker())
    assert isinstance(step.obj, Heartbeat)
    installation = app_state_of(lab.app)
    assert installation is not None
    assert installation.sends_heartbeats


def test_what_a_worker_runs_is_read_from_celery() -> None:
    """`celery_internals.running_tasks` names what Celery has accepted and not finished."""
    from celery.worker import state

    class Request:
        id = "r1"

    request = Request()
    state.active_requests.add(request)
    try:
        assert celery_internals.running_tasks() == ["r1"]
    finally:
        state.active_requests.discard(request)
    assert celery_internals.running_tasks() == []


def test_an_attempt_whose_signs_stop_is_stalled_and_comes_back() -> None:
    """The phase is stalled, the status running; the next sign ends that. One of another worker, or
    of an unknown worker, does not count.
    """
    store = MemoryStore()
    now = datetime.now(UTC)
    store.start_attempt(AttemptStart("x", "t", now, worker="w1", heartbeat_ttl=20))

    def phase(alive: bool) -> Phase:
        snapshot = store.read(["x"])[0]
        assert snapshot.alive is alive
        return resolve(snapshot, now).phase

    assert phase(True) is Phase.RUNNING
    store._clock = lambda: datetime.fromtimestamp(now.timestamp() + 21, UTC)
    assert phase(False) is Phase.STALLED
    store.heartbeat(["x", "unknown"], "w2", 20)
    assert phase(False) is Phase.STALLED
    store.heartbeat(["x"], "w1", 20)
    assert phase(True) is Phase.RUNNING
