"""Cancellations with real workers and a real Valkey: any process requests, the task confirms."""

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


def unread(on: Bench, name: str) -> list[str]:
    """Messages of a job that no test has read yet."""
    with redis.Redis.from_url(on.wire.url) as client:
        return [message.decode() for message in client.lrange(f"sent:{name}", 0, -1)]


def assert_cancelled(on: Bench, task_id: str) -> None:
    """The task ends as cancelled, for Celery's readers too."""
    execution = on.ended(task_id)
    assert (execution.status, execution.phase) == (Status.CANCELLED, Phase.CANCELLED)
    assert on.meta(task_id)["status"] == "REVOKED"


@pytest.mark.parametrize("pool", POOLS)
def test_running_task_ends_at_a_report_item_or_check(redis_url: str, pool: str) -> None:
    """In every pool. The report during its clean-up is its last progress."""
    with bench(redis_url, pool=pool, jobs=JOBS) as on:
        for name in ("cancel.update", "cancel.track", "cancel.check"):
            task_id = on.send(name)
            on.wire.receive("running")
            # It may have ended before the reply is made.
            assert headway.cancel(on.app, task_id).phase in (Phase.CANCELLING, Phase.CANCELLED)
            assert_cancelled(on, task_id)
            if name == "cancel.update":
                progress = on.execution(task_id).progress
                assert progress is not None
                assert (progress.current, progress.message) == (9, "cleaned up")
        later = on.send("jobs.plain", 1)
        assert on.ended(later).status is Status.COMPLETED, "the worker is not affected"


def test_celery_monitors_see_revoked(redis_url: str) -> None:
    """`celery.events.State` has REVOKED, like AsyncResult (celery-facts#cooperative-cancel)."""
    with bench(redis_url, jobs=JOBS) as on, on.app.connection_for_read() as connection:
        on.app.control.enable_events()
        state = State()
        receiver = on.app.events.Receiver(connection, handlers={"*": state.event})
        with receiver.consumer_context(wakeup=False) as (consumer, _, _):
            consumer.drain_events(timeout=60)  # a heartbeat: from now on no event is missed
            task_id = on.send("cancel.update")
            on.wire.receive("running")
            headway.cancel(on.app, task_id)
            assert_cancelled(on, task_id)

            def revoked() -> bool:
                consumer.drain_events(timeout=60)
                task = state.tasks.get(task_id)
                return task is not None and task.state == "REVOKED"

            until(revoked, what="the task-revoked event")


def test_task_that_finishes_first_is_completed(redis_url: str) -> None:
    """A task that never checks is cancelling until it completes. After that, a cancel raises."""
    with bench(redis_url, jobs=JOBS) as on:
        task_id = on.send("cancel.never_checks", "busy")
        on.wire.receive("busy")
        headway.cancel(on.app, task_id)
        assert on.execution(task_id).phase is Phase.CANCELLING
        on.wire.open("busy", "completed")
        execution = on.ended(task_id)
        assert (execution.status, execution.outputs) == (Status.COMPLETED, "completed")
        with pytest.raises(ExecutionConflict):
            headway.cancel(on.app, task_id)


def test_task_cancelled_without_a_worker_never_runs(redis_url: str) -> None:
    """A queued task is cancelling until a worker receives it, then cancelled. Its code does not run
    (celery-facts#cooperative-cancel).
    """
    settings = {"JOBS_BROKER": redis_url, "JOBS_BACKEND": redis_url}
    app = make_app(settings)
    task_id = str(app.send_task("cancel.never_checks", ["never"]).id)
    assert headway.cancel(app, task_id).phase is Phase.CANCELLING
    with Worker(f"tests.acceptance.apps.{JOBS}", env=settings, queues=["jobs"]) as worker:
        on = Bench(app, worker)
        assert on.execution(task_id).phase in (Phase.CANCELLING, Phase.CANCELLED)
        assert_cancelled(on, task_id)
        assert on.ended(on.send("jobs.plain", 1)).status is Status.COMPLETED
        assert unread(on, "never") == []
        on.store.close()
        app.close()


def test_prefetched_task_is_cancelled_in_the_worker(redis_url: str) -> None:
    """A busy worker already holds the task: it is cancelled there, and does not run."""
    with bench(redis_url, concurrency=1, jobs=JOBS) as on:
        first, second = (
            on.send("cancel.never_checks", "first"),
            on.send("cancel.never_checks", "second"),
        )
        on.wire.receive("first")
        headway.cancel(on.app, second)
        on.wire.open("first")
        assert_cancelled(on, second)
        assert on.ended(first).status is Status.COMPLETED
        assert on.ended(on.send("jobs.plain", 1)).status is Status.COMPLETED
        assert unread(on, "second") == []


def test_task_cancelled_between_attempts_never_runs_again(redis_url: str) -> None:
    """Cancelled between two attempts: the second one does not run."""
    with bench(redis_url, jobs=JOBS) as on:
        task_id = on.send("cancel.retry", 10)
        assert on.wire.receive("retry") == "0"
        until(lambda: on.execution(task_id).phase is Phase.RETRYING, what="the retry")
        headway.cancel(on.app, task_id)
        assert_cancelled(on, task_id)
        # Its message is not due yet: a job that is published now and due later runs after it.
        later = on.send("jobs.plain", 1, countdown=11)
        assert on.ended(later).status is Status.COMPLETED
        assert unread(on, "retry") == []
        assert on.execution(task_id).status is Status.CANCELLED


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_terminate_kills_the_task(redis_url: str, pool: str) -> None:
    """`terminate` ends a task that neither reports nor checks, in pools that support it. The worker
    continues.
    """
    with bench(redis_url, pool=pool, jobs=JOBS) as on:
        task_id = on.send("cancel.never_checks", "busy")
        on.wire.receive("busy")
        headway.cancel(on.app, task_id, terminate=True)
        assert_cancelled(on, task_id)
        assert on.ended(on.send("jobs.plain", 1)).status is Status.COMPLETED


def test_terminate_in_the_threads_pool_does_not_end_the_task(redis_url: str) -> None:
    """The `threads` pool cannot terminate: the task is cancelling, and then ends by itself."""
    with bench(redis_url, pool="threads", jobs=JOBS) as on:
        task_id = on.send("cancel.never_checks", "busy")
        on.wire.receive("busy")
        headway.cancel(on.app, task_id, terminate=True)
        on.wire.open("busy", "done")
        assert on.ended(task_id).status is Status.COMPLETED


def test_cancel_works_beside_a_sql_backend(redis_url: str, tmp_path: Path) -> None:
    """A running and a queued task, with results in SQL."""
    with bench(
        redis_url, f"db+sqlite:///{tmp_path}/results.sqlite", concurrency=1, jobs=JOBS
    ) as on:
        running, queued = on.send("cancel.update"), on.send("cancel.never_checks", "never")
        on.wire.receive("running")
        headway.cancel(on.app, queued)
        headway.cancel(on.app, running)
        assert_cancelled(on, running)
        assert_cancelled(on, queued)
        assert unread(on, "never") == []
