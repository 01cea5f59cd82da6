"""Scenarios: a cancellation is requested through Headway."""

from __future__ import annotations

from dataclasses import replace

import headway
from headway.errors import ExecutionConflict
from headway.models import Phase, Status
from tests.faults.environment import Environment, stop
from tests.faults.observers import ANY, Expected
from tests.faults.scenarios import scenario

CANCELLED = Expected(Status.CANCELLED, attempt=1, never=frozenset({Phase.SUCCEEDED, Phase.FAILED}))
#: Its code never ran. A worker may have started an attempt to end it at once.
NEVER_RAN = replace(CANCELLED, attempt=ANY, current=None)


@scenario(INTERVAL="0.01")
def cancel_running(environment: Environment) -> None:
    """cancelled while it reports all the time: the job ends itself, cancelled"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(4):
        ids = [environment.send("busy", expected=CANCELLED) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
            headway.cancel(environment.app, task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario()
def cancel_held(environment: Environment) -> None:
    """cancelled while it waits, then it reports: cancelling until the report, then cancelled"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(4):
        ids = [
            environment.send(
                "held_then_busy", expected=replace(CANCELLED, once=frozenset({Phase.CANCELLING}))
            )
            for _ in range(4)
        ]
        for task_id in ids:
            environment.wait_until_held(task_id)
            headway.cancel(environment.app, task_id)
            environment.wait_for_phase(task_id, Phase.CANCELLING)
            environment.wait_until_observed(task_id, Phase.CANCELLING)
            environment.release(task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario()
def cancel_too_late(environment: Environment) -> None:
    """cancelled while running, but it never checks: cancelling, then completed"""
    worker = environment.start_worker(4)
    expected = Expected(
        Status.COMPLETED,
        current=5,
        attempt=1,
        outputs="on",
        never=frozenset({Phase.CANCELLED, Phase.FAILED}),
    )
    for _ in environment.rounds(4):
        ids = [environment.send("ignores_cancel", expected=expected) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
            headway.cancel(environment.app, task_id)
            environment.wait_for_phase(task_id, Phase.CANCELLING)
            environment.release(task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario(INTERVAL="0.001")
def cancel_during_end(environment: Environment) -> None:
    """cancelled just as it ends: completed if its code ran to the end, else cancelled"""
    worker = environment.start_worker(4)
    ids = []
    for _ in environment.rounds(60):
        task_id = environment.send("notifies_end")
        ids.append(task_id)
        environment.wait_until_held(task_id)
        try:
            headway.cancel(environment.app, task_id)
        except ExecutionConflict:
            continue  # it had ended
    environment.wait_until_ended(*ids)
    stop(worker)
    for task_id in ids:
        ran = environment.channel.was_notified(f"{task_id}-done")
        environment.expect(
            task_id,
            Expected(Status.COMPLETED, attempt=1, outputs="done", current=2000)
            if ran
            else CANCELLED,
        )


@scenario(PREFETCH="8")
def cancel_queued(environment: Environment) -> None:
    """cancelled while queued, with a busy worker: cancelled, its code never runs"""
    worker = environment.start_worker(1)
    blocker = environment.send("held", expected=Expected(Status.COMPLETED, current=10, attempt=1))
    environment.wait_until_held(blocker)
    ids = [environment.send("count", expected=NEVER_RAN) for _ in environment.rounds(20)]
    for task_id in ids:
        headway.cancel(environment.app, task_id)
    environment.release(blocker)
    environment.wait_until_ended(*ids, blocker)
    stop(worker)


@scenario()
def cancel_queued_without_worker(environment: Environment) -> None:
    """cancelled while queued, without a worker: cancelling, then cancelled by the first worker"""
    for _ in environment.rounds(3):
        ids = [
            environment.send(
                "count", expected=replace(NEVER_RAN, once=frozenset({Phase.CANCELLING}))
            )
            for _ in range(5)
        ]
        for task_id in ids:
            headway.cancel(environment.app, task_id)
            environment.wait_until_observed(task_id, Phase.CANCELLING)
        worker = environment.start_worker(4)
        environment.wait_until_ended(*ids)
        stop(worker)


@scenario()
def cancel_retrying(environment: Environment) -> None:
    """cancelled while waiting for a retry: cancelled, its code does not run again"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(2):
        ids = [
            environment.send("retries", 2, 2.0, expected=replace(CANCELLED, current=10))
            for _ in range(6)
        ]
        for task_id in ids:
            environment.wait_for_phase(task_id, Phase.RETRYING)
            headway.cancel(environment.app, task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario()
def cancel_retrying_without_worker(environment: Environment) -> None:
    """cancelled while waiting for a retry, without a worker: cancelled at once"""
    for _ in environment.rounds(2):
        worker = environment.start_worker(4)
        ids = [
            environment.send("retries", 2, 8.0, expected=replace(CANCELLED, current=10))
            for _ in range(4)
        ]
        for task_id in ids:
            environment.wait_for_phase(task_id, Phase.RETRYING)
        stop(worker)
        for task_id in ids:
            headway.cancel(environment.app, task_id)
        environment.wait_until_ended(*ids)
        worker = environment.start_worker(4)
        # These are sent later: when they have ended, the worker has handled the messages of `ids`.
        environment.wait_until_ended(
            *[
                environment.send(
                    "count", countdown=10, expected=Expected(Status.COMPLETED, current=10)
                )
                for _ in range(4)
            ]
        )
        stop(worker)


@scenario()
def cancel_forced(environment: Environment) -> None:
    """cancelled with terminate=True while it never checks: cancelled"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(4):
        ids = [
            environment.send("ignores_cancel", expected=replace(CANCELLED, current=5))
            for _ in range(4)
        ]
        for task_id in ids:
            environment.wait_until_held(task_id)
            environment.wait_for_progress(task_id, 5)
            headway.cancel(environment.app, task_id, terminate=True)
        environment.wait_until_ended(*ids)
    stop(worker)
