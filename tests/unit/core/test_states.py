"""The state machine: the contract's section 3, row by row, and who is right where registry and
result differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import celery.states
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
from headway.worker.validation import to_meta
from tests.support.stores import at, report

NOW = at(100)
OPEN = TaskRecord("x", "tasks.t", attempt=1, state="STARTED", started_at=at(1), updated_at=at(1))


def resolve(
    record: TaskRecord | None, meta: dict[str, Any] | None = None, *, atomic: bool = True
) -> Execution:
    return states.resolve(Snapshot("x", record, meta, atomic), NOW)


def meta(state: str, result: object = None, **more: object) -> dict[str, Any]:
    return {"status": state, "result": result, **more}


class TestTable:
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
    def test_each_row(self, state: str | None, status: str, phase: str) -> None:
        """Each state of Celery's, and a task's own word, has its status and its phase, from the
        registry or the backend alone.
        """
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
    def test_cancelling(self, record: TaskRecord, status: Status) -> None:
        """A cancel that was asked for shows until the end is there, and not after it."""
        asked = replace(record, cancel_requested_at=at(2))
        assert (resolve(asked).status, resolve(asked).phase) == (status, Phase.CANCELLING)
        assert resolve(replace(asked, state="REVOKED")).phase is Phase.CANCELLED

    def test_nobody_is_left_to_confirm_a_cancel(self) -> None:
        """A run whose signs of life have stopped is stalled, its cancel asked for or not, until the
        next sign.
        """
        asked = replace(OPEN, cancel_requested_at=at(2))
        phases = [
            states.resolve(Snapshot("x", asked, None, alive=alive), at(9)).phase
            for alive in (False, True)
        ]
        assert phases == [Phase.STALLED, Phase.CANCELLING]

    def test_the_words_are_celerys(self) -> None:
        """The states that end an attempt are Celery's, and the two that it stores nowhere."""
        assert READY_STATES - {"IGNORED", "REJECTED"} == celery.states.READY_STATES

    def test_pending_as_a_tasks_own_word(self) -> None:
        """What reports has begun, whatever it calls itself; PENDING without a report is the
        backend's word for nothing.
        """
        assert resolve(None, meta("PENDING", report())).status is Status.RUNNING
        assert resolve(None, meta("PENDING")).status is Status.PENDING
        assert (
            resolve(replace(OPEN, state="PENDING"), meta("PENDING", report())).status
            is Status.RUNNING
        )
        assert resolve(OPEN, meta("PENDING")).status is Status.RUNNING


class TestKnown:
    def test_unknown(self) -> None:
        """What neither registry nor backend knows is not found."""
        with pytest.raises(ExecutionNotFound, match="Execution 'x' not found"):
            resolve(None)

    def test_expired(self) -> None:
        """What ended with a result that is gone has expired; what ended with none has not."""
        ended = replace(
            OPEN, state="SUCCESS", last_ended_attempt=1, finished_at=at(2), result_stored=True
        )
        with pytest.raises(ExecutionExpired):
            resolve(ended)
        assert resolve(replace(ended, result_stored=False)).status is Status.COMPLETED
        assert resolve(OPEN).status is Status.RUNNING

    def test_an_unreadable_result(self) -> None:
        """A result that can't be decoded is there: the end shows, without outputs."""
        ended = replace(
            OPEN, state="SUCCESS", last_ended_attempt=1, finished_at=at(2), result_stored=True
        )
        assert resolve(ended, {"status": None, "result": None}).status is Status.COMPLETED
        assert resolve(ended, {"status": ["?"], "result": None}).status is Status.COMPLETED


class TestFields:
    def test_a_success(self) -> None:
        """Outputs, times, task, attempt, worker and owner come from where they are known."""
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

    def test_a_stranger(self) -> None:
        """A task that never heard of Headway has what Celery's record says, ``result_extended``
        included.
        """
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

    def test_outputs_and_errors_only_where_they_belong(self) -> None:
        """A running execution has neither outputs nor an error, and no end, whatever the record
        holds.
        """
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
    def test_failures(self, state: str, result: object, failure: tuple[Any, ...]) -> None:
        """Whatever a FAILURE holds (fact 8), the error says it as data."""
        assert resolve(
            replace(OPEN, state=state, last_ended_attempt=1), meta(state, result)
        ).error == Failure(*failure)


class TestProgress:
    def test_the_last_progress_is_kept(self) -> None:
        """A job that failed at 30 % says 30 %, and so does one that was revoked, or waits for its
        retry.
        """
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

    def test_a_new_attempt_has_said_nothing_yet(self) -> None:
        """The progress of one attempt isn't shown for the next."""
        record = replace(OPEN, attempt=2, progress=Progress(3, 10), progress_attempt=1)
        assert resolve(record).progress is None
        assert resolve(replace(record, state="FAILURE", last_ended_attempt=2)).progress is None

    def test_an_exception_is_no_progress(self) -> None:
        """The message of an exception stands in the error alone."""
        for state in ("FAILURE", "RETRY"):
            assert (
                resolve(None, meta(state, {"exc_type": "E", "exc_message": ["3 of 10"]})).progress
                is None
            )

    def test_a_state_without_progress_keeps_the_last(self) -> None:
        """A word of the task's own that counts nothing leaves the bar where it was."""
        record = replace(OPEN, state="UPLOADING", progress=Progress(3, 10), progress_attempt=1)
        assert resolve(record, meta("UPLOADING")).progress == Progress(3, 10)

    def test_a_strangers_report(self) -> None:
        """Progress that existing tasks store is read as it is (contract, section 7)."""
        assert resolve(None, meta("PROGRESS", {"current": 4, "total": 10})).progress == Progress(
            4, 10
        )


class TestDisagreement:
    def test_the_registry_is_right_about_ends(self) -> None:
        """A late PROGRESS in the backend doesn't un-end what the registry saw end, not for a moment
        (facts 2, 3).
        """
        ended = replace(
            OPEN, state="FAILURE", last_ended_attempt=1, finished_at=NOW, result_stored=True
        )
        assert resolve(ended, meta("PROGRESS", report())).status is Status.FAILED

    def test_an_end_that_the_registry_missed(self) -> None:
        """An end that a process without Headway stored is an end."""
        assert resolve(OPEN, meta("FAILURE")).status is Status.FAILED
        assert resolve(TaskRecord("x", created_at=at(0)), meta("SUCCESS", 1)).outputs == 1

    def test_a_late_retry(self) -> None:
        """RETRY in the backend is an old attempt's word once the next one has begun (fact 42)."""
        assert (
            resolve(replace(OPEN, attempt=2, last_ended_attempt=1), meta("RETRY")).phase
            is Phase.RUNNING
        )

    def test_an_unfenced_report(self) -> None:
        """A helper process may report past the fence, and is shown."""
        assert resolve(OPEN, meta("PROGRESS", report(3))).progress == Progress(3, 10)

    @pytest.mark.parametrize(
        "stored", [None, meta("PROGRESS", report()), meta("FAILURE"), meta("PENDING")]
    )
    def test_a_result_on_its_way(self, stored: dict[str, Any] | None) -> None:
        """Where the result follows its registry entry, the end shows with its result, or when the
        grace is over without it.
        """
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

    def test_the_end_of_the_attempt_before(self) -> None:
        """Where the result follows its registry entry, an older end in the backend doesn't end a
        newer attempt.
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

    def test_a_report_of_the_attempt_before(self) -> None:
        """A report of ours names its attempt. What a task stores by itself may call anything so,
        such as its retries.
        """
        second = replace(OPEN, attempt=2, last_ended_attempt=1, state="PROGRESS")
        ours = to_meta((9, 10, None, None), 1.0, None, 1)
        assert resolve(second, meta("PROGRESS", ours), atomic=False).progress is None
        assert (
            resolve(second, meta("PROGRESS", ours | {"attempt": 2}), atomic=False).progress
            is not None
        )
        theirs = {"current": 9, "total": 10, "attempt": 1}
        assert resolve(second, meta("PROGRESS", theirs)).progress == Progress(9, 10)


class TestCurrentReport:
    SHOWN = Execution("x", Status.RUNNING, Phase.RUNNING, attempt=2)

    def test_report_of_the_running_attempt_is_current(self) -> None:
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
    def test_report_is_not_current_while_nothing_runs(self, status: Status, phase: Phase) -> None:
        """A report that arrives after an end, or before a start, needs a read."""
        shown = replace(self.SHOWN, status=status, phase=phase)
        assert not states.is_current_report(shown, meta("PROGRESS", report(4, attempt=2)))


class TestSupersedes:
    @pytest.mark.parametrize("attempt", [1, 2])
    def test_running_execution_is_superseded_by_anything(self, attempt: int) -> None:
        """A state that isn't terminal may change to any other."""
        running = Execution("x", Status.RUNNING, Phase.RUNNING, attempt=2)
        assert states.supersedes(running, replace(running, attempt=attempt))

    def test_terminal_execution_is_superseded_by_a_new_attempt_only(self) -> None:
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
OPENINGS = st.builds(
    AttemptStart,
    st.just("x"),
    st.just("t"),
    st.integers(0, 100).map(at),
    st.integers(0, 3),
    st.sampled_from([None, "w1", "w2"]),
)
STEPS = st.lists(st.one_of(WRITES, WRITES, OPENINGS), max_size=20)


def after(record: TaskRecord | None, step: StateWrite | AttemptStart) -> TaskRecord | None:
    if isinstance(step, AttemptStart):
        return states.apply_start(record, step) if states.allows_start(record) else record
    return states.apply_write(record, step) if states.allows_write(record, step) else record


class TestProperties:
    @given(STEPS)
    def test_terminal_is_terminal(self, steps: list[StateWrite | AttemptStart]) -> None:
        """Nothing that anybody writes after an end changes it: only a new attempt does, and nothing
        does after a success.
        """
        record: TaskRecord | None = None
        for step in steps:
            before, record = record, after(record, step)
            if before is not None and before.state in READY_STATES and record != before:
                assert isinstance(step, AttemptStart)
                assert before.state != "SUCCESS"

    @given(STEPS)
    def test_attempts_only_grow(self, steps: list[StateWrite | AttemptStart]) -> None:
        """An attempt's number is never given out twice, and none ends that hasn't begun."""
        record = TaskRecord("x")
        for step in steps:
            new = after(record, step) or record
            assert new.attempt >= record.attempt
            assert 0 <= new.last_ended_attempt <= new.attempt
            if isinstance(step, AttemptStart) and states.allows_start(record):
                assert new.attempt > record.attempt
                assert new.is_open
            record = new

    @given(STEPS, st.integers(0, 3))
    def test_no_older_attempt_is_let_in(
        self, steps: list[StateWrite | AttemptStart], attempt: int
    ) -> None:
        """However it came to it, an attempt that isn't the newest may not write."""
        record: TaskRecord | None = None
        for step in steps:
            record = after(record, step)
        if record is not None and attempt < record.attempt:
            assert not states.allows_write(
                record, StateWrite("x", "PROGRESS", NOW, attempt=attempt)
            )

    @given(
        STEPS,
        st.sampled_from(
            [
                None,
                *(meta(state, report()) for state in ("PROGRESS", "RETRY", "SUCCESS", "FAILURE")),
            ]
        ),
    )
    def test_an_execution_never_contradicts_itself(
        self, steps: list[StateWrite | AttemptStart], stored: dict[str, Any] | None
    ) -> None:
        """Whatever was written and whatever is stored: phase and status fit, ends have their end,
        and only they.
        """
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


class TestRegistered:
    def test_created_no_later_than_begun(self) -> None:
        """A task that was first heard of from its worker, and is published again by a retry, was
        made before it began.
        """
        registration = Registration("x", "tasks.t", at(5), owner="ann")
        assert states.apply_registration(OPEN, registration).created_at == at(1)
        assert states.apply_registration(None, registration).created_at == at(5)
        assert states.apply_registration(
            replace(OPEN, created_at=at(0)), registration
        ).created_at == at(0)

    def test_the_result_that_has_expired(self) -> None:
        """Only the success of a result that was stored and is gone may be opened."""
        success = replace(OPEN, state="SUCCESS", last_ended_attempt=1, result_stored=True)
        assert not states.allows_start(success)
        assert states.allows_start(success, result_gone=True)
        assert not states.allows_start(replace(success, result_stored=False), result_gone=True)
