"""The state machine: the table of the contract's section 3, and what counts if registry and result
backend differ.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core import states
from headway.core.registry import (
    READY_STATES,
    AttemptStart,
    Registration,
    Snapshot,
    StateWrite,
    TaskRecord,
)
from headway.errors import ExecutionExpired, ExecutionNotFound
from headway.models import Execution, Failure, Phase, Progress, Status
from tests.unit.core.examples import examples


def at(seconds: float) -> datetime:
    return datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC) + timedelta(seconds=seconds)


def report(current: float = 3, total: float = 10, **more: Any) -> dict[str, Any]:
    """A meta as Headway's own reports have it, without an attempt."""
    fields = ("message", "attributes", "timestamp", "rate")
    return {"current": current, "total": total} | dict.fromkeys(fields) | more


NOW = at(100)
OPEN = TaskRecord("x", "tasks.t", attempt=1, state="STARTED", started_at=at(1), updated_at=at(1))


def resolve(
    record: TaskRecord | None, meta: dict[str, Any] | None = None, *, atomic: bool = True
) -> Execution:
    return states.resolve(Snapshot("x", record, meta, atomic), NOW)


def meta(state: str, result: object = None, **more: object) -> dict[str, Any]:
    return {"status": state, "result": result, **more}


class TestPhases:
    @pytest.mark.parametrize(
        ("state", "status", "phase"),
        [
            (None, "pending", "queued"),
            ("STARTED", "running", "running"),
            ("PROGRESS", "running", "running"),
            ("UPLOADING", "running", "running"),
            ("RETRY", "running", "retrying"),
            ("SUCCESS", "completed", "succeeded"),
            ("IGNORED", "completed", "succeeded"),
            ("FAILURE", "failed", "failed"),
            ("REJECTED", "failed", "failed"),
            ("REVOKED", "cancelled", "cancelled"),
        ],
    )
    def test_each_state_has_status_and_phase(
        self, state: str | None, status: str, phase: str
    ) -> None:
        """Each Celery state and a custom one, read from the registry or from the backend alone."""
        record = TaskRecord(
            "x",
            state=state,
            attempt=0 if state is None else 1,
            last_ended_attempt=1 if state in READY_STATES else 0,
        )
        seen = [resolve(record)]
        if state is not None:
            seen += [
                resolve(None, meta(state)),
                resolve(record, meta(state)),
                resolve(TaskRecord("x"), meta(state)),
            ]
        assert {(execution.status.value, execution.phase.value) for execution in seen} == {
            (status, phase)
        }

    @pytest.mark.parametrize(
        ("record", "status"), [(TaskRecord("x"), Status.PENDING), (OPEN, Status.RUNNING)]
    )
    def test_requested_cancel_shows_until_end(self, record: TaskRecord, status: Status) -> None:
        """The phase is cancelling until the execution has ended."""
        requested = replace(record, cancel_requested_at=at(2))
        assert (resolve(requested).status, resolve(requested).phase) == (status, Phase.CANCELLING)
        assert resolve(replace(requested, state="REVOKED")).phase is Phase.CANCELLED

    def test_stalled_attempt_with_requested_cancel_is_stalled(self) -> None:
        """An attempt without heartbeats is stalled until the next one, even if a cancel is
        requested.
        """
        requested = replace(OPEN, cancel_requested_at=at(2))
        phases = [
            states.resolve(Snapshot("x", requested, None, alive=alive), at(9)).phase
            for alive in (False, True)
        ]
        assert phases == [Phase.STALLED, Phase.CANCELLING]

    def test_pending_with_report_is_running(self) -> None:
        """A task that reports has started, even with a custom state named PENDING."""
        assert resolve(None, meta("PENDING", report())).status is Status.RUNNING
        assert resolve(None, meta("PENDING")).status is Status.PENDING
        assert (
            resolve(replace(OPEN, state="PENDING"), meta("PENDING", report())).status
            is Status.RUNNING
        )
        assert resolve(OPEN, meta("PENDING")).status is Status.RUNNING


class TestMissing:
    def test_execution_without_any_record_is_not_found(self) -> None:
        """Neither registry nor backend has a record."""
        with pytest.raises(ExecutionNotFound, match="Execution 'x' not found"):
            resolve(None)

    def test_end_whose_result_is_gone_is_expired(self) -> None:
        """An end that stored no result is not expired."""
        ended = replace(
            OPEN, state="SUCCESS", last_ended_attempt=1, finished_at=at(2), result_stored=True
        )
        with pytest.raises(ExecutionExpired):
            resolve(ended)
        assert resolve(replace(ended, result_stored=False)).status is Status.COMPLETED
        assert resolve(OPEN).status is Status.RUNNING

    def test_end_with_unreadable_result_has_no_outputs(self) -> None:
        """A result that can't be decoded exists: the end is shown."""
        ended = replace(
            OPEN, state="SUCCESS", last_ended_attempt=1, finished_at=at(2), result_stored=True
        )
        assert resolve(ended, {"status": None, "result": None}).status is Status.COMPLETED
        assert resolve(ended, {"status": ["?"], "result": None}).status is Status.COMPLETED


class TestFields:
    def test_success_has_all_fields(self) -> None:
        """Outputs, times, task, attempt, worker and owner come from registry and backend."""
        record = TaskRecord(
            "x",
            "tasks.t",
            "ann",
            created_at=at(0),
            started_at=at(1),
            updated_at=at(9),
            finished_at=at(9),
        )
        record = replace(
            record,
            attempt=2,
            last_ended_attempt=2,
            state="SUCCESS",
            worker="w1",
            result_stored=True,
        )
        record = replace(record, progress=Progress(5, 5), progress_attempt=2)
        assert resolve(record, meta("SUCCESS", {"rows": 5})) == Execution(
            "x",
            Status.COMPLETED,
            Phase.SUCCEEDED,
            Progress(5, 5),
            "tasks.t",
            2,
            {"rows": 5},
            None,
            at(0),
            at(1),
            at(9),
            at(9),
            "w1",
            "ann",
        )

    def test_task_without_headway_has_fields_of_celery(self) -> None:
        """A task without Headway has what Celery stores, with ``result_extended``."""
        done = "2026-03-01T12:00:09+00:00"
        execution = resolve(
            None, meta("SUCCESS", 42, date_done=done, name="tasks.t", worker="w1", retries=2)
        )
        assert (execution.task, execution.worker, execution.attempt, execution.outputs) == (
            "tasks.t",
            "w1",
            3,
            42,
        )
        assert execution.finished_at is not None
        assert (
            execution.finished_at.isoformat() == done == (execution.updated_at or NOW).isoformat()
        )
        assert resolve(None, meta("PROGRESS", report())).attempt == 1
        assert resolve(None, meta("SUCCESS", date_done="yesterday", name=7)).finished_at is None

    def test_running_execution_has_no_outputs_error_or_end(self) -> None:
        """Even if the record has them."""
        running = resolve(replace(OPEN, finished_at=at(2)), meta("PROGRESS", report()))
        assert (running.outputs, running.error, running.finished_at) == (None, None, None)

    @pytest.mark.parametrize(
        ("state", "result", "failure"),
        [
            (
                "FAILURE",
                {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "m"},
                ("ValueError", "no", {"module": "m"}),
            ),
            ("FAILURE", {"exc_type": "E", "exc_message": ["a", 1]}, ("E", "a, 1", None)),
            ("FAILURE", {"exc_type": "E", "exc_message": "text"}, ("E", "text", None)),
            ("FAILURE", {"exc_type": "E"}, ("E", "", None)),
            ("FAILURE", {"error": "database is locked"}, ("Failure", "database is locked", None)),
            ("FAILURE", None, ("Failure", "The task failed without saying why", None)),
            ("FAILURE", 42, ("Failure", "The task failed without saying why", None)),
            ("REJECTED", None, ("Reject", "The worker rejected the message", None)),
        ],
    )
    def test_failure_result_becomes_error(
        self, state: str, result: object, failure: tuple[Any, ...]
    ) -> None:
        """Any FAILURE result is shown as data (celery-facts#failure-meta-breaks-readers)."""
        assert resolve(
            replace(OPEN, state=state, last_ended_attempt=1), meta(state, result)
        ).error == Failure(*failure)


class TestProgress:
    def test_last_progress_is_kept_after_end(self) -> None:
        """A job that failed, was revoked or waits for its retry at 30 % shows 30 %."""
        for state in ("FAILURE", "REVOKED", "RETRY", "SUCCESS", "IGNORED"):
            record = replace(
                OPEN,
                state=state,
                last_ended_attempt=1,
                progress=Progress(3, 10),
                progress_attempt=1,
            )
            exception = {"exc_type": "E", "exc_message": ["m"]}
            assert resolve(record, meta(state, exception)).progress == Progress(3, 10)

    def test_new_attempt_starts_without_progress(self) -> None:
        """The progress of one attempt isn't shown for the next."""
        record = replace(OPEN, attempt=2, progress=Progress(3, 10), progress_attempt=1)
        assert resolve(record).progress is None
        assert resolve(replace(record, state="FAILURE", last_ended_attempt=2)).progress is None

    def test_exception_is_no_progress(self) -> None:
        """The message of an exception is only in the error."""
        for state in ("FAILURE", "RETRY"):
            assert (
                resolve(None, meta(state, {"exc_type": "E", "exc_message": ["3 of 10"]})).progress
                is None
            )

    def test_state_without_progress_keeps_last_progress(self) -> None:
        """A custom state without a count leaves the bar unchanged."""
        record = replace(OPEN, state="UPLOADING", progress=Progress(3, 10), progress_attempt=1)
        assert resolve(record, meta("UPLOADING")).progress == Progress(3, 10)

    def test_report_of_task_without_headway_is_read(self) -> None:
        """Progress that existing tasks store is shown (contract, section 7)."""
        assert resolve(None, meta("PROGRESS", {"current": 4, "total": 10})).progress == Progress(
            4, 10
        )


class TestDisagreement:
    def test_late_progress_in_backend_does_not_undo_end(self) -> None:
        """An end in the registry wins at once (celery-facts#late-progress-replaces-failure)."""
        ended = replace(
            OPEN, state="FAILURE", last_ended_attempt=1, finished_at=NOW, result_stored=True
        )
        assert resolve(ended, meta("PROGRESS", report())).status is Status.FAILED

    def test_end_in_backend_alone_is_an_end(self) -> None:
        """A process without Headway stored it."""
        assert resolve(OPEN, meta("FAILURE")).status is Status.FAILED
        assert resolve(TaskRecord("x", created_at=at(0)), meta("SUCCESS", 1)).outputs == 1

    def test_late_retry_in_backend_is_ignored(self) -> None:
        """The next attempt has started already (celery-facts#celery-undoes-its-own-ends)."""
        assert (
            resolve(replace(OPEN, attempt=2, last_ended_attempt=1), meta("RETRY")).phase
            is Phase.RUNNING
        )

    def test_report_past_the_fence_is_shown(self) -> None:
        """A child process of a task may report without the fence."""
        assert resolve(OPEN, meta("PROGRESS", report(3))).progress == Progress(3, 10)

    @pytest.mark.parametrize(
        "stored", [None, meta("PROGRESS", report()), meta("FAILURE"), meta("PENDING")]
    )
    def test_end_is_shown_with_its_result_or_after_grace(
        self, stored: dict[str, Any] | None
    ) -> None:
        """If the result follows the registry's entry, the end waits for it for the grace period."""
        ended = replace(
            OPEN,
            attempt=2,
            last_ended_attempt=2,
            state="SUCCESS",
            finished_at=NOW,
            result_stored=True,
        )
        assert resolve(ended, stored, atomic=False).status is Status.RUNNING
        late = replace(ended, finished_at=NOW - states.RESULT_GRACE)
        if stored is None:
            with pytest.raises(ExecutionExpired):
                resolve(late, stored, atomic=False)
        else:
            assert resolve(late, stored, atomic=False).status is Status.COMPLETED
        assert resolve(ended, meta("SUCCESS", 1), atomic=False).outputs == 1
        assert (
            resolve(replace(ended, attempt=0, last_ended_attempt=0), None, atomic=False).status
            is Status.PENDING
        )

    def test_older_end_in_backend_does_not_end_newer_attempt(self) -> None:
        """If the result follows the registry's entry, the backend may have the earlier attempt's
        end.
        """
        second = replace(OPEN, attempt=2, last_ended_attempt=1, updated_at=at(50))
        older, newer = at(10).isoformat(), at(60).isoformat()
        assert (
            resolve(second, meta("FAILURE", date_done=older), atomic=False).status is Status.RUNNING
        )
        assert (
            resolve(second, meta("FAILURE", date_done=newer), atomic=False).status is Status.FAILED
        )
        assert resolve(second, meta("PROGRESS", report(9)), atomic=False).progress is None

    def test_report_of_earlier_attempt_is_ignored(self) -> None:
        """Only Headway's own report names an attempt; other meta may use the key for anything."""
        second = replace(OPEN, attempt=2, last_ended_attempt=1, state="PROGRESS")
        own = report(9, timestamp=1000, attempt=1)
        assert resolve(second, meta("PROGRESS", own), atomic=False).progress is None
        assert (
            resolve(second, meta("PROGRESS", own | {"attempt": 2}), atomic=False).progress
            is not None
        )
        custom = {"current": 9, "total": 10, "attempt": 1}
        assert resolve(second, meta("PROGRESS", custom)).progress == Progress(9, 10)


class TestCurrentReport:
    SHOWN = Execution("x", Status.RUNNING, Phase.RUNNING, attempt=2)

    def test_report_of_running_attempt_is_current(self) -> None:
        """A published report of the running attempt needs no further read."""
        assert states.is_current_report(self.SHOWN, meta("PROGRESS", report(4, attempt=2)))

    @pytest.mark.parametrize(
        "published",
        [
            meta("PROGRESS", report(4)),
            meta("PROGRESS", report(4, attempt=1)),
            meta("PROGRESS", "text"),
            meta("STARTED", report(4, attempt=2)),
            meta("RETRY", report(4, attempt=2)),
            meta("SUCCESS", report(4, attempt=2)),
            {"status": None, "result": report(4, attempt=2)},
        ],
    )
    def test_other_meta_is_not_current(self, published: dict[str, Any]) -> None:
        """A start, an end or another attempt's report needs a read: the registry changed too."""
        assert not states.is_current_report(self.SHOWN, published)

    @pytest.mark.parametrize(
        ("status", "phase"),
        [
            (Status.FAILED, Phase.FAILED),
            (Status.PENDING, Phase.QUEUED),
            (Status.RUNNING, Phase.STALLED),
            (Status.RUNNING, Phase.RETRYING),
        ],
    )
    def test_report_is_not_current_unless_running(self, status: Status, phase: Phase) -> None:
        """A report that arrives after an end, or before a start, needs a read."""
        shown = replace(self.SHOWN, status=status, phase=phase)
        assert not states.is_current_report(shown, meta("PROGRESS", report(4, attempt=2)))


class TestSupersedes:
    @pytest.mark.parametrize("attempt", [1, 2])
    def test_running_execution_is_superseded_by_any_state(self, attempt: int) -> None:
        """A state that isn't terminal may change to any other."""
        running = Execution("x", Status.RUNNING, Phase.RUNNING, attempt=2)
        assert states.supersedes(running, replace(running, attempt=attempt))

    def test_terminal_execution_is_superseded_by_new_attempt_only(self) -> None:
        """Terminal is terminal, except for a later attempt."""
        failed = Execution("x", Status.FAILED, Phase.FAILED, attempt=1)
        running = Execution("x", Status.RUNNING, Phase.RUNNING, attempt=1)
        assert not states.supersedes(failed, running)
        assert states.supersedes(failed, replace(running, attempt=2))


WRITES = st.builds(
    StateWrite,
    st.just("x"),
    st.sampled_from(["PROGRESS", "STARTED", "RETRY", "WORKING", *sorted(READY_STATES)]),
    st.integers(0, 100).map(at),
    attempt=st.none() | st.integers(0, 3),
    retries=st.none() | st.integers(0, 3),
    worker=st.sampled_from([None, "w1", "w2"]),
    meta=st.sampled_from([None, report(1), report(2)]),
    result=st.sampled_from([None, b"r"]),
)
STARTS = st.builds(
    AttemptStart,
    st.just("x"),
    st.just("t"),
    st.integers(0, 100).map(at),
    st.integers(0, 3),
    st.sampled_from([None, "w1", "w2"]),
)
STEPS = st.lists(st.one_of(WRITES, WRITES, STARTS), max_size=20)


def after(record: TaskRecord | None, step: StateWrite | AttemptStart) -> TaskRecord | None:
    if isinstance(step, AttemptStart):
        return states.apply_start(record, step) if states.allows_start(record) else record
    return states.apply_write(record, step) if states.allows_write(record, step) else record


class TestProperties:
    @examples
    @given(STEPS)
    def test_write_after_end_changes_nothing(self, steps: list[StateWrite | AttemptStart]) -> None:
        """Only a new attempt follows an end, and nothing follows a success."""
        record: TaskRecord | None = None
        for step in steps:
            before, record = record, after(record, step)
            if before is not None and before.state in READY_STATES and record != before:
                assert isinstance(step, AttemptStart)
                assert before.state != "SUCCESS"

    @examples
    @given(STEPS)
    def test_attempt_numbers_only_grow(self, steps: list[StateWrite | AttemptStart]) -> None:
        """No attempt number is used twice, and no attempt ends before it starts."""
        record = TaskRecord("x")
        for step in steps:
            new = after(record, step) or record
            assert new.attempt >= record.attempt
            assert 0 <= new.last_ended_attempt <= new.attempt
            if isinstance(step, AttemptStart) and states.allows_start(record):
                assert new.attempt > record.attempt
                assert new.is_open
            record = new

    @examples
    @given(STEPS, st.integers(0, 3))
    def test_write_of_older_attempt_is_refused(
        self, steps: list[StateWrite | AttemptStart], attempt: int
    ) -> None:
        """Only the newest attempt may write, after any sequence of steps."""
        record: TaskRecord | None = None
        for step in steps:
            record = after(record, step)
        if record is not None and attempt < record.attempt:
            assert not states.allows_write(
                record, StateWrite("x", "PROGRESS", NOW, attempt=attempt)
            )

    @examples
    @given(
        STEPS,
        st.sampled_from(
            [
                None,
                *(meta(state, report()) for state in ("PROGRESS", "RETRY", "SUCCESS", "FAILURE")),
            ]
        ),
    )
    def test_fields_of_execution_are_consistent(
        self, steps: list[StateWrite | AttemptStart], stored: dict[str, Any] | None
    ) -> None:
        """Phase and status match, and only ends have an end, after any sequence of steps."""
        record: TaskRecord | None = None
        for step in steps:
            record = after(record, step)
        for atomic in (True, False):
            try:
                execution = resolve(record, stored, atomic=atomic)
            except (ExecutionNotFound, ExecutionExpired):
                continue
            pairs = {(phase, status) for status, phase in [*states.PHASES.values(), states.RUNNING]}
            assert (execution.phase, execution.status) in pairs
            assert (execution.error is not None) == (execution.status is Status.FAILED)
            assert execution.finished_at is None or execution.status.terminal
            assert execution.outputs is None or execution.status is Status.COMPLETED


class TestRegistration:
    def test_created_at_is_not_after_started_at(self) -> None:
        """A retry may register a task that the store first saw from its worker."""
        registration = Registration("x", "tasks.t", at(5), owner="ann")
        assert states.apply_registration(OPEN, registration).created_at == at(1)
        assert states.apply_registration(None, registration).created_at == at(5)
        assert states.apply_registration(
            replace(OPEN, created_at=at(0)), registration
        ).created_at == at(0)

    def test_success_may_start_again_if_stored_result_is_gone(self) -> None:
        """A success that stored no result may not."""
        success = replace(OPEN, state="SUCCESS", last_ended_attempt=1, result_stored=True)
        assert not states.allows_start(success)
        assert states.allows_start(success, result_gone=True)
        assert not states.allows_start(replace(success, result_stored=False), result_gone=True)
