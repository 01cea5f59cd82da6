"""The checks of the fault matrix find what is wrong: a matrix without findings proves something."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from headway.core.frames import frames_between, opening_frames
from headway.errors import ExecutionExpired, ExecutionNotFound, HeadwayError
from headway.models import Execution, Phase, Progress, Status
from headway.server.streams.changes import Frame
from tests.faults.observers import Expected, Observation, find_violations
from tests.faults.report import Result, format_result, format_table

NOW = datetime(2026, 1, 2, tzinfo=UTC)
QUEUED = Execution("x", Status.PENDING, Phase.QUEUED, created_at=NOW)
RUNS = replace(QUEUED, status=Status.RUNNING, phase=Phase.RUNNING, attempt=1, started_at=NOW)
HALF = replace(RUNS, progress=Progress(5, 10))
DONE = replace(
    HALF,
    status=Status.COMPLETED,
    phase=Phase.SUCCEEDED,
    progress=Progress(10, 10),
    outputs=7,
    finished_at=NOW,
)
AGAIN = replace(RUNS, attempt=2)
WELL = Expected(Status.COMPLETED, current=10, attempt=1, outputs=7)


def observed(*seen: Execution) -> Observation:
    """Both observers saw these states."""
    observation = Observation()
    observation.streamed = list(seen)
    observation.polled = list(seen)
    contents = list(opening_frames(seen[0], NOW)) if seen else []
    for before, after in pairwise(seen):
        contents += frames_between(before, after, NOW)
    observation.frames = [Frame(content) for content in contents]
    return observation


def violations(
    expected: Expected,
    *seen: Execution,
    last: Execution | HeadwayError | None = None,
    celery: str = "SUCCESS",
) -> list[str]:
    """What is wrong if both observers saw these states."""
    final = last if last is not None else seen[-1]
    return find_violations(expected, observed(*seen), final, {"status": celery})


def test_expected_states_have_no_violations() -> None:
    """An execution shown as it happened is right, also if its second attempt starts at zero."""
    assert violations(WELL, QUEUED, RUNS, HALF, DONE) == []
    ended = replace(DONE, attempt=2)
    assert violations(replace(WELL, attempt=2), QUEUED, HALF, AGAIN, ended) == []
    expired = Expected(Status.COMPLETED, expired=True)
    assert violations(expired, HALF, DONE, last=ExecutionExpired("x")) == []
    assert violations(Expected(None), last=ExecutionNotFound("x"), celery="PENDING") == []


@pytest.mark.parametrize(
    ("seen", "changes", "sentence"),
    [
        ([HALF, DONE, replace(HALF, progress=Progress(11, 10))], {}, "left a terminal state"),
        ([AGAIN, DONE], {}, "attempt went back"),
        ([HALF, RUNS, DONE], {}, "progress vanished"),
        ([HALF, replace(HALF, progress=Progress(4, 10)), DONE], {}, "progress went back"),
        ([HALF, replace(HALF, status=Status.PENDING), DONE], {}, "queued again"),
        (
            [RUNS, replace(RUNS, phase=Phase.STALLED), DONE],
            {},
            "shown as stalled, which never happened",
        ),
        ([RUNS, DONE], {"once": frozenset({Phase.RETRYING})}, "never shown as retrying"),
        (
            [RUNS, DONE],
            {"status": Status.FAILED, "celery": "SUCCESS"},
            "final status is completed, expected failed",
        ),
        ([RUNS, DONE], {"current": 9}, "final current is 10, expected 9"),
        ([RUNS, DONE], {"attempt": 2}, "final attempt is 1, expected 2"),
        ([RUNS, DONE], {"outputs": 8}, "final outputs is 7, expected 8"),
        ([RUNS, replace(DONE, finished_at=None)], {}, "final times are missing"),
        ([RUNS, DONE], {"celery": "REVOKED"}, "Celery's record has SUCCESS, expected REVOKED"),
        ([RUNS, DONE], {"expired": True}, "final state is completed, expected expired"),
        ([RUNS, DONE], {"status": None}, "final state is completed, expected unknown"),
    ],
)
def test_each_wrong_state_has_its_own_message(
    seen: list[Execution], changes: dict[str, Any], sentence: str
) -> None:
    """Each kind of violation is found, and its message names it."""
    found = violations(replace(WELL, **changes), *seen)
    assert any(sentence in violation for violation in found), found


def test_stream_frames_are_checked_beside_states() -> None:
    """A stream that ends twice, never, or starts without `status` is wrong, even if all states are
    right.
    """
    observation = observed(DONE)
    observation.frames = []
    found = find_violations(WELL, observation, DONE, None)
    assert "viewer: the stream ends with []" in found
    end = next(frames_between(HALF, DONE, NOW))
    observation.frames = [Frame(end), Frame(end)]
    found = find_violations(WELL, observation, DONE, None)
    assert "viewer: the stream starts with ['completed']" in found
    assert "viewer: completed came after completed" in found


def test_missing_execution_is_a_violation() -> None:
    """Unknown is wrong for an execution that ended, and expired for one that never existed."""
    assert violations(WELL, RUNS, DONE, last=ExecutionNotFound("x")) == [
        "final state is ExecutionNotFound"
    ]
    assert violations(Expected(None), last=ExecutionExpired("x")) == [
        "final state is ExecutionExpired"
    ]


def test_table_counts_errors_and_totals() -> None:
    """A scenario that did not finish or judged nothing has not passed. The last line has totals."""
    good, bad = Result(20, {}, None, 1.0), Result(20, {"x": ["progress vanished"]}, None, 1.0)
    broken, empty = Result(3, {}, "Traceback", 1.0), Result(0, {}, None, 1.0)
    assert [each.passed for each in (good, bad, broken, empty)] == [True, False, False, False]
    results = {
        ("one", "5.6.3"): good,
        ("one", "5.7.0"): bad,
        ("two", "5.6.3"): broken,
        ("two", "5.7.0"): good,
    }
    lines = format_table(
        [("one", "first"), ("two", "second")], ["5.6.3", "5.7.0"], results, 9.0
    ).splitlines()
    assert [line.split()[:5] for line in lines[-3:]] == [
        ["one", "20", "0", "20", "1"],
        ["two", "3", "ERROR", "20", "0"],
        ["all", "23", "1", "40", "1"],
    ]
    assert "x: progress vanished" in format_result("one", "5.7.0", bad)
