"""Which frames follow from a change: the messages of all four transports (contract, section 4).

A frame is a plain JSON-safe dict; `headway.core.serialize` encodes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

from headway.core.serialize import Json, error_json, iso, json_safe, progress_json
from headway.core.states import supersedes
from headway.models import Execution, Phase, Status

#: The frame type of each terminal status. The socket closes with 1000 after it.
TERMINAL_FRAMES: Mapping[Status, str] = {
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
}


def status_frame(execution: Execution, at: datetime) -> Json:
    """Sent first, and again after a change of phase or attempt or a gap in the stream."""
    return _frame("status", execution, at) | {
        "phase": execution.phase.value,
        "progress": progress_json(execution.progress),
    }


def started_frame(execution: Execution, at: datetime) -> Json:
    """From pending to running. The status is ``running`` even if the execution has ended since: a
    client that reads only the status then waits for the terminal frame.
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
    """A problem of the stream itself. ``status`` is null if unknown."""
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
    """What a viewer receives at connect: ``status``, then the terminal frame if it has ended.

    The same after a gap in the stream. ``before`` is what the viewer saw before the gap: if the
    execution began meanwhile, ``started`` is sent as well.
    """
    yield status_frame(execution, at)
    if before is not None and before.status is Status.PENDING and _has_begun(before, execution):
        yield started_frame(execution, at)
    if execution.status.terminal:
        yield terminal_frame(execution, at)


def frames_between(before: Execution, after: Execution, at: datetime) -> Iterator[Json]:
    """What a viewer that has ``before`` receives to reach ``after``: nothing if nothing changed.

    A task that goes from pending to its end at once still yields ``started`` first. A terminal
    frame is sent once; after it only a new attempt yields frames (`supersedes`).
    """
    if not supersedes(before, after):
        return
    changed = (before.phase, before.attempt) != (after.phase, after.attempt)
    if before.status is Status.PENDING and _has_begun(before, after):
        yield started_frame(after, at)
        changed = after.phase is not Phase.RUNNING
    if changed and not after.status.terminal:
        yield status_frame(after, at)  # includes the progress
    elif after.status.terminal:
        yield terminal_frame(after, at)
    elif after.progress is not None and not after.progress.same_as(before.progress):
        yield _frame("progress", after, at) | {"progress": progress_json(after.progress)}


def _has_begun(before: Execution, after: Execution) -> bool:
    """Whether an attempt began in between, even if it has ended since. A revoke before the start
    begins none.
    """
    return after.status in (Status.RUNNING, Status.COMPLETED) or after.attempt > before.attempt


def _frame(kind: str, execution: Execution, at: datetime) -> Json:
    return {
        "type": kind,
        "execution_id": execution.execution_id,
        "status": execution.status.value,
        "timestamp": iso(at),
    }
