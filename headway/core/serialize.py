"""Reading what ``core.frames`` wrote: the API's JSON as Headway's own records, for whoever asks it
from outside.

The inverse, up to what JSON can't hold: times have whole milliseconds, and a result that isn't JSON
is its text. All functions raise ``KeyError``, ``TypeError`` or ``ValueError`` for what isn't of the
contract; keys that this version doesn't know are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headway.models import Execution, Failure, History, Phase, Progress, Report, Status

Body = Mapping[str, Any]


def time_of(text: str | None) -> datetime | None:
    """A time of the API: ISO 8601 with its zone."""
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no zone")
    return time.astimezone(UTC)


def progress_of(body: Body | None) -> Progress | None:
    """``frames.progress_json`` read back. What is computed of it (percentage, time left) is
    computed again.
    """
    if body is None:
        return None
    return Progress(
        current=body["current"],
        total=body["total"],
        message=body["message"],
        attributes=body["attributes"],
        timestamp=time_of(body["timestamp"]),
        rate=body["rate"],
    )


def history_of(body: Body) -> History:
    """``frames.history_json`` read back."""
    return History(tuple(_report_of(each) for each in body["reports"]), body["complete"])


def _report_of(body: Body) -> Report:
    at = time_of(body["timestamp"])
    return Report(
        body["attempt"],
        Progress(body["current"], body["total"], body["message"], body["attributes"], at),
    )


def failure_of(body: Body | None) -> Failure | None:
    """``frames.error_json`` read back."""
    return None if body is None else Failure(body["type"], body["message"], body["details"])


def execution_of(body: Body) -> Execution:
    """``frames.execution_json`` read back, or a line of a listing, which has no ``outputs``."""
    return Execution(
        execution_id=body["execution_id"],
        status=Status(body["status"]),
        phase=Phase(body["phase"]),
        progress=progress_of(body["progress"]),
        task=body["task"],
        attempt=body["attempt"],
        outputs=body.get("outputs"),
        error=failure_of(body["error"]),
        created_at=time_of(body["created_at"]),
        started_at=time_of(body["started_at"]),
        updated_at=time_of(body["updated_at"]),
        finished_at=time_of(body["finished_at"]),
        worker=body["worker"],
        owner=body["owner"],
        root_id=body["root_id"],
        group_id=body["group_id"],
    )
