"""Scenarios: a server is down, with or without its data; a result expires; a clock is wrong."""

from __future__ import annotations

from dataclasses import replace

from headway.models import Phase, Status
from tests.faults.environment import Environment, stop
from tests.faults.observers import ANY, Expected
from tests.faults.scenarios import scenario

WELL = Expected(
    Status.COMPLETED,
    current=10,
    attempt=1,
    outputs="on",
    never=frozenset({Phase.FAILED, Phase.CANCELLED}),
)


@scenario(backend="own")
def backend_restarted(environment: Environment) -> None:
    """result backend restarted during a run, with its data: the jobs continue and complete"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(3):
        ids = [environment.send("held", expected=WELL) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
        environment.backend.stop()
        environment.backend.start()
        for task_id in ids:
            environment.release(task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario(backend="own")
def backend_crashed_at_the_end(environment: Environment) -> None:
    """result backend down while the jobs end: their ends are stored when it is back"""
    # The last report is retried for a limited time (contract, section 1), the end until it is
    # stored.
    expected = replace(WELL, current=ANY)
    worker = environment.start_worker(4)
    for _ in environment.rounds(3):
        ids = [environment.send("held", expected=expected) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
        environment.backend.crash()
        for task_id in ids:
            environment.release(task_id)
        worker.wait_log("Connection to Redis lost|Retry|Error")
        environment.backend.start()
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario(backend="own")
def backend_frozen_at_the_start(environment: Environment) -> None:
    """result backend suspended while the jobs start: start and retried start are one attempt"""
    worker = environment.start_worker(4)
    for number in environment.rounds(3):
        # First let each of the four children connect: a new connection waits for the server's
        # first reply.
        warm = [environment.send("held", expected=WELL) for _ in range(4)]
        for task_id in warm:
            environment.wait_until_held(task_id)
        for task_id in warm:
            environment.release(task_id)
        environment.wait_until_ended(*warm)
        queue = f"frozen-{number}"
        ids = [environment.send("held", expected=WELL, queue=queue) for _ in range(4)]
        environment.backend.pause()
        environment.app.control.add_consumer(queue, reply=True, timeout=20, limit=1)
        for task_id in ids:
            environment.wait_until_held(task_id)
        environment.backend.resume()
        for task_id in ids:
            environment.release(task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario(backend="own")
def backend_lost_its_data(environment: Environment) -> None:
    """result backend restarted without its data: running jobs reappear, ended ones are unknown"""
    worker = environment.start_worker(4)
    forgotten: list[str] = []
    for _ in environment.rounds(3):
        over = [
            environment.send("count", expected=Expected(None, forgotten=True)) for _ in range(2)
        ]
        environment.wait_until_ended(*over)
        expected = Expected(Status.COMPLETED, current=10, attempt=1, outputs="on", forgotten=True)
        ids = [environment.send("held", expected=expected) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
        forgotten += over
        environment.backend.stop()
        environment.backend.start(fresh=True)
        for task_id in ids:
            environment.release(task_id)
        environment.wait_until_ended(*ids)
        for task_id in ids:
            environment.check_now(task_id, expected)
        for task_id in forgotten:  # also those of earlier rounds
            environment.expect(task_id, Expected(None, forgotten=True))
        forgotten += ids
    stop(worker)


@scenario(broker="own")
def broker_restarted(environment: Environment) -> None:
    """broker restarted during a run: running jobs continue, queued jobs run later"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(2):
        ids = [environment.send("held", expected=WELL) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
        # In another queue: messages that a worker has prefetched are redelivered only after Redis'
        # visibility timeout, an hour later.
        well = Expected(Status.COMPLETED, current=10, outputs=10)
        waiting = [environment.send("count", expected=well, queue="later") for _ in range(4)]
        environment.broker.stop()
        environment.broker.start()
        for task_id in ids:
            environment.release(task_id)
        later = environment.start_worker(4, queues=["later"])
        environment.wait_until_ended(*ids, *waiting)
        stop(later)
    stop(worker)


@scenario(broker="own")
def broker_lost_its_data(environment: Environment) -> None:
    """broker restarted without its data: running jobs complete, lost ones stay queued"""
    worker = environment.start_worker(2)
    ids = [environment.send("held", expected=WELL) for _ in range(2)]
    for task_id in ids:
        environment.wait_until_held(task_id)
    queued = Expected(Status.PENDING, phase=Phase.QUEUED, attempt=0, celery="PENDING")
    for _ in environment.rounds(8):
        environment.send("count", queue="unused", expected=queued)
    environment.broker.stop()
    environment.broker.start(fresh=True)
    for task_id in ids:
        environment.release(task_id)
    environment.wait_until_ended(*ids)
    stop(worker)


@scenario(EXPIRES="1")
def result_expired(environment: Environment) -> None:
    """the result has expired: 410, and neither unknown nor queued"""
    worker = environment.start_worker(4)
    ids = [
        environment.send("count", expected=Expected(Status.COMPLETED, expired=True))
        for _ in environment.rounds(20)
    ]
    for task_id in ids:
        environment.wait_until_expired(task_id)
    stop(worker)


@scenario(EXPIRES="1")
def silent_until_expiry(environment: Environment) -> None:
    """no report for longer than results are kept: still running, with its last progress"""
    worker, other = environment.start_worker(4), environment.start_worker(1, queues=["witness"])
    for _ in environment.rounds(2):
        ids = [environment.send("held") for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
            environment.wait_for_progress(task_id, 5)
        # When this later result has expired, the last reports of `ids` are older than the expiry
        # (celery-facts#expiry-restarts-at-each-write).
        witness = environment.send(
            "count", queue="witness", expected=Expected(Status.COMPLETED, expired=True)
        )
        environment.wait_until_expired(witness)
        for task_id in ids:
            environment.check_now(
                task_id, Expected(Status.RUNNING, current=5, attempt=1, phase=Phase.RUNNING)
            )
            environment.expect(task_id, Expected(Status.COMPLETED, expired=True))
        for task_id in ids:
            environment.release(task_id)
        for task_id in ids:
            environment.wait_until_expired(task_id)
    stop(worker)
    stop(other)


@scenario(clock="own")
def clock_set_back(environment: Environment) -> None:
    """the worker's clock is set back by an hour during a run: reports and end are shown in order"""
    worker = environment.start_worker(4)
    for _ in environment.rounds(4):
        environment.clock.set(0.0)
        ids = [environment.send("held", expected=WELL) for _ in range(4)]
        for task_id in ids:
            environment.wait_until_held(task_id)
        environment.clock.set(-3600.0)
        for task_id in ids:
            environment.release(task_id)
        environment.wait_until_ended(*ids)
    stop(worker)


@scenario(clock="own")
def clock_behind(environment: Environment) -> None:
    """the worker's clock is a day behind the publisher's: retries and ends are shown in order"""
    environment.clock.set(-86400.0)
    worker = environment.start_worker(4)
    expected = Expected(Status.COMPLETED, attempt=2, current=10, outputs=2)
    environment.wait_until_ended(
        *[environment.send("retries", 2, 0, expected=expected) for _ in environment.rounds(16)]
    )
    stop(worker)
