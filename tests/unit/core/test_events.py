"""Parsing frames into events: the inverse of `headway.core.frames`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from headway.core.events import (
    Cancelled,
    Completed,
    Failed,
    Interrupted,
    ProgressReported,
    Started,
    StatusChanged,
    event_of,
    events_of,
)
from headway.core.frames import error_frame, frames_between, opening_frames
from headway.core.serialize import encode
from headway.models import Execution, Failure, Phase, Progress, Status

AT = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)


def sent(body: Any) -> Any:
    """The frame as a client receives it."""
    return json.loads(encode(body))


def test_each_frame_type_is_its_event_class() -> None:
    """Each frame type of the contract is read as its class, with all fields."""
    two, three = Progress(2, 5, "two"), Progress(3, 5, "three")
    queued = Execution("x", Status.PENDING, Phase.QUEUED)
    running = Execution("x", Status.RUNNING, Phase.RUNNING, two, attempt=1)
    further = Execution("x", Status.RUNNING, Phase.RUNNING, three, attempt=1)
    done = Execution("x", Status.COMPLETED, Phase.SUCCEEDED, three, attempt=1, outputs=[1])
    failed = Execution(
        "x", Status.FAILED, Phase.FAILED, three, attempt=1, error=Failure("E", "no", {"a": 1})
    )
    cancelled = Execution("x", Status.CANCELLED, Phase.CANCELLED, three, attempt=1)

    def events(before: Execution, after: Execution) -> list[Any]:
        return [event_of(sent(frame)) for frame in frames_between(before, after, AT)]

    assert [event_of(sent(frame)) for frame in opening_frames(running, AT)] == [
        StatusChanged("x", Status.RUNNING, AT, Phase.RUNNING, two)
    ]
    assert events(queued, further)[0] == Started("x", Status.RUNNING, AT)
    assert events(running, further) == [ProgressReported("x", Status.RUNNING, AT, three)]
    assert events(running, done) == [Completed("x", Status.COMPLETED, AT, [1], three)]
    assert events(running, failed) == [
        Failed("x", Status.FAILED, AT, Failure("E", "no", {"a": 1}), three)
    ]
    assert events(running, cancelled) == [Cancelled("x", Status.CANCELLED, AT, three)]
    error = sent(error_frame("unavailable", "away", AT, "x", Status.RUNNING))
    assert event_of(error) == Interrupted("unavailable", "away", AT, "x", Status.RUNNING)
    assert event_of(sent(error_frame("invalid", "what?", AT))) == Interrupted(
        "invalid", "what?", AT
    )
    assert events_of(sent(error_frame("invalid", "what?", AT))) == [
        Interrupted("invalid", "what?", AT)
    ]
    assert events_of({"type": "from a later version"}) == []
    several = sent(error_frame("too_many", "no place", AT) | {"execution_ids": ["x", "y"]})
    assert events_of(several) == [
        Interrupted("too_many", "no place", AT, each) for each in ("x", "y")
    ]


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {
            "type": "unknown",
            "execution_id": "x",
            "status": "running",
            "timestamp": "2026-01-01T00:00:00Z",
        },
        {
            "type": "started",
            "execution_id": "x",
            "status": "walking",
            "timestamp": "2026-01-01T00:00:00Z",
        },
        {
            "type": "started",
            "execution_id": "x",
            "status": "running",
            "timestamp": "2026-01-01T00:00:00",
        },
        {"type": "started", "execution_id": "x", "status": "running", "timestamp": None},
        {
            "type": "progress",
            "execution_id": "x",
            "status": "running",
            "timestamp": "2026-01-01T00:00:00Z",
            "progress": None,
        },
        {
            "type": "failed",
            "execution_id": "x",
            "status": "failed",
            "timestamp": "2026-01-01T00:00:00Z",
            "error": None,
            "progress": None,
        },
    ],
)
def test_malformed_frame_raises(frame: Any) -> None:
    """A frame outside the contract raises one of three errors, and yields no partial event."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        event_of(frame)
