"""The judge of the fault matrix sees what is wrong: a matrix that finds nothing must be one that
could.
"""

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
from tests.faults.report import Result, line, whole
from tests.faults.watching import Eye, Truth, faults

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
WELL = Truth(Status.COMPLETED, current=10, attempt=1, outputs=7)


def judged(
    truth: Truth,
    *seen: Execution,
    last: Execution | HeadwayError | None = None,
    celery: str = "SUCCESS",
) -> list[str]:
    """What is wrong where both observers saw the same."""
    eye = Eye("x", told=list(seen), polled=list(seen))
    shown = list(opening_frames(seen[0], NOW)) if seen else []
    for before, after in pairwise(seen):
        shown += frames_between(before, after, NOW)
    eye.frames = [Frame(content) for content in shown]
    return faults(truth, eye, last if last is not None else seen[-1], {"status": celery})


def test_what_happened_is_right() -> None:
    """A run that was shown as it was has no faults; nor has a second attempt that begins anew."""
    assert judged(WELL, QUEUED, RUNS, HALF, DONE) == []
    ended = replace(DONE, attempt=2)
    assert judged(replace(WELL, attempt=2), QUEUED, HALF, AGAIN, ended) == []
    assert (
        judged(Truth(Status.COMPLETED, expired=True), HALF, DONE, last=ExecutionExpired("x")) == []
    )
    assert judged(Truth(None), last=ExecutionNotFound("x"), celery="PENDING") == []


@pytest.mark.parametrize(
    ("seen", "changes", "sentence"),
    [
        ([HALF, DONE, replace(HALF, progress=Progress(11, 10))], {}, "an end was taken back"),
        ([AGAIN, DONE], {}, "an attempt was taken back"),
        ([HALF, RUNS, DONE], {}, "progress vanished"),
        ([HALF, replace(HALF, progress=Progress(4, 10)), DONE], {}, "progress went back"),
        ([HALF, replace(HALF, status=Status.PENDING), DONE], {}, "it was queued again"),
        ([RUNS, replace(RUNS, phase=Phase.STALLED), DONE], {}, "it was never stalled"),
        (
            [RUNS, DONE],
            {"once": frozenset({Phase.RETRYING})},
            "it was retrying once, and that was not seen",
        ),
        (
            [RUNS, DONE],
            {"status": Status.FAILED, "celery": "SUCCESS"},
            "ends with status completed, and it was failed",
        ),
        ([RUNS, DONE], {"current": 9}, "ends with current 10, and it was 9"),
        ([RUNS, DONE], {"attempt": 2}, "ends with attempt 1, and it was 2"),
        ([RUNS, DONE], {"outputs": 8}, "ends with outputs 7, and it was 8"),
        ([RUNS, replace(DONE, finished_at=None)], {}, "ends without its times"),
        ([RUNS, DONE], {"celery": "REVOKED"}, "Celery's record says SUCCESS, and it was REVOKED"),
        ([RUNS, DONE], {"expired": True}, "ends as completed, and should be expired"),
        ([RUNS, DONE], {"status": None}, "ends as completed, and should be unknown"),
    ],
)
def test_what_did_not_happen_is_wrong(
    seen: list[Execution], changes: dict[str, Any], sentence: str
) -> None:
    """Each lie is told by its own sentence."""
    assert any(sentence in fault for fault in judged(replace(WELL, **changes), *seen)), sentence


def test_a_stream_is_judged_by_its_frames() -> None:
    """A stream that ends twice, or not, or doesn't begin with `status`, is wrong, whatever the last
    look says.
    """
    eye = Eye("x", told=[DONE], polled=[DONE])
    assert "viewer: the stream ends with []" in faults(WELL, eye, DONE, None)
    end = next(frames_between(HALF, DONE, NOW))
    eye.frames = [Frame(end), Frame(end)]
    told = faults(WELL, eye, DONE, None)
    assert "viewer: the stream begins with ['completed']" in told
    assert "viewer: completed came after completed" in told


def test_an_answer_where_there_is_none() -> None:
    """Unknown where it ended, and expired where it was never known, are wrong answers."""
    assert judged(WELL, RUNS, DONE, last=ExecutionNotFound("x")) == ["ends as ExecutionNotFound"]
    assert judged(Truth(None), last=ExecutionExpired("x")) == ["ends as ExecutionExpired"]


def test_the_table_counts() -> None:
    """A row that could not be run to its end, and one that judged nothing, aren't right; the sums
    are at the foot.
    """
    good, bad = Result(20, {}, None, 1.0), Result(20, {"x": ["a lie"]}, None, 1.0)
    broken, empty = Result(3, {}, "Traceback", 1.0), Result(0, {}, None, 1.0)
    assert [each.right for each in (good, bad, broken, empty)] == [True, False, False, False]
    results = {
        ("one", "5.6.3"): good,
        ("one", "5.7.0"): bad,
        ("two", "5.6.3"): broken,
        ("two", "5.7.0"): good,
    }
    told = whole(
        [("one", "first"), ("two", "second")], ["5.6.3", "5.7.0"], results, 9.0
    ).splitlines()
    assert [row.split()[:5] for row in told[-3:]] == [
        ["one", "20", "0", "20", "1"],
        ["two", "3", "ERROR", "20", "0"],
        ["all", "23", "1", "40", "1"],
    ]
    assert "x: a lie" in line("one", "5.7.0", bad)
