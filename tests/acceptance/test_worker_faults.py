"""Workers during faults: an unavailable or slow result backend, and two apps in one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from headway.backends import store_for
from headway.models import Status
from tests.acceptance.apps.worker_bench import bench
from tests.support.processes import Worker
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

POOLS = ["prefork", "threads", "gevent", "solo"]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_backend_outage_does_not_delay_the_task(
    redis_url: str, own_valkey: ValkeyServer, pool: str, how: str
) -> None:
    """A task makes 100,000 reports during an outage; afterwards its last report and its result are
    stored.

    The interval is shorter than the outage, so that a write is tried in it.
    """
    with bench(redis_url, own_valkey.url, pool=pool, TIMEOUT="0.5", INTERVAL="0.001") as on:
        task_id = on.send("jobs.outage")
        assert on.wire.receive("outage") == "started"
        if how == "stopped":
            own_valkey.stop()
        else:
            own_valkey.pause()
        on.wire.open("outage")
        assert on.wire.receive("outage") == "continued"
        if how == "stopped":
            own_valkey.start()
        else:
            own_valkey.resume()
        on.wire.open("outage")
        until(
            lambda: (now := on.execution(task_id).progress) and now.message == "after",
            what="the last report",
        )
        on.wire.open("outage")
        execution = on.ended(task_id)
        assert (execution.status, execution.outputs) == (Status.COMPLETED, "done")
        assert execution.progress is not None
        assert execution.progress.message == "after"
        assert on.app.AsyncResult(task_id).get(timeout=RESPONSE_TIMEOUT) == "done"
        # If the server was slow for a moment before or after, that was another outage.
        log = on.worker.log()
        over = log.count("Progress can be stored again")
        over += log.count("The result backend is available again")
        assert 1 <= log.count("Progress cannot be stored") <= over + 1, (
            "an outage is logged once, not with each report"
        )


def test_task_starts_without_backend_and_stores_its_result_later(
    redis_url: str, own_valkey: ValkeyServer
) -> None:
    """A task starts although the backend is down. Celery retries its result until it is stored."""
    with bench(redis_url, own_valkey.url) as on:
        own_valkey.stop()
        # A publisher without a result backend. With one, publishing subscribes to the result, which
        # raises now (celery-facts#publishing-subscribes).
        with Celery(broker=redis_url, set_as_current=False) as bare:
            task_id = bare.send_task("jobs.outage", queue="jobs").id
        assert on.wire.receive("outage") == "started"
        on.wire.open("outage")
        assert on.wire.receive("outage") == "continued"
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


def test_publishing_works_without_the_backend(redis_url: str, own_valkey: ValkeyServer) -> None:
    """A store that is down costs a publisher at most one bounded wait. Every message is sent."""
    with bench(redis_url, own_valkey.url) as on:
        own_valkey.stop()
        for _ in range(47):
            on.send("jobs.hot", 3, ignore_result=True)
        # These end only after the backend is back.
        last = [on.send("jobs.gated", "last", ignore_result=True) for _ in range(3)]
        own_valkey.start()
        for _ in last:
            on.wire.open("last")
        for task_id in last:
            until(
                lambda task_id=task_id: on.store.read([task_id])[0].record,
                what=f"a record of {task_id} from its worker",
            )


def test_failing_update_state_is_logged_once_and_task_continues(redis_url: str) -> None:
    """An overridden `update_state` that raises is logged once, and the task continues."""
    with bench(redis_url) as on:
        task_id = on.send("jobs.broken_override")
        assert on.ended(task_id).outputs == "continued"
        assert on.worker.log().count("update_state always fails") == 1


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_sql_backend_has_the_same_ends_attempts_and_reports(
    redis_url: str, tmp_path: Path, pool: str
) -> None:
    """On SQLite the backend stores the results and the registry decides, with the same outcome."""
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
            # The registry has an end without a result at once. Celery's own record follows it.
            until(
                lambda name=name, stored=stored: on.meta(ids[name])["status"] == stored,
                what=f"{name} to be stored",
            )  # type: ignore[misc]
        task_id = on.send("jobs.retries")
        on.wire.open("retries")
        execution = on.ended(task_id)
        assert (execution.status, execution.attempt, execution.outputs) == (Status.COMPLETED, 2, 2)


def test_two_apps_in_one_process_use_their_own_backends(redis_url: str) -> None:
    """Each app's tasks, publications and reports go to its own backend, even if a task of one app
    calls a task of the other.
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
        other_id = first.AsyncResult(task_id).get(timeout=RESPONSE_TIMEOUT)
        assert second.AsyncResult(other_id).get(timeout=RESPONSE_TIMEOUT) == "second"
    stores = store_for(first), store_for(second)
    known_ids = (task_id, other_id)
    try:
        for store, known, unknown in zip(stores, known_ids, known_ids[::-1], strict=True):
            record = store.read([known])[0].record
            assert record is not None
            assert record.progress is not None
            assert record.created_at is not None
            assert store.read([unknown])[0].record is None
    finally:
        for app, store in zip((first, second), stores, strict=True):
            store.close()
            app.close()
