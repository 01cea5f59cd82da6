"""Rows: Celery's own revoke."""

from __future__ import annotations

from headway.models import Phase, Status
from tests.faults.environment import Room, stop
from tests.faults.scenarios import row
from tests.faults.watching import Truth

REVOKED = Truth(
    Status.CANCELLED,
    attempt=0,
    current=None,
    never=frozenset({Phase.RUNNING, Phase.SUCCEEDED, Phase.FAILED}),
)
RAN = Truth(
    Status.COMPLETED, current=10, attempt=1, never=frozenset({Phase.CANCELLED, Phase.FAILED})
)


@row(INTERVAL="0.001")
def finally_after_terminate(room: Room) -> None:
    """a terminated job reports a thousand times in its `finally:`: cancelled for good (facts 4, 41)"""
    worker = room.worker(4)
    for _ in room.times(5):
        ids = [room.send("stubborn", truth=Truth(Status.CANCELLED, attempt=1)) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
            room.revoke(worker, task_id, terminate=True)
        room.ended(*ids)
        # one lives on where the SystemExit struck in a __del__, which swallows it: what it says is
        # late
        for task_id in ids:
            room.go_on(task_id)
    stop(worker)


@row(PREFETCH="8")
def revoke_queued(room: Room) -> None:
    """revoked while it is queued and a worker listens: cancelled, and it never began"""
    worker = room.worker(1)
    blocker = room.send("held", truth=RAN)
    room.begun(blocker)
    ids = [room.send("count", truth=REVOKED) for _ in room.times(20)]
    for task_id in ids:
        room.revoke(worker, task_id)
    room.go_on(blocker)
    room.ended(*ids, blocker)
    stop(worker)


@row()
def revoke_queued_alone(room: Room) -> None:
    """revoked by Celery while no worker listens: nobody hears it, it runs, and completed is what
    happened (fact 14)
    """
    for _ in room.times(3):
        ids = [room.send("count", truth=RAN) for _ in range(5)]
        for task_id in ids:
            room.app.control.revoke(task_id)
        worker = room.worker(4)
        room.ended(*ids)
        stop(worker)


@row()
def revoke_running(room: Room) -> None:
    """revoked while it runs, without terminate: it goes on, and completed is what happened (fact
    14)
    """
    worker = room.worker(4)
    for _ in room.times(4):
        ids = [room.send("held", truth=RAN) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
            room.revoke(worker, task_id)
        for task_id in ids:
            room.go_on(task_id)
        room.ended(*ids)
    stop(worker)


@row()
def revoke_retrying(room: Room) -> None:
    """revoked while it waits for its retry and the worker listens: cancelled, with what the attempt
    before had reported
    """
    worker = room.worker(4)
    truth = Truth(
        Status.CANCELLED,
        attempt=1,
        current=10,
        once=frozenset({Phase.RETRYING}),
        never=frozenset({Phase.SUCCEEDED}),
    )
    for _ in room.times(2):
        ids = [room.send("retries", 2, 3.0, truth=truth) for _ in range(6)]
        for task_id in ids:
            room.at(task_id, Phase.RETRYING)
        for task_id in ids:
            room.revoke(worker, task_id)
        room.ended(*ids)
    stop(worker)


@row()
def revoke_retrying_alone(room: Room) -> None:
    """revoked by Celery while it waits for its retry and no worker listens: the retry runs, and
    completed is what happened
    """
    truth = Truth(
        Status.COMPLETED, attempt=2, current=10, outputs=2, never=frozenset({Phase.CANCELLED})
    )
    for _ in room.times(2):
        worker = room.worker(4)
        ids = [room.send("retries", 2, 1.0, truth=truth) for _ in range(4)]
        for task_id in ids:
            room.at(task_id, Phase.RETRYING)
        stop(worker)
        for task_id in ids:
            room.app.control.revoke(task_id)
        worker = room.worker(4)
        room.ended(*ids)
        stop(worker)
