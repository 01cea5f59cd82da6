"""Scenarios: a time limit is reached.

Celery stores a hard time limit's end while the job still writes progress
(celery-facts#hard-limit-races-with-progress).
"""

from __future__ import annotations

from headway.models import Phase, Status
from tests.faults.environment import Environment, stop
from tests.faults.observers import Expected
from tests.faults.scenarios import scenario

TOO_LONG = Expected(
    Status.FAILED, attempt=1, error="TimeLimitExceeded", never=frozenset({Phase.SUCCEEDED})
)


@scenario(INTERVAL="0.001")
def hard_limit(environment: Environment) -> None:
    """hard time limit in a tight loop of progress.update: failed for good"""
    worker = environment.start_worker(6)
    for _ in environment.rounds(4):
        environment.wait_until_ended(
            *[environment.send("hard", expected=TOO_LONG) for _ in range(6)]
        )
    stop(worker)


@scenario()
def hard_limit_update_state(environment: Environment) -> None:
    """hard time limit in a tight loop of Celery's update_state: failed for good"""
    worker = environment.start_worker(6)
    for _ in environment.rounds(4):
        environment.wait_until_ended(
            *[environment.send("hard_update_state", expected=TOO_LONG) for _ in range(6)]
        )
    stop(worker)


@scenario(INTERVAL="0.001")
def soft_limit(environment: Environment) -> None:
    """soft time limit while reporting: completed if the job catches it, else failed"""
    worker = environment.start_worker(6)
    interrupted = Expected(Status.FAILED, error="SoftTimeLimitExceeded")
    catching: list[str] = []
    for _ in environment.rounds(3):
        some = [environment.send("soft", True) for _ in range(3)]
        catching += some
        environment.wait_until_ended(
            *some, *[environment.send("soft", False, expected=interrupted) for _ in range(3)]
        )
    stop(worker)
    # On a busy machine the limit may expire before the job reaches its own `try`.
    for task_id in catching:
        caught = environment.channel.was_notified(f"{task_id}-caught")
        environment.expect(
            task_id,
            Expected(Status.COMPLETED, attempt=1, outputs="in time") if caught else interrupted,
        )


@scenario()
def limit_after_terminate(environment: Environment) -> None:
    """terminated, and its time limit is reached later: it stays cancelled"""
    worker = environment.start_worker(6)
    for _ in environment.rounds(2):
        expected = Expected(
            Status.CANCELLED, current=5, attempt=1, never=frozenset({Phase.FAILED, Phase.SUCCEEDED})
        )
        ids = [environment.send("limited", expected=expected) for _ in range(6)]
        for task_id in ids:
            environment.wait_until_held(task_id)
            environment.wait_for_progress(task_id, 5)
            environment.revoke(worker, task_id, terminate=True)
        environment.wait_until_ended(*ids)
        # Timers expire in order: when a later timer has expired, those of `ids` have expired too.
        late = [environment.send("limited", expected=TOO_LONG) for _ in range(6)]
        environment.wait_until_ended(*late)
    stop(worker)
