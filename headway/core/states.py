"""The state machine: which writes are accepted, and what state an execution is in.

Pure functions and one table. `allows_write` is the fence that every state write passes. The Redis
store has the same rule in Lua (``stores/lua/write_state.lua``), and one conformance suite tests
both. `resolve` turns the records that were read into an `Execution`.

The fence is necessary because Celery keeps progress and state in one record, and the last write
wins. A late report replaces a terminal state (celery-facts#late-progress-replaces-failure), and
Celery does so itself (celery-facts#celery-undoes-its-own-ends).
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

# fmt: off
#: Celery's state -> status and phase in the API. Any other state is a custom one of the task, which
#: then is running (contract, section 3). Only Headway stores IGNORED and REJECTED: an ignored task
#: ended without an error, a rejected one did not do its job.
PHASES: Mapping[str | None, tuple[Status, Phase]] = {
    None:       (Status.PENDING,   Phase.QUEUED),
    "PENDING":  (Status.PENDING,   Phase.QUEUED),
    "RECEIVED": (Status.PENDING,   Phase.QUEUED),
    "RETRY":    (Status.RUNNING,   Phase.RETRYING),
    "SUCCESS":  (Status.COMPLETED, Phase.SUCCEEDED),
    "IGNORED":  (Status.COMPLETED, Phase.SUCCEEDED),
    "FAILURE":  (Status.FAILED,    Phase.FAILED),
    "REJECTED": (Status.FAILED,    Phase.FAILED),
    "REVOKED":  (Status.CANCELLED, Phase.CANCELLED),
}
# fmt: on
RUNNING = (Status.RUNNING, Phase.RUNNING)

#: How long the registry may be ahead of the result backend if two steps write them (stores without
#: ``keeps_results``).
RESULT_GRACE = timedelta(seconds=10)


def allows_write(record: TaskRecord | None, write: StateWrite) -> bool:
    """Whether a write may be stored. Nothing replaces a terminal state.

    An attempt may write while it is the newest one and has not ended. An external writer (a
    worker's main process whose child died, a revoke) doesn't know the attempt's number: it may end
    an open attempt of the same delivery, and a task that never started.
    """
    known = record if record is not None else TaskRecord(write.task_id)
    if write.attempt is not None:
        if write.attempt == known.attempt:
            return known.is_open
        # Only a store assigns numbers. A number above the newest known one was assigned before the
        # store lost its data.
        return write.attempt > known.attempt and known.state not in READY_STATES
    if known.state in READY_STATES:
        return False
    if write.retries is not None and known.attempt:
        # That attempt has ended in RETRY, but its time limit may still fire in the worker's main
        # process (celery-facts#celery-undoes-its-own-ends).
        ended = write.retries == known.retries and not known.is_open
        if write.retries < known.retries or ended:
            return False
    if write.state == "REVOKED" and write.retries is None and known.is_open:
        # Celery 5.6 stores REVOKED for every flagged task, but a running task continues
        # (celery-facts#revoke-does-not-stop-a-running-task).
        return False
    # The same message may be delivered twice (celery-facts#redelivery-runs-the-same-id-twice). A
    # worker that lost its child means its own delivery, not the newer one. On one worker only the
    # delivery id distinguishes them.
    return not (
        known.is_open
        and (_differ(write.worker, known.worker) or _differ(write.delivery_id, known.delivery_id))
    )


def _differ(written: str | None, known: str | None) -> bool:
    return written is not None and known is not None and written != known


def allows_start(record: TaskRecord | None, *, result_gone: bool = False) -> bool:
    """Whether a new attempt may start: unless the task has succeeded, or its cancel is confirmed.

    ``result_gone``: the success's result has expired or was forgotten. Then the id may be used
    again (a nightly job with a fixed id), as it could without Headway. The registry outlives the
    result and must not block the id.
    """
    if record is None:
        return True
    if record.state == "REVOKED":
        return record.cancel_requested_at is None
    return record.state != "SUCCESS" or (record.result_stored and result_gone)


def is_same_delivery(record: TaskRecord | None, start: AttemptStart) -> bool:
    """Whether this delivery has started already: its worker got no reply in time, and retries."""
    return (
        record is not None
        and start.delivery_id is not None
        and record.delivery_id == start.delivery_id
    )


def apply_registration(record: TaskRecord | None, registration: Registration) -> TaskRecord:
    """The record after a publish: it fills in missing fields and overwrites none
    (celery-facts#before-task-publish-comes-first).

    There are two exceptions, which no attempt could follow otherwise: a confirmed cancel, and a
    success without a result (``ignore_result``). Publishing the same id again resets them. A retry
    is published before its attempt ends, and a redelivery isn't published.
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
    # If the store first saw the task from its worker, a retry registers it after its start.
    started = known.started_at or registration.created_at
    return replace(
        known,
        task=known.task or registration.task,
        owner=known.owner or registration.owner,
        root_id=known.root_id or registration.root_id,
        parent_id=known.parent_id or registration.parent_id,
        group_id=known.group_id or registration.group_id,
        created_at=known.created_at or min(registration.created_at, started),
        cancel_requested_at=cancel,
        expected_by=registration.expected_by,
    )


def apply_start(record: TaskRecord | None, start: AttemptStart) -> TaskRecord:
    """The record after an accepted start (`allows_start`, and not `is_same_delivery`)."""
    known = record if record is not None else TaskRecord(start.task_id)
    previous = _own_progress(known)
    # Celery's own count is also right if the store lost its data, or earlier attempts ran without
    # Headway.
    attempt = max(known.attempt, start.retries) + 1
    if start.heartbeat_ttl is not None:
        known = replace(
            known,
            heartbeat_attempt=attempt,
            heartbeat_ttl=start.heartbeat_ttl,
            heartbeat_at=start.at,
        )
    return replace(
        known,
        task=start.task or known.task,
        attempt=attempt,
        state="STARTED",
        retries=start.retries,
        worker=start.worker,
        delivery_id=start.delivery_id,
        owner=known.owner or start.owner,
        progress=previous,
        progress_attempt=known.attempt if previous is not None else 0,
        started_at=known.started_at or start.at,
        updated_at=start.at,
        finished_at=None,
        result_stored=False,
        expected_by=None,
        first_seen_at=_first_seen_at(known, start.at),
    )


def start_reply(
    record: TaskRecord | None, start: AttemptStart, *, result_gone: bool = False
) -> AttemptStarted:
    """The reply to a start, given the record before it."""
    known = record if record is not None else TaskRecord(start.task_id)
    cancel = known.cancel_requested_at is not None
    if is_same_delivery(known, start):
        # The first reply again. It had the progress of the attempt before, unless the attempt has
        # reported its own since.
        previous = known.progress if known.progress_attempt != known.attempt else None
        return AttemptStarted(known.attempt, cancel, previous)
    if not allows_start(record, result_gone=result_gone) or (
        start.retry_published and known.retries > start.retries
    ):
        return AttemptStarted(0, cancel)
    return AttemptStarted(apply_start(record, start).attempt, cancel, _own_progress(known))


def apply_write(record: TaskRecord | None, write: StateWrite) -> TaskRecord:
    """The record after an accepted write (`allows_write`)."""
    known = record if record is not None else TaskRecord(write.task_id)
    # A write carries its attempt's number: if the store loses its data, the first write restores
    # the fence.
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
        # A report counts as a heartbeat, also from the child of a killed worker.
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
    """The reply to a write, given the record before it."""
    return WriteResult(
        allows_write(record, write), record is not None and record.cancel_requested_at is not None
    )


def apply_heartbeat(
    record: TaskRecord | None, worker: str, ttl: float, at: datetime
) -> TaskRecord | None:
    """The record after a heartbeat, or None if the worker doesn't run this task."""
    if record is None or not record.is_open or record.worker not in (None, worker):
        return None
    return replace(record, heartbeat_attempt=record.attempt, heartbeat_ttl=ttl, heartbeat_at=at)


def is_alive(record: TaskRecord | None, now: datetime) -> bool | None:
    """``Snapshot.alive``, for a store that keeps the time of the last heartbeat."""
    if (
        record is None
        or not record.is_open
        or record.heartbeat_attempt != record.attempt
        or record.heartbeat_at is None
    ):
        return None
    return now < record.heartbeat_at + timedelta(seconds=record.heartbeat_ttl)


def apply_cancel_request(record: TaskRecord | None, task_id: str, at: datetime) -> TaskRecord:
    """The record after a cancel request. Ignored after an end and after a first request."""
    known = record if record is not None else TaskRecord(task_id)
    if known.state in READY_STATES or known.cancel_requested_at is not None:
        return known
    return replace(known, cancel_requested_at=at, first_seen_at=_first_seen_at(known, at))


def progress_of(write: StateWrite) -> Progress | None:
    """The progress in a write. An end and a retry have none, but a result or an exception."""
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
        and isinstance(state, str)
        and state not in PHASES
        and state != "STARTED"
        and isinstance(result, Mapping)
        and result.get("attempt") == shown.attempt
    )


def backend_is_ahead(record: TaskRecord | None, meta: Mapping[str, Any] | None) -> bool:
    """Whether the result backend is ahead of the registry: it has a terminal state or a later
    attempt.
    """
    if meta is None:
        return False
    known = record if record is not None else TaskRecord("")
    result = meta.get("result")
    attempt = result.get("attempt") if isinstance(result, Mapping) else None
    later = isinstance(attempt, int) and attempt > known.attempt
    return later or (meta.get("status") in READY_STATES and known.state not in READY_STATES)


def empty_meta(task_id: str, state: str) -> dict[str, Any]:
    """Celery's record of a state without a result. A store publishes it for a change that is not in
    the result backend.
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
    """The execution as readers get it.

    Raises ``ExecutionNotFound`` if neither registry nor result backend has a record, and
    ``ExecutionExpired`` if it has ended and its result has expired.
    """
    if snapshot.record is None and snapshot.meta is None:
        raise ExecutionNotFound(snapshot.task_id)
    record = snapshot.record if snapshot.record is not None else TaskRecord(snapshot.task_id)
    meta: Mapping[str, Any] = snapshot.meta if snapshot.meta is not None else {}
    state = _effective_state(record, snapshot, now)
    if state in READY_STATES and snapshot.meta is None and record.result_stored:
        raise ExecutionExpired(snapshot.task_id)
    # Use the backend's record only if it has the same state and isn't a report of an earlier
    # attempt.
    result = (
        meta.get("result")
        if _stored_state(snapshot) == state and not _from_earlier_attempt(meta, record)
        else None
    )
    progress = _progress(record, state, result)
    status, phase = PHASES.get(state, RUNNING)
    if status is Status.PENDING and (record.is_open or progress is not None):
        status, phase = RUNNING  # the task reports with a custom state named PENDING
    if phase is Phase.RUNNING and record.is_open and snapshot.alive is False:
        phase = Phase.STALLED
    # "Cancelling" promises that the attempt will confirm the cancel. A stalled attempt won't, and
    # people must see that it is stalled.
    if (
        record.cancel_requested_at is not None
        and not status.terminal
        and phase is not Phase.STALLED
    ):
        phase = Phase.CANCELLING
    failed = status is Status.FAILED
    finished_at = (record.finished_at or _date_done(meta)) if status.terminal else None
    return Execution(
        execution_id=snapshot.task_id,
        status=status,
        phase=phase,
        progress=progress,
        task=record.task or _text(meta.get("name")),
        attempt=record.attempt or _guessed_attempt(record, status, meta),
        outputs=result if status is Status.COMPLETED else None,
        error=_failure(state, result, started=record.attempt > 0) if failed else None,
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
    """The state if registry and backend disagree: the registry is right about each end that it
    accepted, the backend about everything else.

    If only the backend has an end, a process without the fence stored it (a publisher or a worker
    without Headway). If two steps write the records, the backend's may also be an older one that is
    about to be overwritten.
    """
    stored = _stored_state(snapshot)
    if record.state in READY_STATES:
        return (
            _state_before_end(record, stored)
            if _result_is_pending(record, snapshot, stored, now)
            else record.state
        )
    if (
        stored is None
        or (stored == "PENDING" and record.state is not None)
        or (stored == "RETRY" and record.is_open)
    ):
        # RETRY: an earlier attempt's late write (celery-facts#celery-undoes-its-own-ends)
        return record.state
    if record.state is None and record.attempt:
        # Published again after an end without a result: the stored state is that of the attempt
        # before, unless a process without Headway has ended the new one.
        return (
            stored if stored in READY_STATES and _newer_than_record(snapshot.meta, record) else None
        )
    if not snapshot.atomic and (record.attempt > 1 or record.state == "RETRY"):
        if stored not in READY_STATES:
            return record.state if record.state in ("STARTED", "RETRY") else stored
        done = _date_done(snapshot.meta)
        if done is not None and record.updated_at is not None and done < record.updated_at:
            return record.state  # the end of an earlier attempt
    return stored


def _from_earlier_attempt(meta: Mapping[str, Any], record: TaskRecord) -> bool:
    result = meta.get("result")
    if (
        not isinstance(result, Mapping)
        or result.keys() != OWN_KEYS
        or meta.get("status") in READY_STATES
    ):
        # A task's own meta may use "attempt" for anything, such as retries that start at 0.
        return False
    attempt = result["attempt"]
    return isinstance(attempt, int) and attempt < record.attempt


def _newer_than_record(meta: Mapping[str, Any] | None, record: TaskRecord) -> bool:
    done = _date_done(meta)
    return done is not None and record.updated_at is not None and done > record.updated_at


def _result_is_pending(
    record: TaskRecord, snapshot: Snapshot, stored: str | None, now: datetime
) -> bool:
    """Whether the result of an end isn't stored yet, within `RESULT_GRACE`."""
    if (
        snapshot.atomic
        or not record.result_stored
        or stored == record.state
        or record.finished_at is None
    ):
        return False
    return now - record.finished_at < RESULT_GRACE


def _state_before_end(record: TaskRecord, stored: str | None) -> str | None:
    """The state before an end whose result isn't stored yet. The end is shown once, with its
    result.
    """
    if stored is not None and stored not in READY_STATES and stored != "PENDING":
        return stored
    return "STARTED" if record.attempt else None


def _progress(record: TaskRecord, state: str | None, result: object) -> Progress | None:
    """The last report of the newest attempt. A failed one keeps it, a new one starts without."""
    own = _own_progress(record)
    exception = isinstance(result, Mapping) and "exc_type" in result
    stored = None if exception or state in ("SUCCESS", None) else progress_from_meta(state, result)
    if state in READY_STATES or state in ("RETRY", "STARTED", "RECEIVED", None):
        # Without a report of its own: a task without Headway, whose end has a payload.
        return own if own is not None else stored
    return stored if stored is not None else own


def _own_progress(record: TaskRecord) -> Progress | None:
    return record.progress if record.progress_attempt == record.attempt else None


def _guessed_attempt(record: TaskRecord, status: Status, meta: Mapping[str, Any]) -> int:
    """The attempt of a task whose worker has no Headway. Celery stores the number of retries only
    with ``result_extended``.
    """
    if record.state is not None or status in (Status.PENDING, Status.CANCELLED):
        return 0
    retries = meta.get("retries")
    return retries + 1 if isinstance(retries, int) else 1


def _failure(state: str | None, result: object, *, started: bool) -> Failure:
    """The failure in the backend's record. A FAILURE of ``update_state`` may have any result
    (celery-facts#failure-meta-breaks-readers).
    """
    if isinstance(result, Mapping) and "exc_type" in result:
        module = result.get("exc_module")
        return Failure(
            str(result["exc_type"]),
            _exception_message(result.get("exc_message")),
            {"module": str(module)} if module else None,
        )
    if state == "REJECTED":
        never = "It never ran: its message could not be published, or a worker rejected it"
        return Failure("Reject", "The worker rejected the message" if started else never)
    progress = progress_from_meta("FAILURE", result)
    message = progress.message if progress is not None else None
    return Failure("Failure", message or "The task failed without saying why")


def _exception_message(message: object) -> str:
    """Celery stores an exception's ``args``. One argument is the message. Several are joined, which
    reads better than ``str(exc)``.
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
