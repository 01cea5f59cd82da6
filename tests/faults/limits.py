"""Rows: a time limit strikes."""

from __future__ import annotations

from headway.models import Phase, Status
from tests.faults.environment import Room, stop
from tests.faults.scenarios import row
from tests.faults.watching import Truth

TOO_LONG = Truth(
    Status.FAILED, attempt=1, error="TimeLimitExceeded", never=frozenset({Phase.SUCCEEDED})
)


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
    """soft time limit in a tight loop of progress.update: completed if the job catches it and ends
    in time, else failed
    """
    worker = room.worker(6)
    struck = Truth(Status.FAILED, error="SoftTimeLimitExceeded")
    catching: list[str] = []
    for _ in room.times(3):
        some = [room.send("soft", True) for _ in range(3)]
        catching += some
        room.ended(*some, *[room.send("soft", False, truth=struck) for _ in range(3)])
    stop(worker)
    for (
        task_id
    ) in catching:  # on a busy machine the limit may strike before the job's own `try` is reached
        caught = room.wire.was_told(f"{task_id}-caught")
        room.expect(
            task_id, Truth(Status.COMPLETED, attempt=1, outputs="in time") if caught else struck
        )


@row()
def limit_after_terminate(room: Room) -> None:
    """terminated, and its time limit goes off later all the same: it stays cancelled (fact 42)"""
    worker = room.worker(6)
    for _ in room.times(2):
        truth = Truth(
            Status.CANCELLED, current=5, attempt=1, never=frozenset({Phase.FAILED, Phase.SUCCEEDED})
        )
        ids = [room.send("limited", truth=truth) for _ in range(6)]
        for task_id in ids:
            room.begun(task_id)
            room.seen(
                task_id, lambda now: now.progress is not None and now.progress.current == 5, "at 5"
            )
            room.revoke(worker, task_id, terminate=True)
        room.ended(*ids)
        # Timers go off in order: when one that was set after theirs has, theirs have.
        late = [room.send("limited", truth=TOO_LONG) for _ in range(6)]
        room.ended(*late)
    stop(worker)
