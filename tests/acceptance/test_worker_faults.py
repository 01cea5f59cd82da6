"""The worker side in trouble: a result backend that goes away, hangs or refuses, and two apps in
one process.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from headway.backends import store_for
from headway.models import Status
from tests.acceptance.apps.worker_bench import bench
from tests.support.processes import Worker
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

POOLS = ["prefork", "threads", "gevent", "solo"]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_a_backend_that_goes_away_does_not_hold_up_the_task(
    redis_url: str, own_valkey: ValkeyServer, pool: str, how: str
) -> None:
    """The backend goes away mid-run: 100,000 reports go on, and when it is back the last one and
    the result are there.
    """
    with bench(redis_url, own_valkey.url, pool=pool, TIMEOUT="0.5") as on:
        task_id = on.send("jobs.outage")
        assert on.wire.heard("outage") == "begun"
        if how == "stopped":
            own_valkey.stop()
        else:
            own_valkey.pause()
        on.wire.open("outage")
        assert on.wire.heard("outage") == "went on"
        if how == "stopped":
            own_valkey.start()
        else:
            own_valkey.resume()
        on.wire.open("outage")
        until(
            lambda: (now := on.look(task_id).progress) and now.message == "after",
            what="the last report",
        )
        on.wire.open("outage")
        execution = on.ended(task_id)
        assert (execution.status, execution.outputs) == (Status.COMPLETED, "done")
        assert execution.progress is not None
        assert execution.progress.message == "after"
        assert on.app.AsyncResult(task_id).get(timeout=60) == "done"
        # A server that was slow for a moment before or after was an outage of its own.
        log = on.worker.log()
        over = log.count("Progress can be stored again") + log.count("The result backend is back")
        assert log.count("Progress can't be stored") <= over + 1, (
            "an outage is logged once, not with each report"
        )


def test_a_backend_that_is_away_from_the_start(redis_url: str, own_valkey: ValkeyServer) -> None:
    """With the backend away the task begins all the same, and Celery's own patience delivers its
    result when it is back.
    """
    with bench(redis_url, own_valkey.url) as on:
        own_valkey.stop()
        # A publisher without a result backend: Celery's own, when it publishes, subscribes to the
        # result and fails.
        with Celery(broker=redis_url, set_as_current=False) as bare:
            task_id = bare.send_task("jobs.outage", queue="jobs").id
        assert on.wire.heard("outage") == "begun"
        on.wire.open("outage")
        assert on.wire.heard("outage") == "went on"
        on.wire.open("outage")
        on.wire.open("outage")
        on.worker.wait_log("Connection to Redis lost|Retrying|Error")
        own_valkey.start()
        execution = on.ended(task_id)
        assert (execution.status, execution.outputs, execution.attempt) == (
            Status.COMPLETED,
            "done",
            1,
        )


def test_publishing_goes_on_without_the_backend(redis_url: str, own_valkey: ValkeyServer) -> None:
    """A dead store costs a publisher one bounded wait at most; every message leaves."""
    with bench(redis_url, own_valkey.url) as on:
        own_valkey.stop()
        for _ in range(47):
            on.send("jobs.hot", 3, ignore_result=True)
        last = [
            on.send("jobs.gated", "last", ignore_result=True) for _ in range(3)
        ]  # they don't end before it is back
        own_valkey.start()
        for _ in last:
            on.wire.open("last")
        for task_id in last:
            until(
                lambda task_id=task_id: on.store.read([task_id])[0].record,
                what=f"{task_id} to be heard of from its worker",
            )


def test_a_report_that_cannot_be_stored_is_no_fault_of_the_task(redis_url: str) -> None:
    """An `update_state` of the task's own that raises is logged once, and the task goes on."""
    with bench(redis_url) as on:
        task_id = on.send("jobs.broken_override")
        assert on.ended(task_id).outputs == "went on"
        assert on.worker.log().count("an update_state that can't") == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_a_backend_that_keeps_its_results_itself(redis_url: str, tmp_path: Path, pool: str) -> None:
    """On SQLite the same jobs have the same ends, attempts and reports; the backend stores, the
    registry decides.
    """
    with bench(redis_url, f"db+sqlite:///{tmp_path}/results.sqlite", pool=pool) as on:
        expected = {
            "jobs.fails": ("failed", 3, "FAILURE"),
            "jobs.quiet": ("completed", 1, "SUCCESS"),
            "jobs.ignores": ("completed", 1, "IGNORED"),
        }
        ids = {name: on.send(name, ignore_result=name == "jobs.quiet") for name in expected}
        for name, (status, current, stored) in expected.items():
            execution = on.ended(ids[name])
            assert execution.progress is not None, name
            assert (execution.status, execution.progress.current, execution.attempt) == (
                status,
                current,
                1,
            ), name
            # An end without a result is told by the registry at once; Celery's own record follows
            # it.
            until(
                lambda name=name, stored=stored: on.meta(ids[name])["status"] == stored,
                what=f"{name} to be stored",
            )  # type: ignore[misc]
        task_id = on.send("jobs.retries")
        on.wire.open("retries")
        execution = on.ended(task_id)
        assert (execution.status, execution.attempt, execution.outputs) == (Status.COMPLETED, 2, 2)


def test_two_apps_in_one_process(redis_url: str) -> None:
    """Each app's tasks, publications and reports go to its own backend, also where one task calls
    the other app's.
    """
    from tests.acceptance.apps import worker_pair

    two = redis_url.rsplit("/", 1)[0] + "/0"
    env = {"PAIR_BROKER": redis_url, "PAIR_ONE": redis_url, "PAIR_TWO": two}
    first, second = worker_pair.make_apps(env)
    with (
        Worker("tests.acceptance.apps.worker_pair:first", env=env, queues=["first"]),
        Worker("tests.acceptance.apps.worker_pair:second", env=env, queues=["second"]),
    ):
        task_id = first.send_task("first.job").id
        other_id = first.AsyncResult(task_id).get(timeout=60)
        assert second.AsyncResult(other_id).get(timeout=60) == "second"
    mine, theirs = store_for(first), store_for(second)
    try:
        for store, known, unknown in ((mine, task_id, other_id), (theirs, other_id, task_id)):
            record = store.read([known])[0].record
            assert record is not None
            assert record.progress is not None
            assert record.created_at is not None
            assert store.read([unknown])[0].record is None
    finally:
        for app, store in ((first, mine), (second, theirs)):
            store.close()
            app.close()
