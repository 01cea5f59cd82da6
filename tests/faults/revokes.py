"""Scenarios: Celery's own revoke.

A revoke does not stop a running task, and only listening workers receive it
(celery-facts#revoke-does-not-stop-a-running-task).
"""

from __future__ import annotations

from headway.models import Phase, Status
from tests.faults.environment import Environment, stop
from tests.faults.observers import Expected
from tests.faults.scenarios import scenario

REVOKED = Expected(
    Status.CANCELLED,
    attempt=0,
    current=None,
    never=frozenset({Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED}),
)
RAN = Expected(
    Status.COMPLETED, current=10, attempt=1, never=frozenset({Phase.CANCELLED, Phase.FAILED})
)


@scenario(INTERVAL="0.001")
def finally_after_terminate(environment: Environment) -> None:
    """a terminated job makes 1000 reports in its `finally`: cancelled for good"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(5):
        ids = [
            environment.send("stubborn", expected=Expected(Status.CANCELLED, attempt=1))
            for _ in range(4)
        ]
        for task_id in ids:
            environment.wait_until_held(task_id)
            environment.revoke(worker, task_id, terminate=True)
        environment.wait_until_ended(*ids)
        # Release jobs that are still alive: a SystemExit in a __del__ is swallowed. Their writes
        # are late (celery-facts#progress-in-finally-undoes-revoked).
        for task_id in ids:
            environment.release(task_id)
    stop(worker)


@scenario(PREFETCH="8")
def revoke_queued(environment: Environment) -> None:
    """revoked while queued, with a worker: cancelled, never started"""
    worker = environment.start_worker(1)
    blocker = environment.send("held", expected=RAN)
    environment.wait_until_held(blocker)
    ids = [environment.send("count", expected=REVOKED) for _ in environment.rounds(20)]
    for task_id in ids:
        environment.revoke(worker, task_id)
    environment.release(blocker)
    environment.wait_until_ended(*ids, blocker)
    stop(worker)


@scenario()
def revoke_queued_without_worker(environment: Environment) -> None:
    """revoked while queued, without a worker: the revoke is lost, it runs and completes"""
    for _ in environment.rounds(3):
        ids = [environment.send("count", expected=RAN) for _ in range(5)]
        for task_id in ids:
            environment.app.control.revoke(task_id)
        worker = environment.start_worker(4)
        environment.wait_until_ended(*ids)
        stop(worker)


@scenario()
def revoke_running(environment: Environment) -> None:
    """revoked while running, without terminate: it continues and completes"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(4):
        ids = [environment.send("held", expected=RAN) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
            environment.revoke(worker, task_id)
        for task_id in ids:
            environment.release(task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario()
def revoke_retrying(environment: Environment) -> None:
    """revoked while waiting for a retry, with a worker: cancelled, last report kept"""
    worker = environment.start_worker(4)
    expected = Expected(
        Status.CANCELLED,
        attempt=1,
        current=10,
        once=frozenset({Phase.RETRYING}),
        never=frozenset({Phase.SUCCEEDED}),
    )
    for _ in environment.rounds(2):
        ids = [environment.send("retries", 2, 3.0, expected=expected) for _ in range(6)]
        for task_id in ids:
            environment.wait_for_phase(task_id, Phase.RETRYING)
        for task_id in ids:
            environment.revoke(worker, task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario()
def revoke_retrying_without_worker(environment: Environment) -> None:
    """revoked while waiting for a retry, without a worker: the retry runs and completes"""
    expected = Expected(
        Status.COMPLETED, attempt=2, current=10, outputs=2, never=frozenset({Phase.CANCELLED})
    )
    for _ in environment.rounds(2):
        worker = environment.start_worker(4)
        ids = [environment.send("retries", 2, 1.0, expected=expected) for _ in range(4)]
        for task_id in ids:
            environment.wait_for_phase(task_id, Phase.RETRYING)
        stop(worker)
        for task_id in ids:
            environment.app.control.revoke(task_id)
        worker = environment.start_worker(4)
        environment.wait_until_ended(*ids)
        stop(worker)
