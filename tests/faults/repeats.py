"""Scenarios: the same id runs again, or twice at the same time."""

from __future__ import annotations

import os
import signal

from headway.models import Phase, Status
from tests.faults.environment import STEP_TIMEOUT, Environment, stop
from tests.faults.observers import Expected
from tests.faults.scenarios import scenario
from tests.support.wait import until

AGAIN = Expected(
    Status.COMPLETED,
    attempt=2,
    current=10,
    outputs=10,
    never=frozenset({Phase.FAILED, Phase.CANCELLED}),
)


@scenario(broker="rabbitmq")
def redelivered(environment: Environment) -> None:
    """acks_late, and the whole worker is killed: another worker runs attempt 2"""
    for _ in environment.rounds(3):
        first = environment.start_worker(4)
        ids = [environment.send("ends_when_redelivered", expected=AGAIN) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
        environment.kill_process_tree(first)
        second = environment.start_worker(4)
        environment.wait_until_ended(*ids)
        stop(second)


@scenario(ACKS_LATE="1")
def child_lost_and_requeued(environment: Environment) -> None:
    """reject_on_worker_lost, and the child is killed: it runs again and is never failed"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(3):
        ids = [environment.send("ends_when_redelivered", expected=AGAIN) for _ in range(4)]
        for pid in [environment.wait_until_held(task_id) for task_id in ids]:
            os.kill(pid, signal.SIGKILL)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario()
def retry_with_countdown(environment: Environment) -> None:
    """retried with a countdown: retrying, then attempt 2 with its own progress"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(3):
        expected = Expected(
            Status.COMPLETED, attempt=2, current=10, outputs=2, once=frozenset({Phase.RETRYING})
        )
        environment.wait_until_ended(
            *[environment.send("retries", 2, 3.0, expected=expected) for _ in range(8)]
        )
    stop(worker)


@scenario(INTERVAL="0.001")
def retry_at_once(environment: Environment) -> None:
    """retried five times without a pause: no late RETRY hides the next attempt"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(3):
        expected = Expected(Status.COMPLETED, attempt=5, current=10, outputs=5)
        environment.wait_until_ended(
            *[environment.send("retries", 5, 0, expected=expected) for _ in range(10)]
        )
    stop(worker)


@scenario(INTERVAL="0.001", TRACK_STARTED="0")
def retry_untracked(environment: Environment) -> None:
    """retry_at_once with task_track_started off, which is Celery's default"""
    retry_at_once(environment)


@scenario()
def retry_until_failed(environment: Environment) -> None:
    """retried until Celery gives up: failed at attempt 3, with that attempt's progress"""
    worker = environment.start_worker(4)
    expected = Expected(
        Status.FAILED, attempt=3, current=5, error="ValueError", never=frozenset({Phase.SUCCEEDED})
    )
    environment.wait_until_ended(
        *[environment.send("gives_up", expected=expected) for _ in environment.rounds(24)]
    )
    stop(worker)


@scenario()
def two_workers_newer_ends_last(environment: Environment) -> None:
    """two workers run one id, the older run ends first: only the newer one is shown"""
    _run_twice(environment, first="old", then="new")


@scenario()
def two_workers_newer_ends_first(environment: Environment) -> None:
    """two workers run one id, the newer run ends first: later writes of the older are refused"""
    _run_twice(environment, first="new", then="old")


@scenario()
def two_workers_newer_fails(environment: Environment) -> None:
    """two workers run one id, the newer run fails, the older succeeds later: failed"""
    _run_twice(environment, first="new", then="old", fails=True)


@scenario()
def one_worker_older_lost(environment: Environment) -> None:
    """one worker runs one id twice, the older run's child is killed: the newer one continues"""
    expected = Expected(
        Status.COMPLETED,
        attempt=2,
        current=10,
        outputs="new",
        never=frozenset({Phase.FAILED, Phase.CANCELLED}),
    )
    worker = environment.start_worker(4)
    for number in environment.rounds(6):
        task_id = environment.send("duplicate", "old", expected=expected)
        child = environment.wait_until_held(f"{task_id}-old")
        environment.send("duplicate", "new", task_id=task_id)
        environment.wait_until_held(f"{task_id}-new")
        os.kill(child, signal.SIGKILL)
        lost = number + 1  # the main process logs each loss after it has stored the FAILURE
        until(
            lambda lost=lost: worker.log().count("raised error: WorkerLostError") >= lost,
            within=STEP_TIMEOUT,
            what="the lost child to be logged",
        )
        environment.release(f"{task_id}-new")
        environment.wait_until_ended(task_id)
    stop(worker)


def _run_twice(environment: Environment, *, first: str, then: str, fails: bool = False) -> None:
    expected = Expected(Status.COMPLETED, attempt=2, current=10, outputs="new")
    if fails:
        expected = Expected(
            Status.FAILED,
            attempt=2,
            current=10,
            error="ValueError",
            never=frozenset({Phase.SUCCEEDED}),
        )
    workers = {run: environment.start_worker(6, queues=[run]) for run in ("old", "new")}
    for _ in environment.rounds(3):
        ids = []
        for _ in range(4):
            task_id = environment.send("duplicate", "old", expected=expected, queue="old")
            environment.wait_until_held(f"{task_id}-old")
            environment.send("duplicate", "new", fails, task_id=task_id, queue="new")
            environment.wait_until_held(f"{task_id}-new")
            ids.append(task_id)
        for run in (first, then):
            for task_id in ids:
                environment.release(f"{task_id}-{run}")
            # More jobs than processes: when all have ended, each process has stored its run's end.
            well = Expected(Status.COMPLETED, current=10, outputs=10)
            environment.wait_until_ended(
                *[environment.send("count", expected=well, queue=run) for _ in range(12)]
            )
        environment.wait_until_ended(*ids)
    for worker in workers.values():
        stop(worker)
