"""The messages of the contract: sections 2 and 4, row by row."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core.frames import (
    error_frame,
    frames_between,
    opening_frames,
    status_frame,
    terminal_frame,
)
from headway.core.serialize import (
    encode,
    execution_json,
    iso,
    json_safe,
    progress_json,
    tensorlake_json,
)
from headway.models import Execution, Failure, Phase, Progress, Status

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
COMMON = {"type", "execution_id", "status", "timestamp"}

QUEUED = Execution("x", Status.PENDING, Phase.QUEUED)
RUNNING = Execution("x", Status.RUNNING, Phase.RUNNING, attempt=1)
REPORTED = Execution("x", Status.RUNNING, Phase.RUNNING, Progress(2, 5, "processing"), attempt=1)
FURTHER = Execution("x", Status.RUNNING, Phase.RUNNING, Progress(3, 5, "processing"), attempt=1)
RETRYING = Execution("x", Status.RUNNING, Phase.RETRYING, Progress(2, 5), attempt=1)
SECOND = Execution("x", Status.RUNNING, Phase.RUNNING, attempt=2)
CANCELLING = Execution(
    "x", Status.RUNNING, Phase.CANCELLING, Progress(2, 5, "processing"), attempt=1
)
COMPLETED = Execution(
    "x", Status.COMPLETED, Phase.SUCCEEDED, Progress(5, 5), attempt=1, outputs={"rows": 5}
)
FAILED = Execution(
    "x",
    Status.FAILED,
    Phase.FAILED,
    Progress(3, 10),
    attempt=1,
    error=Failure("ValueError", "no", {"module": "m"}),
)
CANCELLED = Execution("x", Status.CANCELLED, Phase.CANCELLED, Progress(3, 10), attempt=1)
DROPPED = Execution("x", Status.CANCELLED, Phase.CANCELLED)


def kinds(before: Execution, after: Execution) -> list[str]:
    return [frame["type"] for frame in frames_between(before, after, AT)]


class TestProgress:
    def test_the_document_of_the_query_api(self) -> None:
        """2 of 5 reads as the seed document prints it."""
        said = progress_json(Progress(2, 5, "processing"))
        assert said is not None
        four = {
            name: said[name]
            for name in ("current_step", "total_steps", "percentage", "current_step_name")
        }
        assert four == {
            "current_step": 2,
            "total_steps": 5,
            "percentage": 40.0,
            "current_step_name": "processing",
        }

    def test_all_keys_always(self) -> None:
        """Every key is there, whatever was said; null where there is nothing."""
        keys = {
            "current_step",
            "total_steps",
            "percentage",
            "current_step_name",
            "message",
            "attributes",
            "current",
            "total",
        }
        keys |= {"indeterminate", "rate", "eta_seconds", "timestamp"}
        for progress in (Progress(), Progress(1, 2, "m", {"a": "b"}, AT, 2.0)):
            assert set(progress_json(progress) or ()) == keys
        assert progress_json(None) is None

    @pytest.mark.parametrize(
        ("current", "total", "percentage", "indeterminate"),
        [
            (2, 5, 40.0, False),
            (1, 3, 1 / 3 * 100, False),
            (7, 5, 100.0, False),
            (0, 5, 0.0, False),
            (5, 0, 0.0, True),
            (5, 0.0, 0.0, True),
            (5, None, 0.0, True),
            (None, 5, 0.0, True),
            (None, None, 0.0, True),
        ],
    )
    def test_percentage(
        self, current: float | None, total: float | None, percentage: float, indeterminate: bool
    ) -> None:
        """It is current / total * 100 as a float, not rounded, within 0..100, and 0.0 where the
        total is unknown.
        """
        said = progress_json(Progress(current, total)) or {}
        assert said["percentage"] == percentage
        assert type(said["percentage"]) is float
        assert said["indeterminate"] is indeterminate

    def test_numbers_that_no_float_holds(self) -> None:
        """An int may be larger than any float: it has a percentage and a time left all the same."""
        huge = 10**400
        pairs = [(huge, huge), (huge, 1), (1, huge), (1.5, huge)]
        assert [
            (progress_json(Progress(*pair, rate=1.5)) or {})["percentage"] for pair in pairs
        ] == [100.0, 100.0, 0.0, 0.0]

    @pytest.mark.parametrize(
        ("current", "steps"), [(2, 2), (2.999, 2), (0, 0), (None, 0), (3.0, 3)]
    )
    def test_steps_are_whole(self, current: float | None, steps: int) -> None:
        """``current_step`` counts the steps that are done, as an int; the number itself is in
        ``current``.
        """
        said = progress_json(Progress(current, 5.5)) or {}
        assert (said["current_step"], said["total_steps"], said["current"], said["total"]) == (
            steps,
            5,
            current,
            5.5,
        )
        assert type(said["current_step"]) is int

    def test_empty_is_not_nothing(self) -> None:
        """An empty message and empty attributes stay apart from none."""
        said = progress_json(Progress(1, 2, "", {})) or {}
        assert (said["message"], said["current_step_name"], said["attributes"]) == ("", "", {})

    def test_time_left(self) -> None:
        """It is what is left at the rate, in seconds; null without a rate, and never negative."""
        assert (progress_json(Progress(2, 10, rate=4.0)) or {})["eta_seconds"] == 2.0
        assert (progress_json(Progress(12, 10, rate=4.0)) or {})["eta_seconds"] == 0.0
        for progress in (
            Progress(2, 10),
            Progress(2, 0, rate=4.0),
            Progress(2, 10, rate=0.0),
            Progress(None, 10, rate=1.0),
        ):
            assert (progress_json(progress) or {})["eta_seconds"] is None

    def test_tensorlake(self) -> None:
        """Tensorlake's poll has its five keys, and the timestamp in whole milliseconds."""
        progress = Progress(
            45,
            100,
            "Processing batch 3 of 10",
            {"batch_id": "batch_003"},
            datetime(2024, 1, 1, tzinfo=UTC),
        )
        assert tensorlake_json(progress) == {
            "current": 45,
            "total": 100,
            "message": "Processing batch 3 of 10",
            "attributes": {"batch_id": "batch_003"},
            "timestamp": 1704067200000,
        }
        assert tensorlake_json(Progress(1, 2))["timestamp"] is None


class TestValues:
    @pytest.mark.parametrize(
        "zone", [UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))]
    )
    def test_times(self, zone: timezone) -> None:
        """Times are UTC, ISO 8601, with Z, whatever their zone was."""
        assert iso(AT.astimezone(zone)) == "2026-03-01T12:00:00.123Z"
        assert iso(None) is None

    def test_no_bare_words(self) -> None:
        """NaN and Infinity leave as null: no browser parses them (fact 9)."""
        body = json_safe(
            {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": (1, {2: "x"}), "d": {1}}
        )
        assert encode(body) == b'{"a":null,"b":[null,null,1.5],"c":[1,{"2":"x"}],"d":[1]}'
        with pytest.raises(ValueError, match="JSON"):
            encode({"a": math.nan})

    def test_whatever_a_task_returns(self) -> None:
        """Bytes, times, foreign objects and lone surrogates have an answer; what is nested without
        end is cut.
        """
        assert json_safe([b"a\xff", AT, AT.replace(tzinfo=None), complex(1, 2)]) == [
            "a\ufffd",
            "2026-03-01T12:00:00.123Z",
            "2026-03-01T12:00:00.123456",
            "(1+2j)",
        ]
        assert encode({"a": "\ud800"}) == b'{"a":"?"}'
        deep: Any = []
        for _ in range(5000):
            deep = [deep]
        assert b"..." in encode(json_safe(deep))

    @given(
        st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists)
    )
    def test_any_value(self, value: object) -> None:
        """What `json_safe` gives out, `encode` takes, and a strict parser reads."""

        def refuse(word: str) -> None:
            raise AssertionError(word)

        json.loads(encode(json_safe(value)), parse_constant=refuse)


class TestExecution:
    def test_every_key(self) -> None:
        """``GET /executions/{id}`` has every key, null where there is nothing, and the seed
        document's four.
        """
        said = execution_json(Execution("exec_123456", Status.PENDING, Phase.QUEUED))
        assert set(said) == {field.name for field in fields(Execution)}
        assert {
            "execution_id",
            "status",
            "phase",
            "progress",
            "task",
            "attempt",
            "outputs",
            "error",
        } < set(said)
        assert {"created_at", "started_at", "updated_at", "finished_at"} < set(said)
        assert (said["status"], said["phase"], said["progress"], said["attempt"]) == (
            "pending",
            "queued",
            None,
            0,
        )
        json.loads(encode(said))

    def test_a_failure(self) -> None:
        """The error says its type, its message and its details."""
        assert execution_json(FAILED)["error"] == {
            "type": "ValueError",
            "message": "no",
            "details": {"module": "m"},
        }
        assert execution_json(COMPLETED)["error"] is None


class TestFrames:
    def test_status(self) -> None:
        """``status`` carries phase and progress, or null."""
        frame = status_frame(QUEUED, AT)
        assert frame == {
            "type": "status",
            "execution_id": "x",
            "status": "pending",
            "timestamp": "2026-03-01T12:00:00.123Z",
            "phase": "queued",
            "progress": None,
        }
        assert status_frame(REPORTED, AT)["progress"] == progress_json(REPORTED.progress)

    @pytest.mark.parametrize(
        ("execution", "kind", "more"),
        [
            (COMPLETED, "completed", {"outputs", "progress"}),
            (FAILED, "failed", {"error", "progress"}),
            (CANCELLED, "cancelled", {"progress"}),
        ],
    )
    def test_ends(self, execution: Execution, kind: str, more: set[str]) -> None:
        """Each end has its frame: its outputs or its error, and the last progress."""
        frame = terminal_frame(execution, AT)
        assert (frame["type"], set(frame)) == (kind, COMMON | more)
        assert frame["progress"] == progress_json(execution.progress)
        assert frame.get("outputs") == execution.outputs
        if kind == "failed":
            assert frame["error"] == {
                "type": "ValueError",
                "message": "no",
                "details": {"module": "m"},
            }

    def test_errors(self) -> None:
        """``error`` says what is wrong with the stream itself."""
        frame = error_frame(
            "unavailable", "The result backend can't be reached", AT, "x", Status.RUNNING
        )
        assert set(frame) == COMMON | {"code", "message"}
        assert (frame["type"], frame["code"], frame["status"]) == (
            "error",
            "unavailable",
            "running",
        )
        assert error_frame("not_found", "Execution not found", AT)["status"] is None

    def test_at_connect(self) -> None:
        """A viewer is first told the status, and the end at once where it has come already."""
        assert [frame["type"] for frame in opening_frames(REPORTED, AT)] == ["status"]
        assert [frame["type"] for frame in opening_frames(FAILED, AT)] == ["status", "failed"]

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            (QUEUED, QUEUED, ["status"]),
            (QUEUED, REPORTED, ["status", "started"]),
            (QUEUED, COMPLETED, ["status", "started", "completed"]),
            (QUEUED, DROPPED, ["status", "cancelled"]),
            (REPORTED, COMPLETED, ["status", "completed"]),
        ],
    )
    def test_after_a_gap(self, before: Execution, after: Execution, expected: list[str]) -> None:
        """After a gap a viewer is told the status, that it started where it began meanwhile, and
        the end where it has come.
        """
        assert [frame["type"] for frame in opening_frames(after, AT, before)] == expected

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [
            (QUEUED, QUEUED, []),
            (QUEUED, RUNNING, ["started"]),
            (QUEUED, REPORTED, ["started", "progress"]),
            (QUEUED, RETRYING, ["started", "status"]),
            (QUEUED, CANCELLING, ["started", "status"]),
            (QUEUED, COMPLETED, ["started", "completed"]),
            (QUEUED, FAILED, ["started", "failed"]),
            (QUEUED, CANCELLED, ["started", "cancelled"]),
            (QUEUED, DROPPED, ["cancelled"]),
            (RUNNING, RUNNING, []),
            (RUNNING, REPORTED, ["progress"]),
            (REPORTED, REPORTED, []),
            (REPORTED, FURTHER, ["progress"]),
            (REPORTED, RUNNING, []),
            (REPORTED, RETRYING, ["status"]),
            (REPORTED, CANCELLING, ["status"]),
            (CANCELLING, REPORTED, ["status"]),
            (RETRYING, SECOND, ["status"]),
            (REPORTED, COMPLETED, ["completed"]),
            (REPORTED, FAILED, ["failed"]),
            (REPORTED, CANCELLED, ["cancelled"]),
            (COMPLETED, COMPLETED, []),
            (COMPLETED, REPORTED, []),
            (FAILED, COMPLETED, []),
            (FAILED, SECOND, ["status"]),
        ],
    )
    def test_between(self, before: Execution, after: Execution, expected: list[str]) -> None:
        """Between two looks a viewer is told what changed, once, and nothing after an end but a new
        attempt.
        """
        assert kinds(before, after) == expected

    def test_started_says_no_more(self) -> None:
        """``started`` has the common keys alone, and says running, whatever it has become since."""
        for after in (RUNNING, COMPLETED):
            started = next(frames_between(QUEUED, after, AT))
            assert set(started) == COMMON
            assert started["status"] == "running"

    def test_the_same_progress_is_told_once(self) -> None:
        """A report that says the same again, later and at another rate, is no news."""
        again = Execution(
            "x",
            Status.RUNNING,
            Phase.RUNNING,
            Progress(2, 5, "processing", None, AT, 9.0),
            attempt=1,
        )
        assert kinds(REPORTED, again) == []
        other = Execution(
            "x", Status.RUNNING, Phase.RUNNING, Progress(2, 5, "processing", {"a": "b"}), attempt=1
        )
        assert kinds(REPORTED, other) == ["progress"]
