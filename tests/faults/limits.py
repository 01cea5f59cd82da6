"""Rows: a time limit strikes."""

from __future__ import annotations

from headway.records import Phase, Status
from tests.faults.room import Room, stop
from tests.faults.rows import row
from tests.faults.watching import Truth

TOO_LONG = Truth(Status.FAILED, attempt=1, error="TimeLimitExceeded", never=frozenset({Phase.SUCCEEDED}))


@row(INTERVAL="0.001")
def hard_limit(room: Room) -> None:
    """hard time limit in a tight loop of progress.update: failed for good (facts 3, 41)"""
    worker = room.worker(6)
    for _ in room.times(4):
        room.ended(*[room.send("hard", truth=TOO_LONG) for _ in range(6)])
    stop(worker)


@row()
def hard_limit_by_hand(room: Room) -> None:
    """hard time limit in a tight loop of Celery's own update_state: failed for good (fact 3)"""
    worker = room.worker(6)
    for _ in room.times(4):
        room.ended(*[room.send("hard_by_hand", truth=TOO_LONG) for _ in range(6)])
    stop(worker)


@row(INTERVAL="0.001")
def soft_limit(room: Room) -> None:
    """soft time limit in a tight loop of progress.update: failed if the job lets it through, completed if it ends in time"""
    worker = room.worker(6)
    for _ in room.times(3):
        ids = [room.send("soft", False, truth=Truth(Status.FAILED, attempt=1, error="SoftTimeLimitExceeded")) for _ in range(3)]
        ids += [room.send("soft", True, truth=Truth(Status.COMPLETED, attempt=1, outputs="in time")) for _ in range(3)]
        room.ended(*ids)
    stop(worker)


@row()
def limit_after_terminate(room: Room) -> None:
    """terminated, and its time limit goes off later all the same: it stays cancelled (fact 42)"""
    worker = room.worker(6)
    for _ in room.times(2):
        truth = Truth(Status.CANCELLED, current=5, attempt=1, never=frozenset({Phase.FAILED, Phase.SUCCEEDED}))
        ids = [room.send("limited", truth=truth) for _ in range(6)]
        for task_id in ids:
            room.begun(task_id)
            room.seen(task_id, lambda now: now.progress is not None and now.progress.current == 5, "at 5")
            room.revoke(worker, task_id, terminate=True)
        room.ended(*ids)
        # Timers go off in order: when one that was set after theirs has, theirs have.
        late = [room.send("limited", truth=TOO_LONG) for _ in range(6)]
        room.ended(*late)
    stop(worker)
