"""Which frames follow from which change (contract, section 4)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headway.core.frames import (
    error_frame,
    frames_between,
    opening_frames,
    status_frame,
    terminal_frame,
)
from headway.core.serialize import progress_json
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


class TestFrames:
    def test_status_frame_has_phase_and_progress(self) -> None:
        """The progress is null until there is one."""
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
    def test_terminal_frame_has_outputs_or_error_and_progress(
        self, execution: Execution, kind: str, more: set[str]
    ) -> None:
        """Each terminal status has its own frame."""
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

    def test_error_frame_has_code_and_message(self) -> None:
        """``error`` is a problem of the stream itself."""
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

    def test_viewer_gets_status_at_connect(self) -> None:
        """The terminal frame follows if the execution has ended."""
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
    def test_viewer_gets_started_and_terminal_frames_missed_in_gap(
        self, before: Execution, after: Execution, expected: list[str]
    ) -> None:
        """After a gap: the status, ``started`` if it began meanwhile, the terminal frame if it
        ended.
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
    def test_viewer_gets_each_change_once(
        self, before: Execution, after: Execution, expected: list[str]
    ) -> None:
        """Between two states a viewer gets what changed, and after an end only a new attempt."""
        assert kinds(before, after) == expected

    def test_started_frame_is_always_running(self) -> None:
        """``started`` has only the common keys, and the status running even after an end."""
        for after in (RUNNING, COMPLETED):
            started = next(frames_between(QUEUED, after, AT))
            assert set(started) == COMMON
            assert started["status"] == "running"

    def test_repeated_progress_sends_no_frame(self) -> None:
        """A report with another time or rate but the same content is no change."""
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
