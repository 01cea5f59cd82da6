"""What a stream says, as frozen data: one class for each frame type of the contract's section 4,
and `event_of` to read one.

Past tense: each tells of something that has happened. ``match`` on the class, or ask
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
    """What every frame has."""

    #: Whether the stream of this execution ends with it.
    terminal: ClassVar[bool] = False

    execution_id: str
    status: Status
    #: When the server said so, by its clock.
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class StatusChanged(Event):
    """What it is now: always the first, and again after a gap, and where its phase or attempt
    changes (``status``).
    """

    phase: Phase
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Started(Event):
    """Its first attempt has begun (``started``)."""


@dataclass(frozen=True, slots=True)
class ProgressReported(Event):
    """Its progress changed (``progress``)."""

    progress: Progress


@dataclass(frozen=True, slots=True)
class Completed(Event):
    """It has ended, and well (``completed``)."""

    terminal: ClassVar[bool] = True

    #: What the task returned, as JSON says it.
    outputs: Any
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """It has failed (``failed``)."""

    terminal: ClassVar[bool] = True

    error: Failure
    #: How far it was.
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Cancelled(Event):
    """Its cancel was asked for, and is confirmed (``cancelled``)."""

    terminal: ClassVar[bool] = True

    #: How far it was.
    progress: Progress | None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Something is wrong with the stream itself, not with the execution (``error``). What follows
    begins with `StatusChanged`.
    """

    terminal: ClassVar[bool] = False

    #: ``unavailable``: the backend is away, or the server. The contract's codes, see
    #: ``docs/streams.md``.
    code: str
    message: str
    timestamp: datetime
    #: None: it is about the whole stream.
    execution_id: str | None = None
    #: None where it isn't known.
    status: Status | None = None


AnyEvent = StatusChanged | Started | ProgressReported | Completed | Failed | Cancelled | Interrupted


def event_of(frame: Mapping[str, Any]) -> AnyEvent:
    """Read a frame: the inverse of ``core.frames``.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what is no frame of the contract.
    """
    at = time_from_json(frame["timestamp"])
    if at is None:
        raise ValueError("a frame without a time")
    if frame["type"] == "error":
        status = frame.get("status")
        code, message, whose = frame["code"], frame["message"], frame.get("execution_id")
        return Interrupted(code, message, at, whose, None if status is None else Status(status))
    return _KINDS[frame["type"]](frame, frame["execution_id"], Status(frame["status"]), at)


def events_of(frame: Mapping[str, Any]) -> list[AnyEvent]:
    """What a frame tells of each execution that it names: mostly of one. Raises what `event_of`
    raises.

    Of a type that a later version knows it is nothing: who doesn't know it needn't end for it.
    """
    if frame["type"] not in _KINDS and frame["type"] != "error":
        return []
    named = frame.get("execution_ids")
    return (
        [event_of(frame)]
        if named is None
        else [event_of({**frame, "execution_id": str(each)}) for each in named]
    )


def _seen(
    frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime
) -> StatusChanged:
    return StatusChanged(
        execution_id, status, at, Phase(frame["phase"]), progress_from_json(frame["progress"])
    )


def _started(_frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime) -> Started:
    return Started(execution_id, status, at)


def _reported(
    frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime
) -> ProgressReported:
    progress = progress_from_json(frame["progress"])
    if progress is None:
        raise ValueError("a progress frame without progress")
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
        raise ValueError("a failed frame without an error")
    return Failed(execution_id, status, at, error, progress_from_json(frame["progress"]))


def _cancelled(
    frame: Mapping[str, Any], execution_id: str, status: Status, at: datetime
) -> Cancelled:
    return Cancelled(execution_id, status, at, progress_from_json(frame["progress"]))


_KINDS: Mapping[str, Callable[[Mapping[str, Any], str, Status, datetime], AnyEvent]] = {
    "status": _seen,
    "started": _started,
    "progress": _reported,
    "completed": _completed,
    "failed": _failed,
    "cancelled": _cancelled,
}
