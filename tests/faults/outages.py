"""Rows: a server goes away, with or without its data; a result expires; a clock is set back."""

from __future__ import annotations

from dataclasses import replace

from headway.models import Phase, Status
from tests.faults.environment import Room, stop
from tests.faults.scenarios import row
from tests.faults.watching import ANY, Truth

WELL = Truth(
    Status.COMPLETED,
    current=10,
    attempt=1,
    outputs="on",
    never=frozenset({Phase.FAILED, Phase.CANCELLED}),
)


@row(backend="own")
def backend_restarted(room: Room) -> None:
    """result backend restarted in mid-run, with its data: the jobs go on and end as they do"""
    worker = room.worker(4)
    for _ in room.times(3):
        ids = [room.send("held", truth=WELL) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
        room.backend.stop()
        room.backend.start()
        for task_id in ids:
            room.go_on(task_id)
        room.ended(*ids)
    stop(worker)


@row(backend="own")
def backend_crashed_at_the_end(room: Room) -> None:
    """result backend killed, and away while the jobs end: they are shown as they ended when it is
    back
    """
    # The last report is tried for a bounded time, and then given up (contract, section 1); the end
    # isn't.
    truth = replace(WELL, current=ANY)
    worker = room.worker(4)
    for _ in room.times(3):
        ids = [room.send("held", truth=truth) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
        room.backend.crash()
        for task_id in ids:
            room.go_on(task_id)
        worker.wait_log("Connection to Redis lost|Retry|Error")
        room.backend.start()
        room.ended(*ids)
    stop(worker)


@row(backend="own")
def backend_frozen_at_the_start(room: Room) -> None:
    """result backend frozen while the jobs begin: it hears of each start later, and of the next
    try; that is one attempt
    """
    worker = room.worker(4)
    for number in room.times(3):
        # Four at once, so that each child has a connection: what is sent on a new one waits for the
        # server's first word.
        warm = [room.send("held", truth=WELL) for _ in range(4)]
        for task_id in warm:
            room.begun(task_id)
        for task_id in warm:
            room.go_on(task_id)
        room.ended(*warm)
        queue = f"frozen-{number}"
        ids = [room.send("held", truth=WELL, queue=queue) for _ in range(4)]
        room.backend.pause()
        room.app.control.add_consumer(queue, reply=True, timeout=20, limit=1)
        for task_id in ids:
            room.begun(task_id)
        room.backend.resume()
        for task_id in ids:
            room.go_on(task_id)
        room.ended(*ids)
    stop(worker)


@row(backend="own")
def backend_lost_its_data(room: Room) -> None:
    """result backend restarted in mid-run without its data: what runs is shown again and ends; what
    had ended is unknown
    """
    worker = room.worker(4)
    forgotten: list[str] = []
    for _ in room.times(3):
        over = [room.send("count", truth=Truth(None, forgotten=True)) for _ in range(2)]
        room.ended(*over)
        truth = Truth(Status.COMPLETED, current=10, attempt=1, outputs="on", forgotten=True)
        ids = [room.send("held", truth=truth) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
        forgotten += over
        room.backend.stop()
        room.backend.start(fresh=True)
        for task_id in ids:
            room.go_on(task_id)
        room.ended(*ids)
        for task_id in ids:
            room.check(task_id, truth)
        for task_id in forgotten:  # those of the rounds before as well
            room.expect(task_id, Truth(None, forgotten=True))
        forgotten += ids
    stop(worker)


@row(broker="own")
def broker_restarted(room: Room) -> None:
    """broker restarted in mid-run: what runs goes on, what waits runs afterwards"""
    worker = room.worker(4)
    for _ in room.times(2):
        ids = [room.send("held", truth=WELL) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
        # Apart: what a worker has prefetched from Redis comes back when the visibility timeout is
        # over, an hour later.
        well = Truth(Status.COMPLETED, current=10, outputs=10)
        waiting = [room.send("count", truth=well, queue="later") for _ in range(4)]
        room.broker.stop()
        room.broker.start()
        for task_id in ids:
            room.go_on(task_id)
        later = room.worker(4, queues=["later"])
        room.ended(*ids, *waiting)
        stop(later)
    stop(worker)


@row(broker="own")
def broker_lost_its_data(room: Room) -> None:
    """broker killed in mid-run without its data: what runs ends well; what was never taken stays
    queued, and no end is made up
    """
    worker = room.worker(2)
    ids = [room.send("held", truth=WELL) for _ in range(2)]
    for task_id in ids:
        room.begun(task_id)
    queued = Truth(Status.PENDING, phase=Phase.QUEUED, attempt=0, celery="PENDING")
    for _ in room.times(8):
        room.send("count", queue="nobody", truth=queued)
    room.broker.stop()
    room.broker.start(fresh=True)
    for task_id in ids:
        room.go_on(task_id)
    room.ended(*ids)
    stop(worker)


@row(EXPIRES="1")
def result_expired(room: Room) -> None:
    """the result has expired: it is known that there was one (410), and it is neither unknown nor
    queued
    """
    worker = room.worker(4)
    ids = [room.send("count", truth=Truth(Status.COMPLETED, expired=True)) for _ in room.times(20)]
    for task_id in ids:
        room.expired(task_id)
    stop(worker)


@row(EXPIRES="1")
def silent_beyond_expiry(room: Room) -> None:
    """a running job says nothing for longer than results are kept: it is still running, as far as
    it was (fact 15)
    """
    worker, other = room.worker(4), room.worker(1, queues=["witness"])
    for _ in room.times(2):
        ids = [room.send("held") for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
            room.seen(
                task_id, lambda now: now.progress is not None and now.progress.current == 5, "at 5"
            )
        # What was stored after their last reports has expired by now.
        witness = room.send("count", queue="witness", truth=Truth(Status.COMPLETED, expired=True))
        room.expired(witness)
        for task_id in ids:
            room.check(task_id, Truth(Status.RUNNING, current=5, attempt=1, phase=Phase.RUNNING))
            room.expect(task_id, Truth(Status.COMPLETED, expired=True))
        for task_id in ids:
            room.go_on(task_id)
        for task_id in ids:
            room.expired(task_id)
    stop(worker)
    stop(other)


@row(clock="own")
def clock_set_back(room: Room) -> None:
    """the worker's clock is set back by an hour in mid-run: reports and ends are shown as they come"""
    worker = room.worker(4)
    for _ in room.times(4):
        room.clock.set(0.0)
        ids = [room.send("held", truth=WELL) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
        room.clock.set(-3600.0)
        for task_id in ids:
            room.go_on(task_id)
        room.ended(*ids)
    stop(worker)


@row(clock="own")
def clock_behind(room: Room) -> None:
    """the worker's clock is a day behind its publisher's: retries and ends are shown as they come"""
    room.clock.set(-86400.0)
    worker = room.worker(4)
    truth = Truth(Status.COMPLETED, attempt=2, current=10, outputs=2)
    room.ended(*[room.send("retries", 2, 0, truth=truth) for _ in room.times(16)])
    stop(worker)
