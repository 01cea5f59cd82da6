"""Cancel on real workers and a real Valkey: any process requests it, only the run confirms it."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from celery.events.state import State

import headway
from headway.errors import ExecutionConflict
from headway.models import Phase, Status
from tests.acceptance.apps.worker_bench import Bench, bench
from tests.acceptance.apps.worker_jobs import make_app
from tests.support.processes import Worker
from tests.support.wait import until

POOLS = ["prefork", "threads", "gevent", "solo"]
JOBS = "cancel_jobs"


def told(on: Bench, name: str) -> list[str]:
    """Messages of jobs that no test has read yet."""
    with redis.Redis.from_url(on.wire.url) as client:
        return [word.decode() for word in client.lrange(f"told:{name}", 0, -1)]


def is_cancelled(on: Bench, task_id: str) -> None:
    """It ends as cancelled, for Celery's readers too."""
    execution = on.ended(task_id)
    assert (execution.status, execution.phase) == (Status.CANCELLED, Phase.CANCELLED)
    assert on.meta(task_id)["status"] == "REVOKED"


@pytest.mark.parametrize("pool", POOLS)
def test_a_running_task_ends_itself(redis_url: str, pool: str) -> None:
    """A report, an item and a look end it, whatever the pool; what it says while it tidies up is
    its last word.
    """
    with bench(redis_url, pool=pool, jobs=JOBS) as on:
        for name in ("cancel.update", "cancel.track", "cancel.look"):
            task_id = on.send(name)
            on.wire.heard("running")
            # It may have learned of the wish and ended before the answer is made.
            assert headway.cancel(on.app, task_id).phase in (Phase.CANCELLING, Phase.CANCELLED)
            is_cancelled(on, task_id)
            if name == "cancel.update":
                progress = on.look(task_id).progress
                assert progress is not None
                assert (progress.current, progress.message) == (9, "tidied")
        later = on.send("jobs.plain", 1)
        assert on.ended(later).status is Status.COMPLETED, "the worker isn't harmed"


def test_celerys_monitors_agree(redis_url: str) -> None:
    """`celery.events.State` says REVOKED, as AsyncResult does (celery-facts#cooperative-cancel)."""
    with bench(redis_url, jobs=JOBS) as on, on.app.connection_for_read() as connection:
        on.app.control.enable_events()
        state = State()
        receiver = on.app.events.Receiver(connection, handlers={"*": state.event})
        with receiver.consumer_context(wakeup=False) as (ear, _, _):
            ear.drain_events(timeout=60)  # a heartbeat: from now on nothing is missed
            task_id = on.send("cancel.update")
            on.wire.heard("running")
            headway.cancel(on.app, task_id)
            is_cancelled(on, task_id)

            def revoked() -> bool:
                ear.drain_events(timeout=60)
                task = state.tasks.get(task_id)
                return task is not None and task.state == "REVOKED"

            until(revoked, what="the event of the revoke")


def test_who_finishes_first_is_completed(redis_url: str) -> None:
    """A task that never looks is cancelling until it is done, and then completed; then it is too
    late to ask.
    """
    with bench(redis_url, jobs=JOBS) as on:
        task_id = on.send("cancel.deaf", "deaf")
        on.wire.heard("deaf")
        headway.cancel(on.app, task_id)
        assert on.look(task_id).phase is Phase.CANCELLING
        on.wire.open("deaf", "done all the same")
        execution = on.ended(task_id)
        assert (execution.status, execution.outputs) == (Status.COMPLETED, "done all the same")
        with pytest.raises(ExecutionConflict):
            headway.cancel(on.app, task_id)


def test_asked_while_no_worker_listens(redis_url: str) -> None:
    """A queued task is cancelling until a worker gets it, then cancelled; its code never ran
    (celery-facts#cooperative-cancel).
    """
    told_jobs = {"JOBS_BROKER": redis_url, "JOBS_BACKEND": redis_url}
    app = make_app(told_jobs)
    task_id = str(app.send_task("cancel.deaf", ["never"]).id)
    assert headway.cancel(app, task_id).phase is Phase.CANCELLING
    with Worker(f"tests.acceptance.apps.{JOBS}", env=told_jobs, queues=["jobs"]) as worker:
        on = Bench(app, worker)
        assert on.look(task_id).phase in (Phase.CANCELLING, Phase.CANCELLED)
        is_cancelled(on, task_id)
        assert on.ended(on.send("jobs.plain", 1)).status is Status.COMPLETED
        assert told(on, "never") == []
        on.store.close()
        app.close()


def test_one_that_waits_behind_another(redis_url: str) -> None:
    """A worker that is busy has the task already: it is cancelled there, and never runs."""
    with bench(redis_url, concurrency=1, jobs=JOBS) as on:
        first, second = on.send("cancel.deaf", "first"), on.send("cancel.deaf", "second")
        on.wire.heard("first")
        headway.cancel(on.app, second)
        on.wire.open("first")
        is_cancelled(on, second)
        assert on.ended(first).status is Status.COMPLETED
        assert on.ended(on.send("jobs.plain", 1)).status is Status.COMPLETED
        assert told(on, "second") == []


def test_one_that_waits_for_its_retry(redis_url: str) -> None:
    """Asked for between two attempts: the second one never runs."""
    with bench(redis_url, jobs=JOBS) as on:
        task_id = on.send("cancel.retry", 10)
        assert on.wire.heard("retry") == "0"
        until(lambda: on.look(task_id).phase is Phase.RETRYING, what="the retry")
        headway.cancel(on.app, task_id)
        is_cancelled(on, task_id)
        # Its message is still to come: a job that is published now, and due later, comes behind it.
        later = on.send("jobs.plain", 1, countdown=11)
        assert on.ended(later).status is Status.COMPLETED
        assert told(on, "retry") == []
        assert on.look(task_id).status is Status.CANCELLED


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_terminate_kills_the_task(redis_url: str, pool: str) -> None:
    """`terminate` ends what neither reports nor looks, where the pool can; the worker goes on."""
    with bench(redis_url, pool=pool, jobs=JOBS) as on:
        task_id = on.send("cancel.deaf", "deaf")
        on.wire.heard("deaf")
        headway.cancel(on.app, task_id, terminate=True)
        is_cancelled(on, task_id)
        assert on.ended(on.send("jobs.plain", 1)).status is Status.COMPLETED


def test_force_that_the_pool_has_not(redis_url: str) -> None:
    """`threads` can't terminate: the task is cancelling, and what it does in the end is what is
    told.
    """
    with bench(redis_url, pool="threads", jobs=JOBS) as on:
        task_id = on.send("cancel.deaf", "deaf")
        on.wire.heard("deaf")
        headway.cancel(on.app, task_id, terminate=True)
        on.wire.open("deaf", "done")
        assert on.ended(task_id).status is Status.COMPLETED


def test_beside_a_backend_of_its_own(redis_url: str, tmp_path: Path) -> None:
    """With results in SQL it is the same, running and queued."""
    with bench(
        redis_url, f"db+sqlite:///{tmp_path}/results.sqlite", concurrency=1, jobs=JOBS
    ) as on:
        running, queued = on.send("cancel.update"), on.send("cancel.deaf", "never")
        on.wire.heard("running")
        headway.cancel(on.app, queued)
        headway.cancel(on.app, running)
        is_cancelled(on, running)
        is_cancelled(on, queued)
        assert told(on, "never") == []
