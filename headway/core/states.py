"""The state machine: which writes are let in, and what an execution is, given what was seen.

Two pure functions and one table. `admits` is the fence that every state write passes (the Redis store has the same rule in Lua,
``stores/redis_write.lua``; one conformance suite holds both to it). `resolve` turns what was read into what is shown.

Why there is a fence at all: Celery keeps progress and state in one record and the last write wins, so a late report un-ends a
task (facts 2-4), and Celery does so itself (fact 42).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from headway.core.meta import progress_from_meta
from headway.errors import ExecutionExpired, ExecutionNotFound
from headway.records import READY_STATES, Execution, Failure, Opening, Phase, Progress, Record, Snapshot, Status, Write

#: Celery's state -> what the API calls it. Every other word is a task's own and means that it runs (contract, section 3).
#: IGNORED and REJECTED are stored by nobody but Headway: the run ended and said nothing, which is an end without a fault;
#: a message that was rejected for good is a job that was not done.
PHASES: Mapping[str | None, tuple[Status, Phase]] = {
    None: (Status.PENDING, Phase.QUEUED),
    "RECEIVED": (Status.PENDING, Phase.QUEUED),
    "RETRY": (Status.RUNNING, Phase.RETRYING),
    "SUCCESS": (Status.COMPLETED, Phase.SUCCEEDED),
    "IGNORED": (Status.COMPLETED, Phase.SUCCEEDED),
    "FAILURE": (Status.FAILED, Phase.FAILED),
    "REJECTED": (Status.FAILED, Phase.FAILED),
    "REVOKED": (Status.CANCELLED, Phase.CANCELLED),
}
RUNNING = (Status.RUNNING, Phase.RUNNING)

#: How long a registry that isn't written in one step with the result may be ahead of it (stores without ``keeps_results``).
RESULT_GRACE = timedelta(seconds=10)


def admits(record: Record | None, write: Write) -> bool:
    """Whether a write may be stored, given what is known.

    An attempt may write while it is the newest one and hasn't ended. A bystander (a worker's main process that saw its child die,
    a revoke) doesn't know the attempt's number: it may end what is open if it speaks of the same run, and what was never begun.
    Nobody may write over an end.
    """
    if record is None:
        return True
    if write.attempt is not None:
        return write.attempt == record.attempt and write.attempt > record.ended
    if record.state in READY_STATES:
        return False
    if write.retries is not None and write.retries < record.retries:
        return False
    attempt_is_open = record.attempt > record.ended
    other_worker = write.worker is not None and record.worker is not None and write.worker != record.worker
    return not (attempt_is_open and other_worker)


def opens(record: Record | None) -> bool:
    """Whether a new attempt may begin: always, but after a success."""
    return record is None or record.state != "SUCCESS"


def opened(record: Record | None, opening: Opening) -> Record:
    """What is known after a new attempt was let in (`opens`)."""
    known = record if record is not None else Record(opening.task_id)
    return replace(
        known,
        task=opening.task or known.task,
        attempt=known.attempt + 1,
        state="STARTED",
        retries=opening.retries,
        worker=opening.worker,
        started_at=known.started_at or opening.at,
        updated_at=opening.at,
        finished_at=None,
        result_stored=False,
    )


def written(record: Record | None, write: Write) -> Record:
    """What is known after a write was let in (`admits`)."""
    known = record if record is not None else Record(write.task_id)
    ends = write.state in READY_STATES
    changed = replace(
        known,
        task=known.task or write.task,
        state=write.state,
        updated_at=write.at,
        ended=known.attempt if ends or write.state == "RETRY" else known.ended,
        finished_at=write.at if ends else None,
        result_stored=write.result is not None if ends else known.result_stored,
    )
    if write.meta is None or ends or write.state == "RETRY":
        return changed
    progress = progress_from_meta(write.state, write.meta)
    return replace(changed, progress=progress, progress_attempt=known.attempt) if progress is not None else changed


def resolve(snapshot: Snapshot, now: datetime) -> Execution:
    """What an execution is now.

    Raises ``ExecutionNotFound`` where neither registry nor result backend knows it, ``ExecutionExpired`` where it ended with a
    result that is gone.
    """
    record, meta = snapshot.record, snapshot.meta
    if record is None and meta is None:
        raise ExecutionNotFound(snapshot.task_id)
    if record is None:
        record = Record(snapshot.task_id)
    stored_state = meta.get("status") if meta is not None else None
    state = _true_state(record, stored_state, now)
    if state in READY_STATES and meta is None and record.result_stored:
        raise ExecutionExpired(snapshot.task_id)
    status, phase = PHASES.get(state, RUNNING)
    # The backend's record explains the state only where it speaks of the same one.
    result = meta.get("result") if meta is not None and stored_state == state else None
    if record.cancel_requested_at is not None and not status.terminal:
        phase = Phase.CANCELLING
    progress = _progress(record, state, result)
    return Execution(
        execution_id=snapshot.task_id,
        status=status,
        phase=phase,
        progress=progress,
        task=record.task or (meta or {}).get("name"),
        attempt=record.attempt or int(record.state is None and status in (Status.RUNNING, Status.COMPLETED, Status.FAILED)),
        outputs=result if status is Status.COMPLETED else None,
        error=failure(state, result) if status is Status.FAILED else None,
        created_at=record.created_at,
        started_at=record.started_at,
        updated_at=_latest(record.updated_at, progress.timestamp if progress is not None else None),
        finished_at=record.finished_at or (_date_done(meta) if status.terminal else None),
        worker=record.worker or (meta or {}).get("worker"),
        owner=record.owner,
    )


def _true_state(record: Record, stored: str | None, now: datetime) -> str | None:
    """Registry and backend may disagree: the registry is right about every end it admitted, the backend about all else.

    A backend's end that the registry doesn't have comes from a process without the fence (a publisher or a worker without Headway).
    """
    if record.state in READY_STATES:
        behind = record.result_stored and stored is not None and stored not in READY_STATES
        if behind and record.finished_at is not None and now - record.finished_at < RESULT_GRACE:
            return stored
        return record.state
    if stored is None or stored == "PENDING" and record.state is not None:
        return record.state
    if stored == "RETRY" and record.attempt > record.ended:
        return record.state  # an old attempt's word (fact 42): the next one has begun
    if record.attempt and stored not in READY_STATES and record.state in ("STARTED", "RETRY"):
        return record.state  # the record of the attempt before, not overwritten yet
    return stored


def _progress(record: Record, state: str | None, result: object) -> Progress | None:
    if state in READY_STATES or state in ("RETRY", "STARTED", "RECEIVED", None):
        if record.progress is not None and (state not in ("STARTED", None) or record.progress_attempt == record.attempt):
            return record.progress
        # The end of a task that never heard of Headway: its own payload may still say how far it came.
        return None if state in ("SUCCESS", None) else progress_from_meta(state, result)
    return progress_from_meta(state, result) or (record.progress if record.progress_attempt == record.attempt else None)


def failure(state: str | None, result: object) -> Failure:
    """Why it failed, from the backend's record. A hand-made FAILURE (fact 8) may hold anything."""
    if isinstance(result, Mapping) and "exc_type" in result:
        module = result.get("exc_module")
        return Failure(str(result["exc_type"]), _sentence(result.get("exc_message")), {"module": str(module)} if module else None)
    if state == "REJECTED":
        return Failure("Reject", "The worker rejected the message")
    said = progress_from_meta("FAILURE", result)
    return Failure("Failure", (said.message if said is not None else None) or "The task failed without saying why")


def _sentence(message: object) -> str:
    """Celery stores an exception's ``args``: one argument is the message, several are joined as ``str(exc)`` would not."""
    if isinstance(message, (list, tuple)):
        return str(message[0]) if len(message) == 1 else ", ".join(str(part) for part in message)
    return "" if message is None else str(message)


def _latest(*times: datetime | None) -> datetime | None:
    return max((t for t in times if t is not None), default=None)


def _date_done(meta: Mapping[str, Any] | None) -> datetime | None:
    done = meta.get("date_done") if meta is not None else None
    if isinstance(done, str):
        try:
            done = datetime.fromisoformat(done)
        except ValueError:
            return None
    return done if isinstance(done, datetime) and done.tzinfo is not None else None
