"""Scenarios: a process is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from headway.models import Phase, Status
from tests.faults.environment import Environment, stop
from tests.faults.observers import ANY, Expected
from tests.faults.scenarios import scenario

LOST = Expected(
    Status.FAILED,
    current=5,
    attempt=1,
    error="WorkerLostError",
    never=frozenset({Phase.SUCCEEDED, Phase.CANCELLED}),
)


@scenario()
def child_killed(environment: Environment) -> None:
    """SIGKILL to a waiting pool child: failed with WorkerLostError, last report kept"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(4):
        ids = [environment.send("held", expected=LOST) for _ in range(4)]
        pids = [environment.wait_until_held(task_id) for task_id in ids]
        for task_id in ids:
            environment.wait_for_progress(task_id, 5)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario(INTERVAL="0.001")
def child_killed_while_reporting(environment: Environment) -> None:
    """SIGKILL to a pool child that reports all the time: failed for good, WorkerLostError"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(4):
        ids = [
            environment.send(
                "busy", expected=Expected(Status.FAILED, attempt=1, error="WorkerLostError")
            )
            for _ in range(4)
        ]
        pids = [environment.wait_until_held(task_id) for task_id in ids]
        for task_id in ids:
            environment.wait_for_progress(task_id, 101)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        environment.wait_until_ended(*ids)
    stop(worker)


#: No process reports an end: it is shown as stalled, with its last progress.
STALLED = Expected(
    Status.RUNNING,
    phase=Phase.STALLED,
    current=5,
    attempt=1,
    once=frozenset({Phase.STALLED}),
    never=frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}),
)


def _hold(environment: Environment, expected: Expected, **options: str) -> list[str]:
    """Start jobs that report 5 and wait."""
    ids = [environment.send("held", expected=expected, **options) for _ in range(4)]
    for task_id in ids:
        environment.wait_until_held(task_id)
        environment.wait_for_progress(task_id, 5)
    return ids


@scenario()
def worker_killed(environment: Environment) -> None:
    """SIGKILL to a worker's main process: its jobs stall, silent jobs of other workers don't"""
    killed, healthy = environment.start_worker(4, queues=["killed"]), environment.start_worker(4)
    lost = _hold(environment, STALLED, queue="killed")
    silent = _hold(environment, Expected(Status.COMPLETED, current=10, attempt=1, outputs="on"))
    killed.kill(signal.SIGKILL)
    killed.wait()
    for task_id in lost:
        environment.wait_until_observed(task_id, Phase.STALLED)
    for task_id in silent:
        environment.release(task_id)
    environment.wait_until_ended(*silent)
    stop(healthy)


@scenario()
def machine_lost(environment: Environment) -> None:
    """SIGKILL to a worker and its children while they report: stalled, with no end"""
    worker = environment.start_worker(6)
    ids = [environment.send("busy", expected=replace(STALLED, current=ANY)) for _ in range(6)]
    for task_id in ids:
        environment.wait_for_progress(task_id, 101)
    environment.kill_process_tree(worker)
    for task_id in ids:
        environment.wait_until_observed(task_id, Phase.STALLED)


@scenario()
def cold_shutdown(environment: Environment) -> None:
    """a worker shuts down at once (SIGQUIT) and requeues nothing: stalled, with no end"""
    worker = environment.start_worker(4)
    ids = _hold(environment, STALLED)
    worker.kill(signal.SIGQUIT)
    worker.wait()
    for task_id in ids:
        environment.wait_until_observed(task_id, Phase.STALLED)


@scenario()
def worker_frozen(environment: Environment) -> None:
    """a worker is suspended until its jobs stall, and resumed: running again, and completed"""
    worker = environment.start_worker(4)
    ids = _hold(
        environment,
        Expected(
            Status.COMPLETED, current=10, attempt=1, outputs="on", once=frozenset({Phase.STALLED})
        ),
    )
    os.killpg(worker.pid, signal.SIGSTOP)
    for task_id in ids:
        environment.wait_until_observed(task_id, Phase.STALLED)
    os.killpg(worker.pid, signal.SIGCONT)
    for task_id in ids:
        environment.wait_for_phase(task_id, Phase.RUNNING)
        environment.release(task_id)
    environment.wait_until_ended(*ids)
    stop(worker)
