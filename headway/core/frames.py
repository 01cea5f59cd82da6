"""The messages of the contract, for WebSocket, server-sent events and REST alike: sections 2 and 4,
in one place.

Plain JSON-safe dicts. Encoding (`encode`) is strict JSON: NaN and Infinity never leave (fact 9).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from headway.models import Execution, History, Phase, Progress, Status

Json = dict[str, Any]

#: How deep an answer may be nested; what lies deeper is cut, for a result may be as deep as the
#: decoder bears.
MAX_DEPTH = 100

#: The frame type that tells of an end; the socket closes with 1000 after it.
TERMINAL_FRAMES: Mapping[Status, str] = {
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}


def encode(body: object) -> bytes:
    """Compact UTF-8 JSON. The body must have gone through `json_safe`, as all of this module's has."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "replace"
    )


def iso(time: datetime | None) -> str | None:
    """UTC, ISO 8601 with ``Z`` and milliseconds."""
    return (
        None
        if time is None
        else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def json_safe(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The nearest thing that JSON can say: a task may return anything, and a reader must get an
    answer all the same.
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {str(key): json_safe(item, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_safe(item, depth - 1) for item in value]
    return _text(value)


def _text(value: object) -> str | None:
    if isinstance(value, datetime):
        return iso(value) if value.tzinfo is not None else value.isoformat()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def progress_json(progress: Progress | None) -> Json | None:
    """``{current_step, total_steps, percentage, current_step_name}``, always all four, and what is
    finer (section 2).
    """
    if progress is None:
        return None
    return {
        "current_step": _floor(progress.current),
        "total_steps": _floor(progress.total),
        "percentage": float(progress.percentage),
        "current_step_name": progress.message,
        "message": progress.message,
        "attributes": json_safe(progress.attributes),
        "current": json_safe(progress.current),
        "total": json_safe(progress.total),
        "indeterminate": progress.indeterminate,
        "rate": json_safe(progress.rate),
        "eta_seconds": json_safe(progress.eta_seconds),
        "timestamp": iso(progress.timestamp),
    }


def _floor(number: int | float | None) -> int:
    """Steps that are done, as an int; 0 where there is no count, since the field is an int in the
    seed document.
    """
    if isinstance(number, float):
        return math.floor(number) if math.isfinite(number) else 0
    return number if number is not None else 0


def tensorlake_json(progress: Progress) -> Json:
    """Tensorlake's poll: ``timestamp`` in whole milliseconds since the epoch."""
    stamp = progress.timestamp
    return {
        "current": json_safe(progress.current),
        "total": json_safe(progress.total),
        "message": progress.message,
        "attributes": json_safe(progress.attributes),
        "timestamp": None if stamp is None else round(stamp.timestamp() * 1000),
    }


def execution_json(execution: Execution) -> Json:
    """``GET /executions/{id}``: every key always present, null where there is nothing."""
    return {
        "execution_id": execution.execution_id,
        "status": execution.status.value,
        "phase": execution.phase.value,
        "progress": progress_json(execution.progress),
        "task": execution.task,
        "attempt": execution.attempt,
        "outputs": json_safe(execution.outputs),
        "error": error_json(execution),
        "created_at": iso(execution.created_at),
        "started_at": iso(execution.started_at),
        "updated_at": iso(execution.updated_at),
        "finished_at": iso(execution.finished_at),
        "worker": execution.worker,
        "owner": execution.owner,
        "root_id": execution.root_id,
        "group_id": execution.group_id,
    }


def history_json(execution: Execution, history: History) -> Json:
    """``GET /executions/{id}/history``: its reports, oldest first. Where none is kept of those that
    were, it isn't complete.
    """
    return {
        "execution_id": execution.execution_id,
        "complete": history.complete and (bool(history.reports) or execution.progress is None),
        "reports": [
            {
                "attempt": report.attempt,
                "timestamp": iso(report.progress.timestamp),
                "current": json_safe(report.progress.current),
                "total": json_safe(report.progress.total),
                "percentage": float(report.progress.percentage),
                "indeterminate": report.progress.indeterminate,
                "message": report.progress.message,
                "attributes": json_safe(report.progress.attributes),
            }
            for report in history.reports
        ],
    }


def error_json(execution: Execution) -> Json | None:
    """``{type, message, details}`` of a failed execution."""
    error = execution.error
    return (
        None
        if error is None
        else {"type": error.type, "message": error.message, "details": json_safe(error.details)}
    )


def status_frame(execution: Execution, at: datetime) -> Json:
    """What a viewer is told first, and again where the phase or the attempt changes or the stream
    had a gap.
    """
    return _frame("status", execution, at) | {
        "phase": execution.phase.value,
        "progress": progress_json(execution.progress),
    }


def started_frame(execution: Execution, at: datetime) -> Json:
    """From pending to running, whatever it has become since: a client that looks at the status
    alone waits for the end.
    """
    return _frame("started", execution, at) | {"status": Status.RUNNING.value}


def terminal_frame(execution: Execution, at: datetime) -> Json:
    """The last frame of an execution that has ended."""
    frame = _frame(TERMINAL_FRAMES[execution.status], execution, at)
    if execution.status is Status.COMPLETED:
        frame["outputs"] = json_safe(execution.outputs)
    elif execution.status is Status.FAILED:
        frame["error"] = error_json(execution)
    return frame | {"progress": progress_json(execution.progress)}


def error_frame(
    code: str,
    message: str,
    at: datetime,
    execution_id: str | None = None,
    status: Status | None = None,
) -> Json:
    """Something is wrong with the stream itself (``status`` is null where it isn't known)."""
    return {
        "type": "error",
        "execution_id": execution_id,
        "status": None if status is None else status.value,
        "timestamp": iso(at),
        "code": code,
        "message": message,
    }


def opening_frames(
    execution: Execution, at: datetime, before: Execution | None = None
) -> Iterator[Json]:
    """What a viewer is sent at connect: ``status``, and the end where it has come already.

    The same after a gap in the stream, with what was shown ``before`` it: what began meanwhile is
    said to have ``started``.
    """
    yield status_frame(execution, at)
    if before is not None and before.status is Status.PENDING and _has_begun(before, execution):
        yield started_frame(execution, at)
    if execution.status.terminal:
        yield terminal_frame(execution, at)


def frames_between(before: Execution, after: Execution, at: datetime) -> Iterator[Json]:
    """What a viewer that was shown ``before`` is told of ``after``: nothing where nothing changed.

    A run that goes from pending to its end at once still gives ``started`` first. An end is sent
    once; what comes after it, but a new attempt, is dropped (terminal is terminal).
    """
    if before.status.terminal and after.attempt <= before.attempt:
        return
    changed = (before.phase, before.attempt) != (after.phase, after.attempt)
    if before.status is Status.PENDING and _has_begun(before, after):
        yield started_frame(after, at)
        changed = after.phase is not Phase.RUNNING
    if changed and not after.status.terminal:
        yield status_frame(after, at)  # it carries the progress already
    elif after.status.terminal:
        yield terminal_frame(after, at)
    elif after.progress is not None and not after.progress.same_as(before.progress):
        yield _frame("progress", after, at) | {"progress": progress_json(after.progress)}


def _has_begun(before: Execution, after: Execution) -> bool:
    """Whether an attempt began in between, even if it has ended since: a revoke before the start
    has none.
    """
    return after.status in (Status.RUNNING, Status.COMPLETED) or after.attempt > before.attempt


def _frame(kind: str, execution: Execution, at: datetime) -> Json:
    return {
        "type": kind,
        "execution_id": execution.execution_id,
        "status": execution.status.value,
        "timestamp": iso(at),
    }
