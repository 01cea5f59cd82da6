"""Rows: a cancel that was asked for by Headway's own means."""

from __future__ import annotations

from dataclasses import replace

import headway
from headway.errors import ExecutionConflict
from headway.models import Phase, Status
from tests.faults.environment import Room, stop
from tests.faults.scenarios import row
from tests.faults.watching import ANY, Truth

CANCELLED = Truth(Status.CANCELLED, attempt=1, never=frozenset({Phase.SUCCEEDED, Phase.FAILED}))
#: Its code never ran; whether a run was opened, in order to be closed at once, doesn't matter.
UNBEGUN = replace(CANCELLED, attempt=ANY, current=None)


@row(INTERVAL="0.01")
def cancel_running(room: Room) -> None:
    """cancelled while it reports without pause: cancelled, by the job's own end"""
    worker = room.worker(4)
    for _ in room.times(4):
        ids = [room.send("hot", truth=CANCELLED) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
            headway.cancel(room.app, task_id)
        room.ended(*ids)
    stop(worker)


@row()
def cancel_held(room: Room) -> None:
    """cancelled while it waits, and it reports once more: cancelling until then, then cancelled"""
    worker = room.worker(4)
    for _ in room.times(4):
        ids = [
            room.send("goes_on", truth=replace(CANCELLED, once=frozenset({Phase.CANCELLING})))
            for _ in range(4)
        ]
        for task_id in ids:
            room.begun(task_id)
            headway.cancel(room.app, task_id)
            room.at(task_id, Phase.CANCELLING)
            room.shown(task_id, Phase.CANCELLING)
            room.go_on(task_id)
        room.ended(*ids)
    stop(worker)


@row()
def cancel_too_late(room: Room) -> None:
    """cancelled while it runs, and it ends without looking: cancelling, then completed, which is
    what happened
    """
    worker = room.worker(4)
    truth = Truth(
        Status.COMPLETED,
        current=5,
        attempt=1,
        outputs="on",
        never=frozenset({Phase.CANCELLED, Phase.FAILED}),
    )
    for _ in room.times(4):
        ids = [room.send("deaf", truth=truth) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
            headway.cancel(room.app, task_id)
            room.at(task_id, Phase.CANCELLING)
            room.go_on(task_id)
        room.ended(*ids)
    stop(worker)


@row(INTERVAL="0.001")
def cancel_races(room: Room) -> None:
    """cancelled just as it ends: completed if its code ran to the end, cancelled if not, and Celery
    says the same
    """
    worker = room.worker(4)
    ids = []
    for _ in room.times(60):
        task_id = room.send("races")
        ids.append(task_id)
        room.begun(task_id)
        try:
            headway.cancel(room.app, task_id)
        except ExecutionConflict:
            continue  # it was over
    room.ended(*ids)
    stop(worker)
    for task_id in ids:
        ran = room.wire.was_told(f"{task_id}-done")
        room.expect(
            task_id,
            Truth(Status.COMPLETED, attempt=1, outputs="done", current=2000) if ran else CANCELLED,
        )


@row(PREFETCH="8")
def cancel_queued(room: Room) -> None:
    """cancelled while it is queued and a worker is busy: cancelled, and its code never ran"""
    worker = room.worker(1)
    blocker = room.send("held", truth=Truth(Status.COMPLETED, current=10, attempt=1))
    room.begun(blocker)
    ids = [room.send("count", truth=UNBEGUN) for _ in room.times(20)]
    for task_id in ids:
        headway.cancel(room.app, task_id)
    room.go_on(blocker)
    room.ended(*ids, blocker)
    stop(worker)


@row()
def cancel_queued_alone(room: Room) -> None:
    """cancelled while it is queued and no worker listens: cancelling until one gets it, then
    cancelled, and its code never ran
    """
    for _ in room.times(3):
        ids = [
            room.send("count", truth=replace(UNBEGUN, once=frozenset({Phase.CANCELLING})))
            for _ in range(5)
        ]
        for task_id in ids:
            headway.cancel(room.app, task_id)
            room.shown(task_id, Phase.CANCELLING)
        worker = room.worker(4)
        room.ended(*ids)
        stop(worker)


@row()
def cancel_retrying(room: Room) -> None:
    """cancelled while it waits for its retry: cancelled, and its code doesn't run again"""
    worker = room.worker(4)
    for _ in room.times(2):
        ids = [room.send("retries", 2, 2.0, truth=replace(CANCELLED, current=10)) for _ in range(6)]
        for task_id in ids:
            room.at(task_id, Phase.RETRYING)
            headway.cancel(room.app, task_id)
        room.ended(*ids)
    stop(worker)


@row()
def cancel_retrying_alone(room: Room) -> None:
    """cancelled while it waits for its retry and no worker listens: cancelled at once, and its code
    doesn't run again
    """
    for _ in room.times(2):
        worker = room.worker(4)
        ids = [room.send("retries", 2, 8.0, truth=replace(CANCELLED, current=10)) for _ in range(4)]
        for task_id in ids:
            room.at(task_id, Phase.RETRYING)
        stop(worker)
        for task_id in ids:
            headway.cancel(room.app, task_id)
        room.ended(*ids)
        worker = room.worker(4)
        # What is sent behind them ends when their messages have been dealt with.
        room.ended(
            *[
                room.send("count", countdown=10, truth=Truth(Status.COMPLETED, current=10))
                for _ in range(4)
            ]
        )
        stop(worker)


@row()
def cancel_forced(room: Room) -> None:
    """cancelled by force while it hears nothing: cancelled, though it never looked"""
    worker = room.worker(4)
    for _ in room.times(4):
        ids = [room.send("deaf", truth=replace(CANCELLED, current=5)) for _ in range(4)]
        for task_id in ids:
            room.begun(task_id)
            room.seen(
                task_id, lambda now: now.progress is not None and now.progress.current == 5, "at 5"
            )
            headway.cancel(room.app, task_id, terminate=True)
        room.ended(*ids)
    stop(worker)
