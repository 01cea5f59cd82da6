"""Heartbeats, attempts and progress timeouts, with real workers and a real Valkey."""

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
#: Heartbeats that expire within a second.
QUICK = {"jobs": "heartbeat_jobs", "HEARTBEAT_INTERVAL": "0.2", "HEARTBEAT_TTL": "1"}
#: Heartbeats that outlast any pause of a busy machine, for tests in which nothing may stall.
STEADY = QUICK | {"HEARTBEAT_TTL": "60"}


@pytest.fixture(scope="module")
def on(valkey: Any) -> Iterator[Bench]:
    """A prefork worker, for all tests here that do not stop it."""
    valkey.command("FLUSHDB", db=0)
    with bench(f"{valkey.url.rsplit('/', 1)[0]}/0", jobs="heartbeat_jobs") as made:
        made.worker.keep()
        yield made


def send_waiting(on: Bench, name: str = "waits") -> str:
    """Send a job that has reported, waits for the test, and is alive."""
    task_id = on.send("jobs.gated", name)
    on.wire.receive(name)
    until(lambda: on.store.read([task_id])[0].alive, what="a heartbeat")
    return task_id


class Hold:
    """Keeps ``heartbeat.hog`` in its C code until `release`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)

    def release(self) -> None:
        pipe = os.open(self.path, os.O_RDWR)
        os.write(pipe, b"x")
        os.close(pipe)


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "hold")


@pytest.mark.parametrize("pool", POOLS)
def test_stopped_worker_is_stalled_until_it_continues(redis_url: str, pool: str) -> None:
    """The task of a stopped worker is shown as stalled and running. When the worker continues, it
    is running, and completes.
    """
    with bench(redis_url, pool=pool, **QUICK) as on:
        task_id = send_waiting(on)
        os.killpg(on.worker.pid, signal.SIGSTOP)
        until(lambda: on.execution(task_id).phase is Phase.STALLED)
        stalled = on.execution(task_id)
        assert stalled.status is Status.RUNNING
        assert stalled.progress is not None
        assert stalled.progress.message == "waiting", "its progress stays"
        os.killpg(on.worker.pid, signal.SIGCONT)
        until(lambda: on.execution(task_id).phase is Phase.RUNNING)
        on.wire.open("waits")
        assert on.ended(task_id).status is Status.COMPLETED


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_task_of_a_killed_worker_is_stalled(redis_url: str, pool: str) -> None:
    """A killed worker writes nothing, and its tasks are still shown as stalled."""
    with bench(redis_url, pool=pool, **QUICK) as on:
        task_id = send_waiting(on)
        os.killpg(on.worker.pid, signal.SIGKILL)
        until(lambda: on.execution(task_id).phase is Phase.STALLED)


def test_a_killed_worker_is_stalled_within_25_seconds(redis_url: str) -> None:
    """The documented bound, with default settings: a heartbeat every five seconds, each valid for
    twenty.
    """
    with bench(redis_url, jobs="heartbeat_jobs") as on:
        task_id = send_waiting(on)
        os.killpg(on.worker.pid, signal.SIGKILL)
        assert on.execution(task_id).phase is Phase.RUNNING
        until(lambda: on.execution(task_id).phase is Phase.STALLED, within=25)


def assert_heartbeats(on: Bench, task_id: str) -> None:
    """Three heartbeats arrive, and meanwhile the task is running. The task itself sends none while
    it is held.
    """
    expiries = set()

    def three() -> bool:
        assert on.execution(task_id).phase is Phase.RUNNING
        expiries.add(server.pexpiretime(on.store._keys(task_id)[0] + b":life"))  # type: ignore[attr-defined]
        return len(expiries) > 3

    with redis.Redis.from_url(on.app.conf.result_backend) as server:
        until(three, what="three heartbeats")


def test_child_in_c_code_does_not_stall(redis_url: str, hold: Hold) -> None:
    """C code that blocks all threads of the child does not matter: the main process sends the
    heartbeats (celery-facts#heartbeats-under-each-pool).
    """
    with bench(redis_url, **STEADY) as on:
        task_id = on.send("heartbeat.hog", hold.path)
        on.wire.receive("hog")
        assert_heartbeats(on, task_id)
        hold.release()
        assert on.ended(task_id).status is Status.COMPLETED


def test_c_code_in_the_threads_pool_stalls_until_it_returns(redis_url: str, hold: Hold) -> None:
    """If tasks share the process, none of them makes progress meanwhile: they are stalled, and
    running again afterwards.
    """
    with bench(redis_url, pool="threads", **QUICK) as on:
        waits, hog = send_waiting(on), on.send("heartbeat.hog", hold.path)
        on.wire.receive("hog")
        until(lambda: on.execution(hog).phase is Phase.STALLED)
        until(lambda: on.execution(waits).phase is Phase.STALLED)
        hold.release()
        assert on.ended(hog).outputs == "returned"
        until(lambda: on.execution(waits).phase is Phase.RUNNING)
        on.wire.open("waits")
        assert on.ended(waits).status is Status.COMPLETED


def test_heartbeats_continue_without_the_broker(
    redis_url: str, own_valkey: Any, hold: Hold
) -> None:
    """Tasks continue without the broker, and so do their heartbeats: they do not depend on the
    consumer.
    """
    with bench(own_valkey.url, redis_url, **STEADY) as on:
        task_id = on.send("heartbeat.hog", hold.path)
        on.wire.receive("hog")
        own_valkey.stop()
        on.worker.wait_log("Connection to broker lost")
        assert_heartbeats(on, task_id)
        hold.release()
        assert on.ended(task_id).status is Status.COMPLETED
        own_valkey.start()


def test_heartbeats_continue_during_a_warm_shutdown(redis_url: str, hold: Hold) -> None:
    """A stopping worker waits for its tasks, and sends heartbeats for them until then."""
    with bench(redis_url, **STEADY) as on:
        task_id = on.send("heartbeat.hog", hold.path)
        on.wire.receive("hog")
        on.worker.kill(signal.SIGTERM)
        on.worker.wait_log("Warm shutdown")
        assert_heartbeats(on, task_id)
        hold.release()
        assert on.ended(task_id).status is Status.COMPLETED


def test_heartbeats_work_beside_a_sql_backend(redis_url: str, tmp_path: Any) -> None:
    """Stalled and running again, by timestamps."""
    with bench(redis_url, f"db+sqlite:///{tmp_path}/results.sqlite", **QUICK) as on:
        task_id = send_waiting(on)
        os.killpg(on.worker.pid, signal.SIGSTOP)
        until(lambda: on.execution(task_id).phase is Phase.STALLED)
        os.killpg(on.worker.pid, signal.SIGCONT)
        until(lambda: on.execution(task_id).phase is Phase.RUNNING)
        on.wire.open("waits")
        assert on.ended(task_id).status is Status.COMPLETED


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_retry_has_the_progress_of_the_previous_attempt(redis_url: str, pool: str) -> None:
    """`ctx.progress.previous` is None in the first attempt, and in each later one the complete last
    progress.
    """
    with bench(redis_url, pool=pool, jobs="heartbeat_jobs") as on:
        task_id = on.send("heartbeat.retries")
        execution = on.ended(task_id)
        seen = str([2, 10, "attempt 1", {"seen": "None"}])
        assert (execution.attempt, execution.outputs) == (3, [3, 20, "attempt 2", {"seen": seen}])
        assert execution.progress is not None
        assert execution.progress.current == 30


def test_redelivered_task_has_the_progress_of_the_previous_attempt(on: Bench) -> None:
    """Its process was killed, and the broker delivered the message again: attempt 2 under the same
    id.
    """
    execution = on.ended(on.send("heartbeat.redelivered"))
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
def test_silent_task_fails_and_the_worker_continues(redis_url: str, pool: str, way: str) -> None:
    """It fails with `headway.ProgressTimeout` and keeps its last progress. The worker runs further
    tasks.
    """
    with bench(redis_url, pool=pool, concurrency=1, jobs="heartbeat_jobs") as on:
        task_id = on.send("heartbeat.silent", way)
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


def test_task_that_reports_is_not_interrupted(on: Bench) -> None:
    """It runs more than twice the timeout, with a new report each quarter of a second."""
    assert on.ended(on.send("heartbeat.reports", 18)).outputs == "completed"


def test_task_that_swallows_the_timeout_is_interrupted_again(on: Bench) -> None:
    """A task that catches the exception has the same time again."""
    execution = on.ended(on.send("heartbeat.silent", "swallow"))
    assert execution.error is not None
    assert execution.error.message == "interrupted twice"


def test_soft_time_limit_of_a_watched_task_is_celerys(on: Bench) -> None:
    """Both use the same signal: the soft time limit raises SoftTimeLimitExceeded, not
    ProgressTimeout.
    """
    execution = on.ended(on.send("heartbeat.limited"))
    assert execution.error is not None
    assert execution.error.type == "SoftTimeLimitExceeded"
