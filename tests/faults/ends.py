"""Rows: ends that Celery doesn't tell of."""

from __future__ import annotations

from headway.models import Phase, Status
from tests.faults.environment import Room, stop
from tests.faults.scenarios import row
from tests.faults.watching import Truth

#: It failed half way.
FELL = Truth(
    Status.FAILED, current=5, attempt=1, error="ValueError", never=frozenset({Phase.SUCCEEDED})
)


@row()
def eager(room: Room) -> None:
    """run eagerly, in the caller: it works, and nothing is known of it afterwards (fact 6)"""
    for _ in room.times(30):
        result = room.app.tasks["faults.count"].apply()
        assert result.get() == 10
        room.watch(result.id)
        room.expect(result.id, Truth(None, celery="PENDING"))


@row(STORE_EAGER="1")
def eager_stored(room: Room) -> None:
    """run eagerly with task_store_eager_result: completed, as Celery stores it"""
    for _ in room.times(30):
        result = room.app.tasks["faults.count"].apply()
        assert result.get() == 10
        room.watch(result.id)
        room.expect(result.id, Truth(Status.COMPLETED, outputs=10))


@row()
def ignore_result(room: Room) -> None:
    """ignore_result: it ends all the same, well or badly, and its last report is kept (fact 7)"""
    worker = room.worker(4)
    for _ in room.times(3):
        ids = [
            room.send("quiet", "well", truth=Truth(Status.COMPLETED, current=5, attempt=1))
            for _ in range(4)
        ]
        ids += [
            room.send(
                "quiet",
                "badly",
                truth=Truth(Status.FAILED, current=5, attempt=1, error="ValueError"),
            )
            for _ in range(4)
        ]
        room.ended(*ids)
    stop(worker)


@row()
def failed(room: Room) -> None:
    """raised half way: failed, half way"""
    worker = room.worker(4)
    room.ended(*[room.send("fails", truth=FELL) for _ in room.times(24)])
    stop(worker)


@row()
def ignored(room: Room) -> None:
    """raise Ignore: an end without a fault (fact 7)"""
    worker = room.worker(4)
    truth = Truth(Status.COMPLETED, current=5, attempt=1, celery="IGNORED")
    room.ended(*[room.send("ignores", truth=truth) for _ in room.times(24)])
    stop(worker)


@row()
def rejected(room: Room) -> None:
    """raise Reject for good: failed (fact 50)"""
    worker = room.worker(4)
    truth = Truth(Status.FAILED, current=5, attempt=1, never=frozenset({Phase.SUCCEEDED}))
    room.ended(*[room.send("rejects", False, truth=truth) for _ in room.times(24)])
    stop(worker)


@row()
def rejected_and_requeued(room: Room) -> None:
    """raise Reject, to be delivered again: attempt 2 of the same execution"""
    worker = room.worker(4)
    truth = Truth(
        Status.COMPLETED, current=10, attempt=2, outputs="again", never=frozenset({Phase.FAILED})
    )
    room.ended(*[room.send("rejects", True, truth=truth) for _ in room.times(16)])
    stop(worker)


@row()
def exited(room: Room) -> None:
    """sys.exit in a job: failed (fact 43)"""
    worker = room.worker(4)
    room.ended(
        *[
            room.send("exits", truth=Truth(Status.FAILED, current=5, attempt=1))
            for _ in room.times(12)
        ]
    )
    stop(worker)


@row()
def replaced(room: Room) -> None:
    """Task.replace: it goes on under its id, and ends once (fact 46)"""
    worker = room.worker(4)
    truth = Truth(
        Status.COMPLETED, current=10, attempt=2, outputs=10, never=frozenset({Phase.FAILED})
    )
    room.ended(*[room.send("replaced", truth=truth) for _ in room.times(16)])
    stop(worker)
