"""The state machine: which writes are let in, and what an execution is, given what was seen.

Pure functions and one table. `allows_write` is the fence that every state write passes (the Redis store
has the same rule in Lua, ``stores/write.lua``; one conformance suite holds both to it). `resolve`
turns what was read into what is shown.

Why there is a fence at all: Celery keeps progress and state in one record and the last write wins,
so a late report un-ends a task (facts 2-4), and Celery does so itself (fact 42).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from headway.core.meta import OWN_KEYS, progress_from_meta
from headway.core.registry import (
    READY_STATES,
    AttemptStart,
    AttemptStarted,
    Registration,
    Snapshot,
    StateWrite,
    TaskRecord,
    WriteResult,
)
from headway.errors import ExecutionExpired, ExecutionNotFound
from headway.models import Execution, Failure, Phase, Progress, Status

#: Celery's state -> what the API calls it. Every other word is a task's own and means that it runs
#: (contract, section 3). IGNORED and REJECTED are stored by nobody but Headway: the run ended and
#: said nothing, which is an end without a fault; a message that was rejected for good is a job that
#: was not done.
PHASES: Mapping[str | None, tuple[Status, Phase]] = {
    None: (Status.PENDING, Phase.QUEUED),
    "PENDING": (Status.PENDING, Phase.QUEUED),
    "RECEIVED": (Status.PENDING, Phase.QUEUED),
    "RETRY": (Status.RUNNING, Phase.RETRYING),
    "SUCCESS": (Status.COMPLETED, Phase.SUCCEEDED),
    "IGNORED": (Status.COMPLETED, Phase.SUCCEEDED),
    "FAILURE": (Status.FAILED, Phase.FAILED),
    "REJECTED": (Status.FAILED, Phase.FAILED),
    "REVOKED": (Status.CANCELLED, Phase.CANCELLED),
}
RUNNING = (Status.RUNNING, Phase.RUNNING)

#: How long a registry that isn't written in one step with the result may be ahead of it (stores
#: without ``keeps_results``).
RESULT_GRACE = timedelta(seconds=10)


def allows_write(record: TaskRecord | None, write: StateWrite) -> bool:
    """Whether a write may be stored, given what is known.

    An attempt may write while it is the newest one and hasn't ended. A bystander (a worker's main
    process that saw its child die, a revoke) doesn't know the attempt's number: it may end what is
    open if it speaks of the same run, and what was never begun. Nobody may write over an end.
    """
    known = record if record is not None else TaskRecord(write.task_id)
    if write.attempt is not None:
        if write.attempt == known.attempt:
            return known.is_open
        # Only a store gives out numbers: one above the newest known was given out before the store
        # lost its data.
        return write.attempt > known.attempt and known.state not in READY_STATES
    if known.state in READY_STATES:
        return False
    if write.retries is not None and known.attempt:
        # That run has ended in RETRY; its time limit may still fire in the worker's main process
        # (fact 42).
        ended = write.retries == known.retries and not known.is_open
        if write.retries < known.retries or ended:
            return False
    if write.state == "REVOKED" and write.retries is None and known.is_open:
        # Celery 5.6 says so of every task that is flagged, and one that runs already goes on (fact
        # 14)
        return False
    # The same message, delivered twice: who lost it speaks of its own run, not of the newer one
    # (fact 13). Of two runs on one worker only the mark tells which.
    return not (
        known.is_open
        and (_differ(write.worker, known.worker) or _differ(write.delivery_id, known.delivery_id))
    )


def _differ(said: str | None, known: str | None) -> bool:
    return said is not None and known is not None and said != known


def allows_start(record: TaskRecord | None, *, result_gone: bool = False) -> bool:
    """Whether a new attempt may begin: always, but after a success, and after a cancel that was
    asked for and has had its end.

    ``result_gone``: the success's result has expired or was forgotten. Then an id that is used
    again (a nightly job with a fixed id) begins anew, as it would without Headway: the registry
    outlives the result, and may not hold the id hostage.
    """
    if record is None:
        return True
    if record.state == "REVOKED":
        return record.cancel_requested_at is None
    return record.state != "SUCCESS" or (record.result_stored and result_gone)


def is_same_delivery(record: TaskRecord | None, opening: AttemptStart) -> bool:
    """Whether this very run has been opened already: its worker got no answer in time, and asks
    again.
    """
    return (
        record is not None
        and opening.delivery_id is not None
        and record.delivery_id == opening.delivery_id
    )


def apply_registration(record: TaskRecord | None, registration: Registration) -> TaskRecord:
    """What is known after a publish: what was missing is filled in, and nothing that is known is
    lost (fact 45).

    But for a cancel that has had its end, and for a success that left no result
    (``ignore_result``), which nothing would ever open again: who publishes the same id once more
    wants it to run. A retry publishes before its end; a redelivery doesn't.
    """
    known = record if record is not None else TaskRecord(registration.task_id)
    cancel = None if known.state in READY_STATES else known.cancel_requested_at
    if known.state == "SUCCESS" and not known.result_stored:
        known = replace(
            known,
            state=None,
            finished_at=None,
            updated_at=registration.created_at,
            progress=None,
            progress_attempt=0,
        )
    # First heard of from its worker, and published again by a retry: it was made before it began,
    # not now.
    begun = known.started_at or registration.created_at
    return replace(
        known,
        task=known.task or registration.task,
        owner=known.owner or registration.owner,
        root_id=known.root_id or registration.root_id,
        parent_id=known.parent_id or registration.parent_id,
        group_id=known.group_id or registration.group_id,
        created_at=known.created_at or min(registration.created_at, begun),
        cancel_requested_at=cancel,
        expected_by=registration.expected_by,
    )


def apply_start(record: TaskRecord | None, opening: AttemptStart) -> TaskRecord:
    """What is known after a new attempt was let in (`allows_start`, and not `is_same_delivery`)."""
    known = record if record is not None else TaskRecord(opening.task_id)
    previous = _own_progress(known)
    # Celery's own count is right too where the store lost its data, or the runs before were not
    # Headway's.
    attempt = max(known.attempt, opening.retries) + 1
    if opening.heartbeat_ttl is not None:
        known = replace(
            known,
            heartbeat_attempt=attempt,
            heartbeat_ttl=opening.heartbeat_ttl,
            heartbeat_at=opening.at,
        )
    return replace(
        known,
        task=opening.task or known.task,
        attempt=attempt,
        state="STARTED",
        retries=opening.retries,
        worker=opening.worker,
        delivery_id=opening.delivery_id,
        owner=known.owner or opening.owner,
        progress=previous,
        progress_attempt=known.attempt if previous is not None else 0,
        started_at=known.started_at or opening.at,
        updated_at=opening.at,
        finished_at=None,
        result_stored=False,
        expected_by=None,
        first_seen_at=_first_seen_at(known, opening.at),
    )


def start_reply(
    record: TaskRecord | None, opening: AttemptStart, *, result_gone: bool = False
) -> AttemptStarted:
    """What its worker is told of a new attempt, given what was known before it."""
    known = record if record is not None else TaskRecord(opening.task_id)
    cancel = known.cancel_requested_at is not None
    if is_same_delivery(
        known, opening
    ):  # what it was told: of the attempts before it only the last one's progress was kept
        return AttemptStarted(
            known.attempt,
            cancel,
            known.progress if known.progress_attempt != known.attempt else None,
        )
    if not allows_start(record, result_gone=result_gone) or (
        opening.retry_published and known.retries > opening.retries
    ):
        return AttemptStarted(0, cancel)
    return AttemptStarted(apply_start(record, opening).attempt, cancel, _own_progress(known))


def apply_write(record: TaskRecord | None, write: StateWrite) -> TaskRecord:
    """What is known after a write was let in (`allows_write`)."""
    known = record if record is not None else TaskRecord(write.task_id)
    # The number that a write carries outlives the store's data: the fence stands again with the
    # first write.
    attempt = max(known.attempt, write.attempt or 0)
    ends = write.state in READY_STATES
    changed = replace(
        known,
        task=known.task or write.task,
        attempt=attempt,
        state=write.state,
        updated_at=write.at,
        last_ended_attempt=attempt if ends or write.state == "RETRY" else known.last_ended_attempt,
        finished_at=write.at if ends else None,
        result_stored=ends
        and not write.no_result
        and (write.result is not None or write.result_follows),
        first_seen_at=_first_seen_at(known, write.at),
        # Whoever reports lives: also the child of a worker that was killed.
        heartbeat_at=_latest(known.heartbeat_at, write.at)
        if known.heartbeat_at and write.attempt is not None
        else known.heartbeat_at,
    )
    progress = progress_of(write)
    return (
        changed
        if progress is None
        else replace(changed, progress=progress, progress_attempt=attempt)
    )


def _first_seen_at(known: TaskRecord, at: datetime) -> datetime | None:
    return at if known.listed_at is None else known.first_seen_at


def write_reply(record: TaskRecord | None, write: StateWrite) -> WriteResult:
    """What the writer is told, given what was known before."""
    return WriteResult(
        allows_write(record, write), record is not None and record.cancel_requested_at is not None
    )


def apply_heartbeat(
    record: TaskRecord | None, worker: str, lifetime: float, at: datetime
) -> TaskRecord | None:
    """What is known after a sign of life; None where it isn't one."""
    if record is None or not record.is_open or record.worker not in (None, worker):
        return None
    return replace(
        record, heartbeat_attempt=record.attempt, heartbeat_ttl=lifetime, heartbeat_at=at
    )


def is_alive(record: TaskRecord | None, now: datetime) -> bool | None:
    """``Snapshot.is_alive``, for a store that keeps the time of the last sign."""
    if (
        record is None
        or not record.is_open
        or record.heartbeat_attempt != record.attempt
        or record.heartbeat_at is None
    ):
        return None
    return now < record.heartbeat_at + timedelta(seconds=record.heartbeat_ttl)


def apply_cancel_request(record: TaskRecord | None, task_id: str, at: datetime) -> TaskRecord:
    """What is known after a cancel was asked for: what has ended can't be cancelled, and the first
    request is the one.
    """
    known = record if record is not None else TaskRecord(task_id)
    if known.state in READY_STATES or known.cancel_requested_at is not None:
        return known
    return replace(known, cancel_requested_at=at, first_seen_at=_first_seen_at(known, at))


def progress_of(write: StateWrite) -> Progress | None:
    """The progress that a write carries; None for an end or a retry, which carry a result or an
    exception.
    """
    if write.meta is None or write.state == "RETRY" or write.state in READY_STATES:
        return None
    return progress_from_meta(write.state, write.meta)


def supersedes(before: Execution, after: Execution) -> bool:
    """Whether a viewer that has ``before`` may be shown ``after``: only a new attempt replaces a
    terminal state. `allows_write` is the same rule for what is stored.
    """
    return not before.status.terminal or after.attempt > before.attempt


def is_current_report(shown: Execution, meta: Mapping[str, Any]) -> bool:
    """Whether a published meta is a report of the attempt that ``shown`` has as running.

    Such a report is complete in itself. Everything else (a start, an end, a retry, a report
    without an attempt) also changes the registry, which the message doesn't carry, so it requires
    a read.
    """
    state, result = meta.get("status"), meta.get("result")
    return (
        shown.status is Status.RUNNING
        and shown.phase in (Phase.RUNNING, Phase.CANCELLING)
        and isinstance(result, Mapping)
        and not (state in PHASES or state == "STARTED")
        and result.get("attempt") == shown.attempt
    )


def backend_is_ahead(record: TaskRecord | None, meta: Mapping[str, Any] | None) -> bool:
    """Whether the result backend speaks of what this record of the registry doesn't know: an end,
    or a later attempt.
    """
    if meta is None:
        return False
    known = record if record is not None else TaskRecord("")
    result = meta.get("result")
    said = result.get("attempt") if isinstance(result, Mapping) else None
    later = isinstance(said, int) and said > known.attempt
    return later or (meta.get("status") in READY_STATES and known.state not in READY_STATES)


def empty_meta(task_id: str, state: str) -> dict[str, Any]:
    """Celery's record of a state with nothing in it, for a store to tell watchers of what is kept
    nowhere else.
    """
    return {
        "status": state,
        "result": None,
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": task_id,
    }


def resolve(snapshot: Snapshot, now: datetime) -> Execution:
    """What an execution is now.

    Raises ``ExecutionNotFound`` where neither registry nor result backend knows it,
    ``ExecutionExpired`` where it ended with a result that is gone.
    """
    if snapshot.record is None and snapshot.meta is None:
        raise ExecutionNotFound(snapshot.task_id)
    record = snapshot.record if snapshot.record is not None else TaskRecord(snapshot.task_id)
    meta: Mapping[str, Any] = snapshot.meta if snapshot.meta is not None else {}
    state = _effective_state(record, snapshot, now)
    if state in READY_STATES and snapshot.meta is None and record.result_stored:
        raise ExecutionExpired(snapshot.task_id)
    # The backend's record explains the state only where it speaks of the same one, and not of a
    # report of an attempt before it.
    result = (
        meta.get("result")
        if _stored_state(snapshot) == state and not _from_earlier_attempt(meta, record)
        else None
    )
    progress = _progress(record, state, result)
    status, phase = PHASES.get(state, RUNNING)
    if status is Status.PENDING and (record.is_open or progress is not None):
        status, phase = RUNNING  # a task's own word happens to be PENDING: what reports has begun
    if phase is Phase.RUNNING and record.is_open and snapshot.alive is False:
        phase = Phase.STALLED
    # Cancelling says that the run will confirm it. Where nothing of it lives, nobody will, and that
    # is what a person must see.
    if (
        record.cancel_requested_at is not None
        and not status.terminal
        and phase is not Phase.STALLED
    ):
        phase = Phase.CANCELLING
    finished_at = (record.finished_at or _date_done(meta)) if status.terminal else None
    return Execution(
        execution_id=snapshot.task_id,
        status=status,
        phase=phase,
        progress=progress,
        task=record.task or _text(meta.get("name")),
        attempt=record.attempt or _guessed_attempt(record, status, meta),
        outputs=result if status is Status.COMPLETED else None,
        error=failure(state, result, began=record.attempt > 0) if status is Status.FAILED else None,
        created_at=record.created_at,
        started_at=record.started_at,
        updated_at=_latest(
            record.updated_at, finished_at, progress.timestamp if progress is not None else None
        ),
        finished_at=finished_at,
        worker=record.worker or _text(meta.get("worker")),
        owner=record.owner,
        root_id=record.root_id,
        group_id=record.group_id,
    )


def _effective_state(record: TaskRecord, snapshot: Snapshot, now: datetime) -> str | None:
    """Registry and backend may disagree: the registry is right about every end it admitted, the
    backend about all else.

    A backend's end that the registry doesn't have comes from a process without the fence (a
    publisher or a worker without Headway). Where the two aren't written in one step, the backend's
    record may also be an older one that is about to be overwritten.
    """
    stored = _stored_state(snapshot)
    if record.state in READY_STATES:
        return (
            _before_the_end(record, stored)
            if _result_is_due(record, snapshot, stored, now)
            else record.state
        )
    if (
        stored is None
        or (stored == "PENDING" and record.state is not None)
        or (stored == "RETRY" and record.is_open)
    ):
        return record.state  # RETRY: an old attempt's word (fact 42), the next one has begun
    if record.state is None and record.attempt:
        # Published again after an end that left no result: what stands there is of that run, unless
        # others have ended it since.
        return (
            stored if stored in READY_STATES and _newer_than_record(snapshot.meta, record) else None
        )
    if not snapshot.atomic and (record.attempt > 1 or record.state == "RETRY"):
        if stored not in READY_STATES:
            return record.state if record.state in ("STARTED", "RETRY") else stored
        done = _date_done(snapshot.meta)
        if done is not None and record.updated_at is not None and done < record.updated_at:
            return record.state  # the end of the attempt before
    return stored


def _from_earlier_attempt(meta: Mapping[str, Any], record: TaskRecord) -> bool:
    result = meta.get("result")
    if (
        not isinstance(result, Mapping)
        or result.keys() != OWN_KEYS
        or meta.get("status") in READY_STATES
    ):
        # what a task stores by itself may call anything an attempt: its retries, counted from 0
        return False
    said = result["attempt"]
    return isinstance(said, int) and said < record.attempt


def _newer_than_record(meta: Mapping[str, Any] | None, record: TaskRecord) -> bool:
    done = _date_done(meta)
    return done is not None and record.updated_at is not None and done > record.updated_at


def _result_is_due(
    record: TaskRecord, snapshot: Snapshot, stored: str | None, now: datetime
) -> bool:
    """Whether the result of an end is still on its way into the result backend."""
    if (
        snapshot.atomic
        or not record.result_stored
        or stored == record.state
        or record.finished_at is None
    ):
        return False
    return now - record.finished_at < RESULT_GRACE


def _before_the_end(record: TaskRecord, stored: str | None) -> str | None:
    """What an execution was before the end whose result isn't there yet: an end is told once, and
    with its result.
    """
    if stored is not None and stored not in READY_STATES and stored != "PENDING":
        return stored
    return "STARTED" if record.attempt else None


def _progress(record: TaskRecord, state: str | None, result: object) -> Progress | None:
    """The last report of the newest attempt: a failed job says how far it came, a new attempt not
    how far the last one did.
    """
    own = _own_progress(record)
    exception = isinstance(result, Mapping) and "exc_type" in result
    said = None if exception or state in ("SUCCESS", None) else progress_from_meta(state, result)
    if state in READY_STATES or state in ("RETRY", "STARTED", "RECEIVED", None):
        return (
            own if own is not None else said
        )  # said: a task that never heard of Headway, and whose end has a payload
    return said if said is not None else own


def _own_progress(record: TaskRecord) -> Progress | None:
    return record.progress if record.progress_attempt == record.attempt else None


def _guessed_attempt(record: TaskRecord, status: Status, meta: Mapping[str, Any]) -> int:
    """The attempt of a task whose worker has no Headway: Celery counts retries where
    ``result_extended`` is set.
    """
    if record.state is not None or status in (Status.PENDING, Status.CANCELLED):
        return 0
    retries = meta.get("retries")
    return retries + 1 if isinstance(retries, int) else 1


def failure(state: str | None, result: object, *, began: bool = True) -> Failure:
    """Why it failed, from the backend's record. A hand-made FAILURE (fact 8) may hold anything."""
    if isinstance(result, Mapping) and "exc_type" in result:
        module = result.get("exc_module")
        return Failure(
            str(result["exc_type"]),
            _sentence(result.get("exc_message")),
            {"module": str(module)} if module else None,
        )
    if state == "REJECTED":
        never = "It never ran: its message could not be published, or a worker rejected it"
        return Failure("Reject", "The worker rejected the message" if began else never)
    said = progress_from_meta("FAILURE", result)
    return Failure(
        "Failure",
        (said.message if said is not None else None) or "The task failed without saying why",
    )


def _sentence(message: object) -> str:
    """Celery stores an exception's ``args``: one argument is the message, several are joined as
    ``str(exc)`` would not.
    """
    if isinstance(message, (list, tuple)):
        return str(message[0]) if len(message) == 1 else ", ".join(str(part) for part in message)
    return "" if message is None else str(message)


def _latest(*times: datetime | None) -> datetime | None:
    return max((t for t in times if t is not None), default=None)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _stored_state(snapshot: Snapshot) -> str | None:
    return _text(snapshot.meta.get("status")) if snapshot.meta is not None else None


def _date_done(meta: Mapping[str, Any] | None) -> datetime | None:
    done = meta.get("date_done") if meta is not None else None
    if isinstance(done, str):
        try:
            done = datetime.fromisoformat(done)
        except ValueError:
            return None
    return done if isinstance(done, datetime) and done.tzinfo is not None else None
