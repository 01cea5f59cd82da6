"""The frames of a stream as frozen data: one class for each frame type (contract, section 4).

Class names are in the past tense: an event has happened. ``match`` on the class, or read
``event.terminal``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from headway.core.serialize import error_from_json, progress_from_json, time_from_json
from headway.models import Failure, Phase, Progress, Status


@dataclass(frozen=True, slots=True)
class Event:
    """The fields of every frame."""

    #: Whether the stream of this execution ends with this event.
    terminal: ClassVar[bool] = False

    execution_id: str
    status: Status
    #: When the server sent it, by the server's clock.
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class StatusChanged(Event):
    """The current state (``status``). The first event of a stream, sent again after a gap and after
    a change of phase or attempt.
    """

    phase: Phase
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The first attempt has started (``started``)."""


@dataclass(frozen=True, slots=True)
class ProgressReported(Event):
    """The progress has changed (``progress``)."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Completed(Event):
    """The task has succeeded (``completed``)."""

    terminal: ClassVar[bool] = True

    #: What the task returned, as JSON.
    outputs: Any
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The task has failed (``failed``)."""

    terminal: ClassVar[bool] = True

    error: Failure
    #: The last progress.
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Cancelled(Event):
    """A cancel was requested and is confirmed (``cancelled``)."""

    terminal: ClassVar[bool] = True

    #: The last progress.
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A problem of the stream, not of the execution (``error``). The next event is a
    `StatusChanged`.
    """

    terminal: ClassVar[bool] = False

    #: A code of the contract (``docs/streams.md``), such as ``unavailable``: the result backend or
    #: the server can't be reached.
    code: str
    message: str
    timestamp: datetime
    #: None: the problem concerns the whole stream.
    execution_id: str | None = None
    #: None if unknown.
    status: Status | None = None


AnyEvent = StatusChanged | Started | ProgressReported | Completed | Failed | Cancelled | Interrupted


def event_of(frame: Mapping[str, Any]) -> AnyEvent:
    """Parse a frame: the inverse of ``core.frames``.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` if it doesn't follow the contract.
    """
    at = time_from_json(frame["timestamp"])
    if at is None:
        raise ValueError("A frame without a timestamp")
    if frame["type"] == "error":
        status = frame.get("status")
        code, message, execution_id = frame["code"], frame["message"], frame.get("execution_id")
        known = None if status is None else Status(status)
        return Interrupted(code, message, at, execution_id, known)
    return _KINDS[frame["type"]](frame, frame["execution_id"], Status(frame["status"]), at)


def events_of(frame: Mapping[str, Any]) -> list[AnyEvent]:
    """One event for each execution in the frame (usually one). Raises what `event_of` raises.

    A frame type of a later version yields no events, so that an older client keeps its stream.
    """
    if frame["type"] not in _KINDS and frame["type"] != "error":
        return []
    ids = frame.get("execution_ids")
    if ids is None:
        return [event_of(frame)]
    return [event_of({**frame, "execution_id": str(each)}) for each in ids]


def _status_changed(
    frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime
) -> StatusChanged:
    return StatusChanged(
        execution_id, status, at, Phase(frame["phase"]), progress_from_json(frame["progress"])
    )


def _started(_frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime) -> Started:
    return Started(execution_id, status, at)


def _progress_reported(
    frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime
) -> ProgressReported:
    progress = progress_from_json(frame["progress"])
    if progress is None:
        raise ValueError("A progress frame without progress")
    return ProgressReported(execution_id, status, at, progress)


def _completed(
    frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime
) -> Completed:
    return Completed(
        execution_id, status, at, frame["outputs"], progress_from_json(frame["progress"])
    )


def _failed(frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime) -> Failed:
    error = error_from_json(frame["error"])
    if error is None:
        raise ValueError("A failed frame without an error")
    return Failed(execution_id, status, at, error, progress_from_json(frame["progress"]))


def _cancelled(
    frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime
) -> Cancelled:
    return Cancelled(execution_id, status, at, progress_from_json(frame["progress"]))


_KINDS: Mapping[str, Callable[[Mapping[str, Any], str, Status, datetime], AnyEvent]] = {
    "status": _status_changed,
    "started": _started,
    "progress": _progress_reported,
    "completed": _completed,
    "failed": _failed,
    "cancelled": _cancelled,
}
