"""Signs of life, attempts and silence, by real workers and a real Valkey."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from headway.models import Phase, Status
from tests.acceptance.apps.worker_bench import Bench, bench
from tests.support.wait import until

POOLS = ["prefork", "threads", "gevent", "solo"]
#: Signs that come and go within a test's patience.
QUICK = {"jobs": "heartbeat_jobs", "SIGN_INTERVAL": "0.2", "SIGN_LIFETIME": "1"}
#: And some that outlast any pause of a machine that is busy with other things, for what must never
#: stall.
STEADY = QUICK | {"SIGN_LIFETIME": "60"}


@pytest.fixture(scope="module")
def on(valkey: Any) -> Iterator[Bench]:
    """A prefork worker of the jobs, for all tests here that don't harm it."""
    valkey.command("FLUSHDB", db=0)
    with bench(f"{valkey.url.rsplit('/', 1)[0]}/0", jobs="heartbeat_jobs") as made:
        made.worker.keep()
        yield made


def waiting(on: Bench, name: str = "waits") -> str:
    """A job that has reported and waits for the test's word, and gives signs."""
    task_id = on.send("jobs.gated", name)
    on.wire.heard(name)
    until(lambda: on.store.read([task_id])[0].alive, what="a sign of life")
    return task_id


class Hold:
    """Holds ``life.hog`` in its C code until it is let go."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def let_go(self) -> None:
        pipe = os.open(self.path, os.O_RDWR)
        os.write(pipe, b"x")
        os.close(pipe)


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "hold")


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_that_stops_is_stalled_and_comes_back(redis_url: str, pool: str) -> None:
    """A worker that doesn't move reads as stalled, still running; when it goes on, as running, and
    its job ends well.
    """
    with bench(redis_url, pool=pool, **QUICK) as on:
        task_id = waiting(on)
        os.killpg(on.worker.pid, signal.SIGSTOP)
        until(lambda: on.look(task_id).phase is Phase.STALLED)
        stalled = on.look(task_id)
        assert stalled.status is Status.RUNNING
        assert stalled.progress is not None
        assert stalled.progress.message == "waiting", "how far it came stays"
        os.killpg(on.worker.pid, signal.SIGCONT)
        until(lambda: on.look(task_id).phase is Phase.RUNNING)
        on.wire.open("waits")
        assert on.ended(task_id).status is Status.COMPLETED


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_that_is_killed_is_stalled(redis_url: str, pool: str) -> None:
    """A killed worker writes nothing, and its tasks are still shown as stalled."""
    with bench(redis_url, pool=pool, **QUICK) as on:
        task_id = waiting(on)
        os.killpg(on.worker.pid, signal.SIGKILL)
        until(lambda: on.look(task_id).phase is Phase.STALLED)


def test_a_killed_worker_is_stalled_within_25_seconds(redis_url: str) -> None:
    """The documented bound, with nothing set: the worker gives a sign every five seconds, and each
    lasts twenty.
    """
    with bench(redis_url, jobs="heartbeat_jobs") as on:
        task_id = waiting(on)
        os.killpg(on.worker.pid, signal.SIGKILL)
        assert on.look(task_id).phase is Phase.RUNNING
        until(lambda: on.look(task_id).phase is Phase.STALLED, within=25)


def lives(on: Bench, task_id: str) -> None:
    """Three signs come from now on, and meanwhile it is running. The job itself gives none while it
    is held.
    """
    signs = set()

    def three() -> bool:
        assert on.look(task_id).phase is Phase.RUNNING
        signs.add(server.pexpiretime(on.store._keys(task_id)[0] + b":life"))  # type: ignore[attr-defined]
        return len(signs) > 3

    with redis.Redis.from_url(on.app.conf.result_backend) as server:
        until(three, what="three signs")


def test_a_busy_child_never_stalls(redis_url: str, hold: Hold) -> None:
    """However long C code lets no thread in there: the main process speaks for its child
    (celery-facts#heartbeats-under-each-pool).
    """
    with bench(redis_url, **STEADY) as on:
        task_id = on.send("life.hog", hold.path)
        on.wire.heard("hog")
        lives(on, task_id)
        hold.let_go()
        assert on.ended(task_id).status is Status.COMPLETED


def test_in_threads_it_does_and_comes_back(redis_url: str, hold: Hold) -> None:
    """Where a task shares the process, nothing there moves meanwhile: that is shown, and that it is
    over.
    """
    with bench(redis_url, pool="threads", **QUICK) as on:
        waits, hog = waiting(on), on.send("life.hog", hold.path)
        on.wire.heard("hog")
        until(lambda: on.look(hog).phase is Phase.STALLED)
        until(lambda: on.look(waits).phase is Phase.STALLED)
        hold.let_go()
        assert on.ended(hog).outputs == "out again"
        until(lambda: on.look(waits).phase is Phase.RUNNING)
        on.wire.open("waits")
        assert on.ended(waits).status is Status.COMPLETED


def test_a_worker_without_its_broker_lives(redis_url: str, own_valkey: Any, hold: Hold) -> None:
    """The tasks go on when the broker has gone, and so do their signs: they don't hang on the
    consumer.
    """
    with bench(own_valkey.url, redis_url, **STEADY) as on:
        task_id = on.send("life.hog", hold.path)
        on.wire.heard("hog")
        own_valkey.stop()
        on.worker.wait_log("Connection to broker lost")
        lives(on, task_id)
        hold.let_go()
        assert on.ended(task_id).status is Status.COMPLETED
        own_valkey.start()


def test_a_warm_shutdown_does_not_stall(redis_url: str, hold: Hold) -> None:
    """A worker that was asked to end waits for its tasks, and gives signs for them until then."""
    with bench(redis_url, **STEADY) as on:
        task_id = on.send("life.hog", hold.path)
        on.wire.heard("hog")
        on.worker.kill(signal.SIGTERM)
        on.worker.wait_log("Warm shutdown")
        lives(on, task_id)
        hold.let_go()
        assert on.ended(task_id).status is Status.COMPLETED


def test_signs_are_given_beside_a_sql_backend(redis_url: str, tmp_path: Any) -> None:
    """Stalled and back again, by time stamps."""
    with bench(redis_url, f"db+sqlite:///{tmp_path}/results.sqlite", **QUICK) as on:
        task_id = waiting(on)
        os.killpg(on.worker.pid, signal.SIGSTOP)
        until(lambda: on.look(task_id).phase is Phase.STALLED)
        os.killpg(on.worker.pid, signal.SIGCONT)
        until(lambda: on.look(task_id).phase is Phase.RUNNING)
        on.wire.open("waits")
        assert on.ended(task_id).status is Status.COMPLETED


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_retry_knows_where_the_last_attempt_got_to(redis_url: str, pool: str) -> None:
    """`ctx.progress.previous` is None in the first attempt, and the last one's progress, whole, in
    each that follows.
    """
    with bench(redis_url, pool=pool, jobs="heartbeat_jobs") as on:
        task_id = on.send("life.retries")
        execution = on.ended(task_id)
        seen = str([2, 10, "attempt 1", {"seen": "None"}])
        assert (execution.attempt, execution.outputs) == (3, [3, 20, "attempt 2", {"seen": seen}])
        assert execution.progress is not None
        assert execution.progress.current == 30


def test_a_redelivered_task_does_too(on: Bench) -> None:
    """Its process was killed, and the broker gave the message to another one: attempt 2, under the
    same id.
    """
    execution = on.ended(on.send("life.redelivered"))
    assert (execution.attempt, execution.status) == (2, Status.COMPLETED)
    assert execution.outputs == [2, 4, "about to die", {}]


@pytest.mark.parametrize(
    ("pool", "way"),
    [
        ("prefork", "wait"),
        ("prefork", "count"),
        ("prefork", "repeat"),
        ("solo", "wait"),
        ("threads", "count"),
        ("threads", "repeat"),
        ("gevent", "wait"),
        ("gevent", "repeat"),
    ],
)
def test_a_silent_attempt_is_ended(redis_url: str, pool: str, way: str) -> None:
    """FAILURE by `headway.ProgressTimeout`, with its last progress; the worker goes on with the
    next task, unharmed.
    """
    with bench(redis_url, pool=pool, concurrency=1, jobs="heartbeat_jobs") as on:
        task_id = on.send("life.silent", way)
        execution = on.ended(task_id)
        assert execution.status is Status.FAILED
        assert execution.error is not None
        assert execution.error.type == "ProgressTimeout"
        assert "nothing new for 1 s" in execution.error.message
        assert execution.progress is not None
        assert execution.progress.current == 1
        meta = on.meta(task_id)
        assert (meta["status"], type(meta["result"]).__name__) == ("FAILURE", "ProgressTimeout")
        for later in [on.send("jobs.plain", 3) for _ in range(5)]:
            assert on.ended(later).status is Status.COMPLETED


def test_one_that_speaks_is_not(on: Bench) -> None:
    """More than twice its time, with something new each quarter of a second."""
    assert on.ended(on.send("life.speaks", 18)).outputs == "all said"


def test_one_that_goes_on_is_struck_again(on: Bench) -> None:
    """A task that swallows it has as long again."""
    execution = on.ended(on.send("life.silent", "swallow"))
    assert execution.error is not None
    assert execution.error.message == "struck twice"


def test_celerys_own_limit_stays_its_own(on: Bench) -> None:
    """Both come by the same signal: the soft time limit of a watched task is told as what it is."""
    execution = on.ended(on.send("life.limited"))
    assert execution.error is not None
    assert execution.error.type == "SoftTimeLimitExceeded"
