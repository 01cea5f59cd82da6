"""Heartbeats: for the tasks that a worker runs, while they run, also during and after an outage."""

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


class RecordingStore(MemoryStore):
    """Records the heartbeats that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.heartbeats: list[tuple[tuple[str, ...], str, float]] = []

    def heartbeat(self, task_ids: Sequence[str], worker: str, lifetime: float) -> frozenset[str]:
        reply = super().heartbeat(task_ids, worker, lifetime)
        self.heartbeats.append((tuple(task_ids), worker, lifetime))
        return reply


class FakeWorker:
    """`running` is what this worker runs."""

    def __init__(self) -> None:
        self.store = RecordingStore()
        self.timer = FakeScheduler()
        self.running: list[str] = []
        self.app_state = AppState(
            None, interval=0.25, store=self.store, fence=lambda backend: backend
        )
        self.heartbeat = Heartbeat(
            self.app_state,
            "w1@lab",
            running=lambda: list(self.running),
            scheduler=self.timer,  # type: ignore[arg-type]
            clock=lambda: self.timer.now,
        )


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


def test_heartbeat_every_five_seconds_covers_all_running_tasks(worker: FakeWorker) -> None:
    """One call for all running tasks, valid for twenty seconds; none while nothing runs."""
    worker.heartbeat.start()
    worker.timer.pass_to(7)
    assert worker.store.heartbeats == []
    worker.running = ["a", "b"]
    worker.timer.pass_to(21)
    assert worker.store.heartbeats == [(("a", "b"), "w1@lab", 20.0)] * 3


def test_heartbeats_continue_during_a_warm_shutdown(worker: FakeWorker) -> None:
    """A warm shutdown waits for its tasks: they do not stall meanwhile. Then no timer is left."""
    worker.running = ["a"]
    worker.heartbeat.start()
    worker.timer.pass_to(1)
    worker.heartbeat.stop()
    worker.timer.pass_to(11)
    assert len(worker.store.heartbeats) == 3
    worker.running = []
    worker.timer.pass_to(16)
    assert worker.timer.due == []


def test_heartbeats_return_with_the_store(worker: FakeWorker) -> None:
    """After an outage, the next heartbeat comes as early as allowed. An error of the store does not
    end them.
    """
    worker.running = ["a"]
    worker.store.away = True
    worker.heartbeat._clock = monotonic  # the breaker's time is the real one
    worker.heartbeat.start()
    worker.timer.pass_to(worker.timer.due[0][0])
    assert worker.timer.due[0][0] == worker.app_state.breaker.retry_at, "and not five seconds later"
    worker.store.away = False
    until(worker.app_state.store_available)
    worker.timer.pass_to(worker.timer.due[0][0])
    assert len(worker.store.heartbeats) == 1

    def broken(*args: Any) -> frozenset[str]:
        raise KeyError(args)

    worker.store.heartbeat = broken  # type: ignore[method-assign]
    worker.timer.pass_to(worker.timer.due[0][0])
    assert worker.timer.due


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def alive_while_running(lab: Lab, task_id: str) -> Any:
    """Run a task that reads its own snapshot; returns whether it is alive."""

    @lab.task(name=f"reads.{task_id}")
    def reads() -> Any:
        return lab.store.read([task_id])[0].alive

    return lab.run(reads, task_id)


def test_start_of_an_attempt_is_its_first_heartbeat(lab: Lab) -> None:
    """In a worker that sends heartbeats, an attempt is alive from its start: it may be killed
    before the next heartbeat.
    """
    app_state = app_state_of(lab.app)
    assert app_state is not None
    assert alive_while_running(lab, "without") is None
    app_state.sends_heartbeats = True
    assert alive_while_running(lab, "with") is True


def test_install_adds_the_worker_step(lab: Lab) -> None:
    """The worker's blueprint has the step, which makes the heartbeat before the pool forks."""

    class Worker:
        app = lab.app
        hostname = "w1@lab"
        steps: list[Any] = []  # noqa: RUF012  as in Celery

    assert HeartbeatStep in lab.app.steps["worker"]
    step = HeartbeatStep(Worker())
    step.include(Worker())
    assert isinstance(step.obj, Heartbeat)
    app_state = app_state_of(lab.app)
    assert app_state is not None
    assert app_state.sends_heartbeats


def test_running_tasks_are_read_from_celery() -> None:
    """`celery_internals.running_tasks` returns what Celery has accepted and not finished."""
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


def test_attempt_without_heartbeats_is_stalled_until_the_next_one() -> None:
    """The phase is stalled, the status running, until the next heartbeat. One of another worker
    does not count.
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
