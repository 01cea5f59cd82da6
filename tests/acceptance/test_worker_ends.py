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
    """A prefork worker of the jobs."""
    with bench(redis_url, concurrency=4) as made:
        yield made


def quiet_down(on: Bench, task_id: str) -> None:
    """Wait until the worker is done with whatever the task left behind: a later job of each child
    has ended.
    """
    for later in [on.send("jobs.plain", 1) for _ in range(8)]:
        on.ended(later)
    assert on.record(task_id)


@pytest.mark.parametrize("pool", POOLS)
def test_a_failure_keeps_the_last_progress(redis_url: str, pool: str) -> None:
    """A job that fails at 30 % is failed, says 30 %, and says why; Celery's readers get the
    exception.
    """
    with bench(redis_url, pool=pool) as on:
        task_id = on.send("jobs.fails")
        execution = on.ended(task_id)
        assert (execution.status, execution.phase) == (Status.FAILED, Phase.FAILED)
        assert execution.progress is not None
        assert (execution.progress.percentage, execution.progress.message) == (
            30.0,
            "before the fall",
        )
        assert execution.error is not None
        assert (execution.error.type, execution.error.message) == ("ValueError", "three of ten")
        with pytest.raises(ValueError, match="three of ten"):
            on.app.AsyncResult(task_id).get(timeout=60)


def test_updates_in_finally_after_terminate_stay_revoked(on: Bench) -> None:
    """A terminated job reports a thousand times in its `finally:`; it stays REVOKED, for Celery's
    readers too (celery-facts#progress-in-finally-undoes-revoked).
    """
    for _ in range(4):
        task_id = on.send("jobs.terminated")
        on.wire.heard("terminated")
        on.app.control.revoke(task_id, terminate=True)
        on.ended(task_id)
        quiet_down(on, task_id)
        assert on.look(task_id).status is Status.CANCELLED
        assert on.meta(task_id)["status"] == "REVOKED"


def test_a_hard_time_limit_in_a_tight_loop_ends_for_good(redis_url: str) -> None:
    """The worker's main process writes FAILURE and then kills the child; no report in flight
    un-ends it (celery-facts#hard-limit-races-with-progress, celery-facts#guard-stops-wrong-ends).
    """
    with bench(redis_url, concurrency=4, INTERVAL="0.001") as on:
        ids = [on.send("jobs.hard_limit" if n % 2 else "jobs.hard_limit_by_hand") for n in range(8)]
        for task_id in ids:
            on.ended(task_id)
        for task_id in ids:
            quiet_down(on, task_id)
            assert on.look(task_id).status is Status.FAILED
            assert on.meta(task_id)["status"] == "FAILURE"


@pytest.mark.parametrize("track_started", ["1", "0"])
def test_a_retry_is_attempt_two(redis_url: str, track_started: str) -> None:
    """The second run is attempt 2 and reports as such; the first one's late RETRY doesn't end it
    (celery-facts#celery-undoes-its-own-ends).
    """
    with bench(redis_url, TRACK_STARTED=track_started) as on:
        task_id = on.send("jobs.retries")

        def second() -> bool:
            now = on.look(task_id)
            return now.progress is not None and now.progress.message == "attempt 2"

        until(second, what="attempt 2")
        assert on.look(task_id).status is Status.RUNNING
        on.wire.open("retries")
        execution = on.ended(task_id)
        assert (execution.status, execution.attempt, execution.outputs) == (Status.COMPLETED, 2, 2)
        assert on.app.AsyncResult(task_id).get(timeout=60) == 2


@pytest.mark.parametrize("pool", POOLS)
def test_ignored_results_have_an_end(redis_url: str, pool: str) -> None:
    """`ignore_result` leaves PROGRESS for ever in Celery
    (celery-facts#ignored-results-have-no-end): here it ends, for Celery's readers too.
    """
    with bench(redis_url, pool=pool) as on:
        # Said in the message too: Celery 5.6.3's send_task doesn't know the task's own word.
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
        assert on.meta(silent)["status"] == "PENDING", (
            "nothing is stored where nothing was and nothing was wanted"
        )


@pytest.mark.parametrize("pool", POOLS)
def test_ignore_reject_and_exit_have_an_end(redis_url: str, pool: str) -> None:
    """`raise Ignore` is an end without a fault; a rejected job and one that calls `sys.exit` have
    failed (celery-facts#ignored-results-have-no-end, celery-facts#where-an-attempt-ends,
    celery-facts#postrun-knows-unstored-ends).
    """
    with bench(redis_url, pool=pool, concurrency=1 if pool == "solo" else 2) as on:
        ignored, rejected = on.send("jobs.ignores"), on.send("jobs.rejects")
        assert on.ended(ignored).status is Status.COMPLETED
        assert on.meta(ignored)["status"] == "IGNORED"
        assert on.ended(rejected).status is Status.FAILED
        assert until(lambda: on.meta(rejected)["status"] == "FAILURE")
        left = on.send("jobs.exits")
        gone = on.ended(left)
        assert gone.status is Status.FAILED
        assert gone.progress is not None
        assert gone.progress.message == "leaving"
        assert on.meta(left)["status"] == "FAILURE"


def test_a_replaced_task_goes_on(on: Bench) -> None:
    """`Task.replace` ends with Ignore, but the execution goes on under the same id, and ends with
    the other one.
    """
    task_id = on.send("jobs.replaces")
    on.wire.heard("replaced")
    assert on.look(task_id).status is Status.RUNNING
    on.wire.open("replaced", "by the other")
    execution = on.ended(task_id)
    assert (execution.status, execution.outputs, execution.attempt) == (
        Status.COMPLETED,
        "by the other",
        2,
    )
    quiet_down(on, task_id)
    assert on.look(task_id).status is Status.COMPLETED


def test_a_killed_child_is_a_failure(on: Bench) -> None:
    """A pool process that is killed outright ends in WorkerLostError, and with the last report."""
    task_id = on.send("jobs.killed")
    execution = on.ended(task_id)
    assert execution.status is Status.FAILED
    assert execution.error is not None
    assert execution.error.type == "WorkerLostError"
    assert execution.progress is not None
    assert execution.progress.message == "about to go"


def test_a_soft_limit_reaches_the_task(on: Bench) -> None:
    """A soft time limit that strikes while a report is being written is the task's, not swallowed
    with storage faults.
    """
    execution = on.ended(on.send("jobs.soft_limit"))
    assert execution.status is Status.FAILED
    assert execution.error is not None
    assert execution.error.type == "SoftTimeLimitExceeded"
