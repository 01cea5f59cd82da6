"""Reading the API's JSON: the inverse of the frames, whatever they hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from headway.core.serialize import (
    encode,
    execution_from_json,
    execution_json,
    progress_from_json,
    progress_json,
    time_from_json,
)
from headway.models import Execution, Failure, Phase, Progress, Status

AT = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)

numbers = st.one_of(st.integers(0, 2**70), st.floats(0, 1e300))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.one_of(
    st.none(),
    st.integers(0, 4_000_000_000_000).map(
        lambda ms: datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)
    ),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
progresses = st.builds(
    Progress,
    current=st.one_of(st.none(), numbers),
    total=st.one_of(st.none(), numbers),
    message=st.one_of(st.none(), texts),
    attributes=st.one_of(st.none(), st.dictionaries(texts, texts, max_size=3)),
    timestamp=times,
    rate=st.one_of(st.none(), st.floats(0, 1e9)),
)
optional = st.one_of(st.none(), texts)
executions = st.builds(
    Execution,
    execution_id=texts,
    status=st.sampled_from(Status),
    phase=st.sampled_from(Phase),
    progress=st.one_of(st.none(), progresses),
    task=optional,
    attempt=st.integers(0, 9),
    outputs=values,
    error=st.one_of(
        st.none(),
        st.builds(
            Failure, texts, texts, st.one_of(st.none(), st.dictionaries(texts, values, max_size=2))
        ),
    ),
    created_at=times,
    started_at=times,
    updated_at=times,
    finished_at=times,
    worker=optional,
    owner=optional,
    root_id=optional,
    group_id=optional,
)


def sent(body: Any) -> Any:
    """As it arrives: through bytes."""
    return json.loads(encode(body))


@given(executions)
def test_an_execution_comes_back(execution: Execution) -> None:
    """What the API says of an execution reads as that very execution."""
    assert execution_from_json(sent(execution_json(execution))) == execution


@given(progresses)
def test_a_progress_comes_back(progress: Progress) -> None:
    """A progress reads as it was, down to {} and None, and says the same of itself."""
    read = progress_from_json(sent(progress_json(progress)))
    assert read == progress
    assert progress_json(read) == progress_json(progress)


def test_every_frame_is_an_event() -> None:
    """Each frame type of the contract reads as its class, with all that it carries."""
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
    fault = sent(error_frame("unavailable", "away", AT, "x", Status.RUNNING))
    assert event_of(fault) == Interrupted("unavailable", "away", AT, "x", Status.RUNNING)
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
            "type": "news",
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
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    """What isn't of the contract is an error of three kinds, and never half an event."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        event_of(frame)


def test_times_are_utc() -> None:
    """A time with another zone is the same moment in UTC."""
    assert time_from_json("2026-03-01T14:00:00.123+02:00") == AT
    assert time_from_json(None) is None
