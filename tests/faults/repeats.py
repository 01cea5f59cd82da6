"""Rows: the same id runs again, or twice at once."""

from __future__ import annotations

import os
import signal

from headway.models import Phase, Status
from tests.faults.environment import PATIENCE, Room, stop
from tests.faults.scenarios import row
from tests.faults.watching import Truth
from tests.support.wait import until

AGAIN = Truth(
    Status.COMPLETED,
    attempt=2,
    current=10,
    outputs=10,
    never=frozenset({Phase.FAILED, Phase.CANCELLED}),
)


@row(broker="rabbitmq")
def redelivered(room: Room) -> None:
    """acks_late, and the whole worker is killed: the broker gives it to another one, which is
    attempt 2
    """
    for _ in room.times(3):
        first = room.worker(4)
        ids = [room.send("picks_up", truth=AGAIN) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
        room.kill_outright(first)
        second = room.worker(4)
        room.ended(*ids)
        stop(second)


@row(ACKS_LATE="1")
def child_lost_and_requeued(room: Room) -> None:
    """acks_late with reject_on_worker_lost, and the child is killed: it runs again, and was never
    failed
    """
    worker = room.worker(4)
    for _ in room.times(3):
        ids = [room.send("picks_up", truth=AGAIN) for _ in range(4)]
        for pid in [room.begun(task_id) for task_id in ids]:
            os.kill(pid, signal.SIGKILL)
        room.ended(*ids)
    stop(worker)


@row()
def retry_with_countdown(room: Room) -> None:
    """retried with a countdown: retrying in between, then attempt 2, whose progress is its own"""
    worker = room.worker(4)
    for _ in room.times(3):
        truth = Truth(
            Status.COMPLETED, attempt=2, current=10, outputs=2, once=frozenset({Phase.RETRYING})
        )
        room.ended(*[room.send("retries", 2, 3.0, truth=truth) for _ in range(8)])
    stop(worker)


@row(INTERVAL="0.001")
def retry_at_once(room: Room) -> None:
    """retried five times without a pause on four processes: no late RETRY hides the next attempt
    (fact 42)
    """
    worker = room.worker(4)
    for _ in room.times(3):
        truth = Truth(Status.COMPLETED, attempt=5, current=10, outputs=5)
        room.ended(*[room.send("retries", 5, 0, truth=truth) for _ in range(10)])
    stop(worker)


@row(INTERVAL="0.001", TRACK_STARTED="0")
def retry_untracked(room: Room) -> None:
    """the same with task_track_started off, which is Celery's default"""
    retry_at_once(room)


@row()
def retry_in_vain(room: Room) -> None:
    """retried until Celery gives up: failed, at attempt 3, with the last one's progress"""
    worker = room.worker(4)
    truth = Truth(
        Status.FAILED, attempt=3, current=5, error="ValueError", never=frozenset({Phase.SUCCEEDED})
    )
    room.ended(*[room.send("gives_up", truth=truth) for _ in room.times(24)])
    stop(worker)


@row()
def two_workers_newer_ends_last(room: Room) -> None:
    """two workers run one id, the older run ends first: only the newer one is shown, to its end"""
    _twice(room, first="old", then="new")


@row()
def two_workers_newer_ends_first(room: Room) -> None:
    """two workers run one id, the newer run ends first: what the older one says afterwards is not
    shown
    """
    _twice(room, first="new", then="old")


@row()
def two_workers_newer_fails(room: Room) -> None:
    """two workers run one id, the newer run fails, the older one then ends well: the newest attempt
    counts
    """
    _twice(room, first="new", then="old", way="badly")


@row()
def one_worker_older_lost(room: Room) -> None:
    """one worker runs one id twice, and the older run's child is killed: that isn't the end of the
    newer run
    """
    truth = Truth(
        Status.COMPLETED,
        attempt=2,
        current=10,
        outputs="new",
        never=frozenset({Phase.FAILED, Phase.CANCELLED}),
    )
    worker = room.worker(4)
    for number in room.times(6):
        task_id = room.send("twice", "old", truth=truth)
        child = room.begun(f"{task_id}-old")
        room.send("twice", "new", task_id=task_id)
        room.begun(f"{task_id}-new")
        os.kill(child, signal.SIGKILL)
        lost = number + 1  # the main process says so after it has stored the FAILURE
        until(
            lambda lost=lost: worker.log().count("raised error: WorkerLostError") >= lost,
            within=PATIENCE,
            what="the loss",
        )
        room.go_on(f"{task_id}-new")
        room.ended(task_id)
    stop(worker)


def _twice(room: Room, *, first: str, then: str, way: str = "well") -> None:
    truth = Truth(Status.COMPLETED, attempt=2, current=10, outputs="new")
    if way == "badly":
        truth = Truth(
            Status.FAILED,
            attempt=2,
            current=10,
            error="ValueError",
            never=frozenset({Phase.SUCCEEDED}),
        )
    workers = {run: room.worker(6, queues=[run]) for run in ("old", "new")}
    for _ in room.times(3):
        ids = []
        for _ in range(4):
            task_id = room.send("twice", "old", truth=truth, queue="old")
            room.begun(f"{task_id}-old")
            room.send("twice", "new", way, task_id=task_id, queue="new")
            room.begun(f"{task_id}-new")
            ids.append(task_id)
        for run in (first, then):
            for task_id in ids:
                room.go_on(f"{task_id}-{run}")
            # What each of its processes does next it does after that run's end was stored.
            well = Truth(Status.COMPLETED, current=10, outputs=10)
            room.ended(*[room.send("count", truth=well, queue=run) for _ in range(12)])
        room.ended(*ids)
    for worker in workers.values():
        stop(worker)
