"""The frames of a stream as frozen data: one class for each frame type (contract, section 4).

Class names are in the past tense: an event has happened. ``match`` on the class, or read
``event.terminal``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from headway.core.serialize import Body, error_from_json, progress_from_json, time_from_json
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


T = TypeVar("T")
AnyEvent = StatusChanged | Started | ProgressReported | Completed | Failed | Cancelled | Interrupted


def event_of(frame: Body) -> AnyEvent:
    """Parse a frame: the inverse of ``core.frames``.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` if it doesn't follow the contract.
    """
    at = _required(time_from_json(frame["timestamp"]))
    if frame["type"] == "error":
        status = frame.get("status")
        known = None if status is None else Status(status)
        return Interrupted(frame["code"], frame["message"], at, frame.get("execution_id"), known)
    return _PARSERS[frame["type"]](frame, (frame["execution_id"], Status(frame["status"]), at))


def events_of(frame: Body) -> list[AnyEvent]:
    """One event for each execution in the frame (usually one). Raises what `event_of` raises.

    A frame type of a later version yields no events, so that an older client keeps its stream.
    """
    if frame["type"] not in _PARSERS and frame["type"] != "error":
        return []
    ids = frame.get("execution_ids")
    if ids is None:
        return [event_of(frame)]
    return [event_of({**frame, "execution_id": str(each)}) for each in ids]


def _required(value: T | None) -> T:
    if value is None:
        raise ValueError("A required field of the frame is null")
    return value


def _progress(frame: Body) -> Progress | None:
    return progress_from_json(frame["progress"])


_Common = tuple[str, Status, datetime]
_PARSERS: Mapping[str, Callable[[Body, _Common], AnyEvent]] = {
    "status": lambda frame, common: StatusChanged(*common, Phase(frame["phase"]), _progress(frame)),
    "started": lambda frame, common: Started(*common),
    "progress": lambda frame, common: ProgressReported(*common, _required(_progress(frame))),
    "completed": lambda frame, common: Completed(*common, frame["outputs"], _progress(frame)),
    "failed": lambda frame, common: Failed(
        *common, _required(error_from_json(frame["error"])), _progress(frame)
    ),
    "cancelled": lambda frame, common: Cancelled(*common, _progress(frame)),
}
