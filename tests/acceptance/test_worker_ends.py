"""How an attempt ends, with a real worker and a real Valkey."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headway.models import Phase, Status
from tests.acceptance.apps.worker_bench import Bench, bench
from tests.support.wait import until

POOLS = ["prefork", "threads", "gevent", "solo"]


@pytest.fixture
def on(redis_url: str) -> Iterator[Bench]:
    """A prefork worker."""
    with bench(redis_url, concurrency=4) as made:
        yield made


def wait_for_late_writes(on: Bench, task_id: str) -> None:
    """Wait until the worker has handled everything that the task left: a later job of each child
    has ended.
    """
    for later in [on.send("jobs.plain", 1) for _ in range(8)]:
        on.ended(later)
    assert on.record(task_id)


@pytest.mark.parametrize("pool", POOLS)
def test_failed_task_keeps_its_last_progress(redis_url: str, pool: str) -> None:
    """A task that fails at 30 % is shown as failed at 30 %, with the error. Celery's readers get
    the exception.
    """
    with bench(redis_url, pool=pool) as on:
        task_id = on.send("jobs.fails")
        execution = on.ended(task_id)
        assert (execution.status, execution.phase) == (Status.FAILED, Phase.FAILED)
        assert execution.progress is not None
        assert (execution.progress.percentage, execution.progress.message) == (
            30.0,
            "before the error",
        )
        assert execution.error is not None
        assert (execution.error.type, execution.error.message) == ("ValueError", "three of ten")
        with pytest.raises(ValueError, match="three of ten"):
            on.app.AsyncResult(task_id).get(timeout=60)


def test_updates_in_finally_after_terminate_stay_revoked(on: Bench) -> None:
    """A terminated task reports a thousand times in its `finally`. It stays REVOKED, for Celery's
    readers too (celery-facts#progress-in-finally-undoes-revoked).
    """
    for _ in range(4):
        task_id = on.send("jobs.terminated")
        on.wire.receive("terminated")
        on.app.control.revoke(task_id, terminate=True)
        on.ended(task_id)
        wait_for_late_writes(on, task_id)
        assert on.execution(task_id).status is Status.CANCELLED
        assert on.meta(task_id)["status"] == "REVOKED"


def test_hard_time_limit_is_not_undone_by_a_late_report(redis_url: str) -> None:
    """The worker's main process stores FAILURE and then kills the child. A report in flight does
    not undo the end (celery-facts#hard-limit-races-with-progress,
    celery-facts#guard-stops-wrong-ends).
    """
    with bench(redis_url, concurrency=4, INTERVAL="0.001") as on:
        ids = [on.send("jobs.hard_limit" if n % 2 else "jobs.hard_limit_by_hand") for n in range(8)]
        for task_id in ids:
            on.ended(task_id)
        for task_id in ids:
            wait_for_late_writes(on, task_id)
            assert on.execution(task_id).status is Status.FAILED
            assert on.meta(task_id)["status"] == "FAILURE"


@pytest.mark.parametrize("track_started", ["1", "0"])
def test_retry_is_attempt_two(redis_url: str, track_started: str) -> None:
    """The second run reports as attempt 2. The late RETRY of the first does not end it
    (celery-facts#celery-undoes-its-own-ends).
    """
    with bench(redis_url, TRACK_STARTED=track_started) as on:
        task_id = on.send("jobs.retries")

        def second() -> bool:
            now = on.execution(task_id)
            return now.progress is not None and now.progress.message == "attempt 2"

        until(second, what="attempt 2")
        assert on.execution(task_id).status is Status.RUNNING
        on.wire.open("retries")
        execution = on.ended(task_id)
        assert (execution.status, execution.attempt, execution.outputs) == (Status.COMPLETED, 2, 2)
        assert on.app.AsyncResult(task_id).get(timeout=60) == 2


@pytest.mark.parametrize("pool", POOLS)
def test_ignored_results_have_an_end(redis_url: str, pool: str) -> None:
    """With `ignore_result`, Celery leaves PROGRESS for ever
    (celery-facts#ignored-results-have-no-end). Headway stores an end, for Celery's readers too.
    """
    with bench(redis_url, pool=pool) as on:
        # In the message too: send_task of Celery 5.6.3 does not use the task's option.
        well, badly = (
            on.send("jobs.quiet", True, how, ignore_result=True) for how in ("well", "badly")
        )
        silent, silent_badly = (
            on.send("jobs.quiet", False, how, ignore_result=True) for how in ("well", "badly")
        )
        assert on.ended(well).status is Status.COMPLETED
        assert on.ended(well).progress is not None
        assert on.meta(well)["status"] == "SUCCESS"
        failed = on.ended(badly)
        assert failed.status is Status.FAILED
        assert failed.error is not None
        assert failed.error.message == "quietly"
        assert on.meta(badly)["status"] == "FAILURE"
        assert on.ended(silent).status is Status.COMPLETED
        assert on.ended(silent_badly).status is Status.FAILED
        assert on.meta(silent)["status"] == "PENDING", "neither a report nor a result is stored"


@pytest.mark.parametrize("pool", POOLS)
def test_ignore_reject_and_exit_have_an_end(redis_url: str, pool: str) -> None:
    """`raise Ignore` completes. A rejected task and one that calls `sys.exit` have failed
    (celery-facts#ignored-results-have-no-end, celery-facts#where-an-attempt-ends,
    celery-facts#postrun-knows-unstored-ends).
    """
    with bench(redis_url, pool=pool, concurrency=1 if pool == "solo" else 2) as on:
        ignored, rejected = on.send("jobs.ignores"), on.send("jobs.rejects")
        assert on.ended(ignored).status is Status.COMPLETED
        assert on.meta(ignored)["status"] == "IGNORED"
        assert on.ended(rejected).status is Status.FAILED
        assert until(lambda: on.meta(rejected)["status"] == "FAILURE")
        task_id = on.send("jobs.exits")
        exited = on.ended(task_id)
        assert exited.status is Status.FAILED
        assert exited.progress is not None
        assert exited.progress.message == "leaving"
        assert on.meta(task_id)["status"] == "FAILURE"


def test_replaced_task_continues_as_the_other_task(on: Bench) -> None:
    """`Task.replace` raises Ignore, but the execution continues under the same id and ends with the
    other task.
    """
    task_id = on.send("jobs.replaces")
    on.wire.receive("replaced")
    assert on.execution(task_id).status is Status.RUNNING
    on.wire.open("replaced", "from the other")
    execution = on.ended(task_id)
    assert (execution.status, execution.outputs, execution.attempt) == (
        Status.COMPLETED,
        "from the other",
        2,
    )
    wait_for_late_writes(on, task_id)
    assert on.execution(task_id).status is Status.COMPLETED


def test_task_of_a_killed_child_fails(on: Bench) -> None:
    """A killed pool process ends in WorkerLostError, with the last report."""
    task_id = on.send("jobs.killed")
    execution = on.ended(task_id)
    assert execution.status is Status.FAILED
    assert execution.error is not None
    assert execution.error.type == "WorkerLostError"
    assert execution.progress is not None
    assert execution.progress.message == "about to die"


def test_soft_time_limit_during_a_write_reaches_the_task(on: Bench) -> None:
    """A soft time limit during the write of a report is not caught as a storage error."""
    execution = on.ended(on.send("jobs.soft_limit"))
    assert execution.status is Status.FAILED
    assert execution.error is not None
    assert execution.error.type == "SoftTimeLimitExceeded"
