"""The models as JSON and back: what the HTTP API, the streams and the command line exchange
(sections 2 and 4 of the contract).

Each ``*_json`` function returns plain JSON-safe data. Its inverse ``*_from_json`` restores the
model, up to what JSON can't hold: times have whole milliseconds, and a result that isn't JSON is
text. The inverses ignore keys that this version doesn't know. They raise ``KeyError``,
``TypeError`` or ``ValueError`` for a body that doesn't follow the contract.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headway.models import Execution, Failure, History, Phase, Progress, Report, Status

Json = dict[str, Any]
Body = Mapping[str, Any]

#: How deep a response may be nested. Deeper values are cut: a result may be as deep as its decoder
#: allows.
MAX_DEPTH = 100

_TENSORLAKE_KEYS = ("current", "total", "message", "attributes")
_HISTORY_KEYS = (
    "timestamp",
    "current",
    "total",
    "percentage",
    "indeterminate",
    "message",
    "attributes",
)


# --- values ---


def encode(body: object) -> bytes:
    """Compact, strict UTF-8 JSON. ``body`` must be JSON-safe, as all results of this module are.

    NaN and Infinity raise ``ValueError``: Python would write them as bare words, which no browser
    parses (celery-facts#nan-is-not-json).
    """
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(
        "utf-8", "replace"
    )


def json_safe(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The nearest JSON value. A task may return anything, and a reader still needs a response."""
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


def iso(time: datetime | None) -> str | None:
    """UTC as ISO 8601, with ``Z`` and milliseconds."""
    return (
        None
        if time is None
        else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def time_from_json(text: str | None) -> datetime | None:
    """The inverse of `iso`. Accepts any zone, but requires one."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return time.astimezone(UTC)


# --- progress ---


def progress_json(progress: Progress | None) -> Json | None:
    """``{current_step, total_steps, percentage, current_step_name}`` of the Progress Query API,
    and Headway's finer fields. Every key is always present (contract, section 2).
    """
    return None if progress is None else _progress(progress)


def _progress(progress: Progress) -> Json:
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
    """Completed steps as an int. 0 if there is no count: the seed document has an int here."""
    if isinstance(number, float):
        return math.floor(number) if math.isfinite(number) else 0
    return number if number is not None else 0


def progress_from_json(body: Body | None) -> Progress | None:
    """The inverse of `progress_json`. Percentage and remaining time are computed again."""
    if body is None:
        return None
    return Progress(
        current=body["current"],
        total=body["total"],
        message=body["message"],
        attributes=body["attributes"],
        timestamp=time_from_json(body["timestamp"]),
        rate=body["rate"],
    )


def tensorlake_json(progress: Progress) -> Json:
    """Tensorlake's poll response: ``timestamp`` in whole milliseconds since the epoch."""
    full, stamp = _progress(progress), progress.timestamp
    milliseconds = None if stamp is None else round(stamp.timestamp() * 1000)
    return {key: full[key] for key in _TENSORLAKE_KEYS} | {"timestamp": milliseconds}


# --- executions ---


def execution_json(execution: Execution) -> Json:
    """``GET /executions/{id}``: every key is always present, null if there is no value."""
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


def execution_from_json(body: Body) -> Execution:
    """The inverse of `execution_json`, also for a listing item, which has no ``outputs``."""
    return Execution(
        execution_id=body["execution_id"],
        status=Status(body["status"]),
        phase=Phase(body["phase"]),
        progress=progress_from_json(body["progress"]),
        task=body["task"],
        attempt=body["attempt"],
        outputs=body.get("outputs"),
        error=error_from_json(body["error"]),
        created_at=time_from_json(body["created_at"]),
        started_at=time_from_json(body["started_at"]),
        updated_at=time_from_json(body["updated_at"]),
        finished_at=time_from_json(body["finished_at"]),
        worker=body["worker"],
        owner=body["owner"],
        root_id=body["root_id"],
        group_id=body["group_id"],
    )


def error_json(execution: Execution) -> Json | None:
    """``{type, message, details}`` of a failed execution."""
    error = execution.error
    return (
        None
        if error is None
        else {"type": error.type, "message": error.message, "details": json_safe(error.details)}
    )


def error_from_json(body: Body | None) -> Failure | None:
    """The inverse of `error_json`."""
    return None if body is None else Failure(body["type"], body["message"], body["details"])


# --- history ---


def history_json(execution: Execution, history: History) -> Json:
    """``GET /executions/{id}/history``: the reports, oldest first.

    An execution with progress but without any stored report is not complete.
    """
    return {
        "execution_id": execution.execution_id,
        "complete": history.complete and (bool(history.reports) or execution.progress is None),
        "reports": [_report(report) for report in history.reports],
    }


def _report(report: Report) -> Json:
    full = _progress(report.progress)
    return {"attempt": report.attempt} | {key: full[key] for key in _HISTORY_KEYS}


def history_from_json(body: Body) -> History:
    """The inverse of `history_json`."""
    return History(tuple(_report_from_json(each) for each in body["reports"]), body["complete"])


def _report_from_json(body: Body) -> Report:
    at = time_from_json(body["timestamp"])
    return Report(
        body["attempt"],
        Progress(body["current"], body["total"], body["message"], body["attributes"], at),
    )
