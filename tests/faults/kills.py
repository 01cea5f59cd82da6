"""Rows: something is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from headway.models import Phase, Status
from tests.faults.environment import Room, stop
from tests.faults.scenarios import row
from tests.faults.watching import ANY, Truth

NEVER_WELL = frozenset({Phase.SUCCEEDED, Phase.CANCELLED})
LOST = Truth(Status.FAILED, current=5, attempt=1, error="WorkerLostError", never=NEVER_WELL)


@row()
def child_killed(room: Room) -> None:
    """pool child killed with SIGKILL while it waits: failed, WorkerLostError, the last report kept"""
    worker = room.worker(4)
    for _ in room.times(4):
        ids = [room.send("held", truth=LOST) for _ in range(4)]
        pids = [room.begun(task_id) for task_id in ids]
        for task_id in ids:
            room.seen(
                task_id, lambda now: now.progress is not None and now.progress.current == 5, "at 5"
            )
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        room.ended(*ids)
    stop(worker)


@row(INTERVAL="0.001")
def child_killed_writing(room: Room) -> None:
    """pool child killed with SIGKILL while it reports without pause: failed, WorkerLostError, for
    good
    """
    worker = room.worker(4)
    for _ in room.times(4):
        ids = [
            room.send("hot", truth=Truth(Status.FAILED, attempt=1, error="WorkerLostError"))
            for _ in range(4)
        ]
        pids = [room.begun(task_id) for task_id in ids]
        for task_id in ids:
            room.seen(
                task_id,
                lambda now: now.progress is not None and now.progress.current > 100,
                "reporting",
            )
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        room.ended(*ids)
    stop(worker)


#: Nobody says how it ended: it shows as stalled, as far as it was, and no end is made up.
SILENT = Truth(
    Status.RUNNING,
    phase=Phase.STALLED,
    current=5,
    attempt=1,
    once=frozenset({Phase.STALLED}),
    never=frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED}),
)


def _hold(room: Room, truth: Truth, **options: str) -> list[str]:
    """Jobs that have reported 5 and wait."""
    ids = [room.send("held", truth=truth, **options) for _ in range(4)]
    for task_id in ids:
        room.begun(task_id)
        room.seen(
            task_id, lambda now: now.progress is not None and now.progress.current == 5, "at 5"
        )
    return ids


@row()
def worker_killed(room: Room) -> None:
    """a worker's main process is killed with SIGKILL: its jobs stall within a bound, another
    worker's silent jobs never do
    """
    doomed, well = room.worker(4, queues=["doomed"]), room.worker(4)
    lost = _hold(room, SILENT, queue="doomed")
    kept = _hold(room, Truth(Status.COMPLETED, current=10, attempt=1, outputs="on"))
    doomed.kill(signal.SIGKILL)
    doomed.wait()
    for task_id in lost:
        room.shown(task_id, Phase.STALLED)
    for task_id in kept:
        room.go_on(task_id)
    room.ended(*kept)
    stop(well)


@row()
def machine_lost(room: Room) -> None:
    """a worker and all its children are killed at once while they report without pause: stalled,
    and no end is made up
    """
    doomed = room.worker(6)
    ids = [room.send("hot", truth=replace(SILENT, current=ANY)) for _ in range(6)]
    for task_id in ids:
        room.seen(
            task_id,
            lambda now: now.progress is not None and now.progress.current > 100,
            "reporting",
        )
    room.kill_outright(doomed)
    for task_id in ids:
        room.shown(task_id, Phase.STALLED)


@row()
def cold_shutdown(room: Room) -> None:
    """a worker is told to end at once (SIGQUIT) and gives nothing back: its jobs stall, and no end
    is made up
    """
    worker = room.worker(4)
    ids = _hold(room, SILENT)
    worker.kill(signal.SIGQUIT)
    worker.wait()
    for task_id in ids:
        room.shown(task_id, Phase.STALLED)


@row()
def worker_frozen(room: Room) -> None:
    """a worker and its children are frozen until they show as stalled, and go on: running again,
    and completed
    """
    worker = room.worker(4)
    ids = _hold(
        room,
        Truth(
            Status.COMPLETED, current=10, attempt=1, outputs="on", once=frozenset({Phase.STALLED})
        ),
    )
    os.killpg(worker.pid, signal.SIGSTOP)
    for task_id in ids:
        room.shown(task_id, Phase.STALLED)
    os.killpg(worker.pid, signal.SIGCONT)
    for task_id in ids:
        room.at(task_id, Phase.RUNNING)
        room.go_on(task_id)
    room.ended(*ids)
    stop(worker)
