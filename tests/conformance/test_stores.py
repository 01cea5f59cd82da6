"""Contract of every store (``headway/stores/base.py``): one suite, each store in turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headway.core import states
from headway.core.registry import (
    READY_STATES,
    AttemptStart,
    AttemptStarted,
    Registration,
    StateWrite,
)
from headway.models import Progress, Status
from headway.stores import keyvalue, sql
from headway.stores.memory import MemoryStore
from tests.support import stores
from tests.support.stores import StoreUnderTest, at, report
from tests.support.wait import until

ENDS = sorted(READY_STATES)


class TestRegister:
    def test_registered_task_has_record_before_start(self, subject: StoreUnderTest) -> None:
        """A registered task has a record with the publisher's data and without a state."""
        registration = Registration(
            "a", "tasks.t", at(0), owner="ann", root_id="r", parent_id="p", group_id="g"
        )
        subject.store.register([registration])
        assert subject.record("a") == states.apply_registration(None, registration)
        assert states.resolve(subject.snapshot("a"), at(1)).status is Status.PENDING

    def test_one_call_registers_all_tasks(self, subject: StoreUnderTest) -> None:
        """One call registers all its tasks, also if it is empty or contains an id twice."""
        subject.store.register([])
        subject.store.register(Registration(f"t{n % 20}", "tasks.t", at(n)) for n in range(40))
        snapshots = subject.store.read([f"t{n}" for n in range(20)])
        assert [snapshot.record.created_at for snapshot in snapshots if snapshot.record] == [
            at(n) for n in range(20)
        ]

    def test_second_publish_of_started_task_changes_nothing(self, subject: StoreUnderTest) -> None:
        """A retry publishes the same id again, and the record stays unchanged
        (celery-facts#before-task-publish-comes-first).
        """
        subject.store.register([Registration("a", "tasks.t", at(0), owner="ann")])
        subject.open("a", 1, worker="w1")
        subject.write("a", "PROGRESS", 2, attempt=1, result=report())
        before = subject.record("a")
        subject.store.register([Registration("a", "tasks.other", at(3), owner="bob")])
        assert subject.record("a") == before

    @pytest.mark.parametrize("reported", [True, False])
    def test_publish_after_success_without_result_resets_execution(
        self, subject: StoreUnderTest, reported: bool
    ) -> None:
        """Only a new publication resets a success that stored no result."""
        # A result backend uses the system clock, so the times of this test are in the future.
        now = (datetime.now(UTC) - at(0)).total_seconds() + 3600
        publish = [Registration("a", "tasks.t", at(now + 0))]
        subject.store.register(publish)
        subject.open("a", now + 1)
        if reported:  # a record without a result replaces the report
            subject.write("a", "PROGRESS", now + 2, attempt=1, result=report(3))
            subject.write("a", "SUCCESS", now + 3, attempt=1, no_result=True)
        else:
            subject.store.write(StateWrite("a", "SUCCESS", at(now + 3), attempt=1))
        assert states.resolve(subject.snapshot("a"), at(now + 60)).status is Status.COMPLETED
        assert subject.open("a", now + 61).attempt == 0, "a redelivery"
        subject.store.register([replace(publish[0], created_at=at(now + 62))])
        again = states.resolve(subject.snapshot("a"), at(now + 63))
        assert (again.status, again.progress, again.finished_at) == (Status.PENDING, None, None)
        assert subject.open("a", now + 64).attempt == 2
        assert states.resolve(subject.snapshot("a"), at(now + 65)).status is Status.RUNNING
        assert subject.write("a", "PROGRESS", now + 66, attempt=2, result=report(4, attempt=2))

    def test_publish_after_success_with_result_changes_nothing(
        self, subject: StoreUnderTest
    ) -> None:
        """A new publication changes nothing while the result of a success exists."""
        subject.open("a", 1)
        subject.write("a", "SUCCESS", 2, attempt=1, result=42)
        before = subject.record("a")
        subject.store.register([Registration("a", "tasks.t", at(3))])
        assert subject.record("a") == replace(before, created_at=subject.record("a").created_at)
        assert subject.open("a", 4).attempt == 0

    def test_late_registration_fills_missing_fields(self, subject: StoreUnderTest) -> None:
        """A registration after the start adds the missing fields and keeps the earlier time."""
        subject.open("a", 1)
        subject.store.register([Registration("a", "tasks.t", at(3), owner="ann", group_id="g")])
        record = subject.record("a")
        assert (record.owner, record.group_id, record.created_at, record.attempt) == (
            "ann",
            "g",
            at(1),
            1,
        )


class TestOpen:
    def test_attempts_are_numbered_from_one(self, subject: StoreUnderTest) -> None:
        """The store numbers attempts 1, 2, 3 and so on, and the last one is open."""
        assert [subject.open("a", n).attempt for n in range(3)] == [1, 2, 3]
        record = subject.record("a")
        assert (record.attempt, record.last_ended_attempt, record.state, record.started_at) == (
            3,
            0,
            "STARTED",
            at(0),
        )

    def test_attempt_number_is_at_least_retries_plus_one(self, subject: StoreUnderTest) -> None:
        """A second retry is the third attempt, even if the store missed the earlier runs."""
        assert subject.open("a", retries=2).attempt == 3

    @pytest.mark.parametrize("sharing", ["memory", "redis", "sql"])
    def test_concurrent_starts_get_different_numbers(
        self,
        sharing: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Workers that start one execution at the same moment get different attempt numbers."""
        monkeypatch.setattr(sql, "FULL_TIMEOUT", stores.PATIENCE)  # SQLite allows one writer
        url = request.getfixturevalue("redis_url") if sharing == "redis" else None
        first = stores.make(sharing, tmp_path, url)
        # One store per process; the memory store exists in one process only.
        subjects = [
            first if sharing == "memory" else stores.make(sharing, tmp_path, url) for _ in range(4)
        ]
        with ThreadPoolExecutor(8) as pool:
            opening = AttemptStart("a", "tasks.t", at(0))
            answers = list(
                pool.map(
                    lambda n: (
                        subjects[n % 4].store.start_attempt(opening, full_timeout=True).attempt
                    ),
                    range(24),
                )
            )
        for each in subjects:
            each.store.close()
        assert sorted(answers) == list(range(1, 25))

    @pytest.mark.parametrize("end", sorted(READY_STATES - {"SUCCESS"}))
    def test_attempt_starts_after_any_end_except_success(
        self, subject: StoreUnderTest, end: str
    ) -> None:
        """A new attempt starts after any end except a success."""
        subject.open("a", 0)
        subject.write("a", end, 1, attempt=1)
        assert subject.open("a", 2).attempt == 2
        record = subject.record("a")
        assert (record.state, record.finished_at, record.result_stored, record.started_at) == (
            "STARTED",
            None,
            False,
            at(0),
        )

    def test_start_after_success_is_refused(self, subject: StoreUnderTest) -> None:
        """A redelivery after a success gets the number 0, and the store refuses its writes."""
        subject.open("a", 0)
        subject.write("a", "SUCCESS", 1, attempt=1, result=42)
        before = subject.record("a")
        assert subject.open("a", 2).attempt == 0
        assert not subject.write("a", "PROGRESS", 3, attempt=0, result=report())
        assert not subject.write("a", "SUCCESS", 3, attempt=0, result=43)
        assert subject.record("a") == before
        assert subject.snapshot("a").meta["result"] == 42  # type: ignore[index]

    def test_start_after_expired_result_is_accepted(self, subject: StoreUnderTest) -> None:
        """A job with a fixed id starts again after its last result has expired."""
        subject.open("a", 0)
        subject.write("a", "SUCCESS", 1, attempt=1, result=42)
        subject.forget("a")
        assert subject.open("a", 100).attempt == 2
        assert subject.write("a", "SUCCESS", 101, attempt=2, result=43)

    def test_repeated_start_of_one_delivery_returns_same_answer(
        self, subject: StoreUnderTest
    ) -> None:
        """A repeated start of one delivery returns the same answer and changes nothing."""
        subject.open("a", 0, delivery_id="r1")
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(4))
        subject.write("a", "RETRY", 2, attempt=1)
        answer = subject.open("a", 3, retries=1, delivery_id="r2")
        assert answer == AttemptStarted(2, previous=Progress(4, 10))
        before = subject.snapshot("a")
        assert subject.open("a", 4, retries=1, delivery_id="r2") == answer
        assert subject.snapshot("a") == before
        subject.write(
            "a", "FAILURE", 5, retries=1, result={"exc_type": "WorkerLostError", "exc_message": []}
        )
        assert subject.open("a", 6, retries=1, delivery_id="r2") == answer
        assert subject.record("a").state == "FAILURE"
        assert subject.open("a", 7, retries=1, delivery_id="r3").attempt == 3

    def test_start_after_start_of_own_retry_is_refused(self, subject: StoreUnderTest) -> None:
        """The store refuses an attempt whose retry has already started."""
        assert subject.open("a", 0, retries=1, delivery_id="r2").attempt == 2
        before = subject.snapshot("a")
        assert subject.open("a", 1, delivery_id="r1", retry_published=True) == AttemptStarted(0)
        assert not subject.write("a", "RETRY", 1, attempt=0)
        assert subject.snapshot("a") == before
        assert subject.open("b", 0, delivery_id="r1", retry_published=True).attempt == 1, (
            "the retry has not started"
        )
        assert subject.write("b", "RETRY", 1, attempt=1)

    def test_owner_of_first_writer_is_kept(self, subject: StoreUnderTest) -> None:
        """The store keeps the first owner that a publisher or a worker names."""
        subject.open("a", 0, owner="ann")
        subject.open("a", 1, owner="bob")
        assert subject.record("a").owner == "ann"
        subject.store.register([Registration("b", "tasks.t", at(0), owner="ann")])
        subject.open("b", 1, owner="bob")
        assert subject.record("b").owner == "ann"

    def test_new_attempt_receives_last_progress_of_previous_one(
        self, subject: StoreUnderTest
    ) -> None:
        """A new attempt receives only the last progress of the attempt directly before it."""
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        subject.write("a", "PROGRESS", 2, attempt=1, result=report(4))
        subject.write(
            "a", "RETRY", 3, attempt=1, result={"exc_type": "OSError", "exc_message": ["no"]}
        )
        answer = subject.open("a", 4, retries=1)
        assert answer == AttemptStarted(2, previous=Progress(4, 10))
        assert subject.open("a", 5, retries=2).previous is None

    def test_old_result_is_hidden_while_new_attempt_is_open(self, subject: StoreUnderTest) -> None:
        """A store that keeps results replaces the result of an earlier attempt."""
        subject.open("a", 0)
        subject.write(
            "a", "FAILURE", 1, attempt=1, result={"exc_type": "OSError", "exc_message": ["no"]}
        )
        subject.open("a", 100)
        assert (
            states.resolve(subject.snapshot("a"), at(101)).status is Status.RUNNING
            or not subject.store.keeps_results
        )
        if subject.store.keeps_results:
            assert subject.snapshot("a").meta["status"] == "STARTED"  # type: ignore[index]

    def test_started_record_is_stored_only_if_requested(self, subject: StoreUnderTest) -> None:
        """The store keeps the STARTED record as the result only if Celery tracks starts."""
        if not subject.store.keeps_results:
            pytest.skip("the caller lets Celery store it")
        subject.open("quiet")
        assert subject.meta("quiet") is None
        record = subject.encode("a", "STARTED", {"pid": 1})
        subject.open("a", result=record, store_result=True)
        assert subject.meta("a") == {**subject.meta("a"), "status": "STARTED", "result": {"pid": 1}}  # type: ignore[dict-item]


class TestWrite:
    def test_write_of_open_attempt_is_accepted(self, subject: StoreUnderTest) -> None:
        """The store accepts reports of the open attempt, and a reader sees the last one."""
        subject.open("a", 0, worker="w1")
        assert subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        assert subject.write("a", "PROGRESS", 2, attempt=1, result=report(4))
        record = subject.record("a")
        assert (record.progress, record.progress_attempt) == (Progress(4, 10), 1)
        assert (record.state, record.updated_at, record.last_ended_attempt) == (
            "PROGRESS",
            at(2),
            0,
        )
        assert subject.snapshot("a").meta["result"]["current"] == 4  # type: ignore[index]

    @pytest.mark.parametrize("end", ENDS)
    @pytest.mark.parametrize(
        "late", ["PROGRESS", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "WORKING"]
    )
    def test_late_write_after_end_is_refused(
        self, subject: StoreUnderTest, end: str, late: str
    ) -> None:
        """No later write of the attempt or of an external writer changes an end."""
        subject.open("a", 0, worker="w1")
        subject.write("a", end, 1, attempt=1, result="the end")
        before = subject.snapshot("a")
        assert not subject.write("a", late, 2, attempt=1, result=report())
        assert not subject.write("a", late, 2, retries=0, worker="w1", result=report())
        assert not subject.write("a", late, 2, result=report())
        assert subject.snapshot("a") == before

    def test_write_of_older_attempt_is_refused(self, subject: StoreUnderTest) -> None:
        """Only the newer of two runs of one message writes, so progress does not go back
        (celery-facts#redelivery-runs-the-same-id-twice).
        """
        subject.open("a", 0)
        subject.open("a", 1)
        for state in ("PROGRESS", "SUCCESS", "FAILURE", "RETRY"):
            assert not subject.write("a", state, 2, attempt=1)
        assert subject.write("a", "PROGRESS", 3, attempt=2, result=report())

    def test_retry_ends_attempt_but_not_execution(self, subject: StoreUnderTest) -> None:
        """The store refuses reports after RETRY, and the execution is not finished."""
        subject.open("a", 0)
        subject.write("a", "RETRY", 1, attempt=1)
        assert not subject.write("a", "PROGRESS", 2, attempt=1, result=report())
        record = subject.record("a")
        assert (record.last_ended_attempt, record.finished_at, record.state) == (1, None, "RETRY")

    def test_late_retry_of_previous_attempt_is_refused(self, subject: StoreUnderTest) -> None:
        """The store refuses a RETRY that arrives after the next attempt's start
        (celery-facts#celery-undoes-its-own-ends).
        """
        subject.open("a", 0)
        subject.open("a", 1, retries=1)
        assert not subject.write("a", "RETRY", 2, attempt=1)

    def test_external_writer_ends_its_own_open_run(self, subject: StoreUnderTest) -> None:
        """A main process ends the run whose child died or reached its time limit."""
        subject.open("a", 0, worker="w1")
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        assert subject.write(
            "a",
            "FAILURE",
            2,
            retries=0,
            worker="w1",
            result={"exc_type": "TimeLimitExceeded", "exc_message": []},
        )
        assert not subject.write("a", "PROGRESS", 3, attempt=1, result=report(9))
        execution = states.resolve(subject.snapshot("a"), at(4))
        assert (execution.status, execution.progress) == (Status.FAILED, Progress(3, 10))

    def test_external_write_for_older_or_foreign_run_is_refused(
        self, subject: StoreUnderTest
    ) -> None:
        """The store refuses an external write for an earlier run or for another worker's run."""
        subject.open("a", 0, worker="w1")
        subject.write("a", "RETRY", 1, attempt=1)
        assert not subject.write("a", "FAILURE", 2, retries=0, worker="w1")
        subject.open("a", 3, retries=1, worker="w2")
        assert not subject.write("a", "FAILURE", 4, retries=0, worker="w2")
        assert not subject.write("a", "FAILURE", 4, retries=1, worker="w1")
        assert subject.write("a", "FAILURE", 4, retries=1, worker="w2")

    def test_external_write_for_other_delivery_on_same_worker_is_refused(
        self, subject: StoreUnderTest
    ) -> None:
        """The delivery id identifies the lost run; without one, the worker name decides."""
        subject.open("a", 0, worker="w1", delivery_id="r1")
        subject.open("a", 1, worker="w1", delivery_id="r2")
        assert not subject.write("a", "FAILURE", 2, retries=0, worker="w1", delivery_id="r1")
        assert subject.write("a", "FAILURE", 3, retries=0, worker="w1", delivery_id="r2")
        subject.open("b", 0, worker="w1", delivery_id="r1")
        assert subject.write("b", "FAILURE", 1, retries=0, worker="w1")
        subject.open("c", 0, worker="w1")
        assert subject.write("c", "FAILURE", 1, retries=0, worker="w1", delivery_id="r1")

    def test_revoke_without_run_does_not_end_open_run(self, subject: StoreUnderTest) -> None:
        """Celery 5.6 stores REVOKED for a flagged task, and its open run continues
        (celery-facts#revoke-does-not-stop-a-running-task).
        """
        subject.open("a", 0, worker="w1")
        assert not subject.write("a", "REVOKED", 1)
        assert subject.write("a", "SUCCESS", 2, attempt=1, result=7)
        subject.open("b", 0, worker="w1")
        assert subject.write("b", "REVOKED", 1, retries=0, worker="w1"), (
            "its worker's main process has terminated it"
        )
        subject.open("c", 0, worker="w1")
        subject.write("c", "RETRY", 1, attempt=1)
        assert subject.write("c", "REVOKED", 2), "it waits for its retry, and no run is open"

    def test_worker_revoke_ends_waiting_execution(self, subject: StoreUnderTest) -> None:
        """A worker that drops a revoked message ends an execution that is queued or in retry."""
        subject.store.register([Registration("a", "tasks.t", at(0))])
        assert subject.write("a", "REVOKED", 1, retries=0, worker="w1")
        assert states.resolve(subject.snapshot("a"), at(2)).status is Status.CANCELLED
        subject.open("b", 0)
        subject.write("b", "RETRY", 1, attempt=1)
        assert subject.write("b", "REVOKED", 2, retries=1, worker="w2")

    def test_store_revoke_ends_only_waiting_execution(self, subject: StoreUnderTest) -> None:
        """The store revokes only an execution that waits for a retry, and Celery reads REVOKED."""
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        assert not subject.store.revoke("a", "cancelled", at(2))
        subject.write("a", "RETRY", 3, attempt=1)
        subject.store.request_cancel("a", at(4))
        assert subject.store.revoke("a", "cancelled", at(5))
        assert not subject.store.revoke("a", "cancelled", at(6))
        execution = states.resolve(subject.snapshot("a"), at(7))
        assert (execution.status, execution.progress, execution.finished_at) == (
            Status.CANCELLED,
            Progress(3, 10),
            at(5),
        )
        meta = subject.meta("a")
        assert meta is not None
        assert (meta["status"], meta["result"]["exc_type"], meta["result"]["exc_message"]) == (
            "REVOKED",
            "TaskRevokedError",
            ["cancelled"],
        )
        assert subject.open("a", 8, retries=1) == AttemptStarted(0, cancel_requested=True)

    def test_end_without_result_keeps_progress_and_does_not_expire(
        self, subject: StoreUnderTest
    ) -> None:
        """An end without a stored result keeps the progress and does not read as expired."""
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        assert subject.store.write(StateWrite("a", "IGNORED", at(2), attempt=1))
        record = subject.record("a")
        assert (record.state, record.finished_at, record.result_stored, record.progress) == (
            "IGNORED",
            at(2),
            False,
            Progress(3, 10),
        )
        assert states.resolve(subject.snapshot("a"), at(60)).status is Status.COMPLETED
        subject.forget("a")
        assert subject.record("a").progress == Progress(3, 10)

    def test_last_progress_survives_later_states(self, subject: StoreUnderTest) -> None:
        """Custom states, a retry and an end keep the last progress."""
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        subject.write("a", "UPLOADING", 2, attempt=1, result=None)
        assert subject.record("a").progress == Progress(3, 10)
        subject.write("a", "SUCCESS", 3, attempt=1, result={"rows": 1})
        assert subject.record("a").progress == Progress(3, 10)
        subject.forget("a")
        assert subject.record("a").progress == Progress(3, 10)

    def test_first_write_after_data_loss_restores_fence(self, subject: StoreUnderTest) -> None:
        """The store accepts a write without a record and then refuses earlier attempts."""
        assert subject.write("a", "PROGRESS", 1, attempt=3, result=report())
        assert (subject.record("a").attempt, subject.record("a").progress_attempt) == (3, 3)
        assert subject.write("b", "PROGRESS", 1, attempt=1, result=report())
        assert subject.write("b", "PROGRESS", 2, attempt=2, result=report())
        assert (subject.record("b").attempt, subject.record("b").progress_attempt) == (2, 2)
        assert not subject.write("a", "PROGRESS", 2, attempt=2, result=report())
        assert subject.write("a", "SUCCESS", 3, attempt=3)
        assert not subject.write("a", "PROGRESS", 4, attempt=4, result=report())

    def test_external_end_after_data_loss_is_final(self, subject: StoreUnderTest) -> None:
        """A lost attempt cannot change an end that an external writer stored after the loss."""
        assert subject.write("a", "FAILURE", 1, retries=0, worker="w1")
        assert not subject.write("a", "PROGRESS", 2, attempt=1, result=report())

    def test_report_without_encoded_result_is_stored(self, subject: StoreUnderTest) -> None:
        """The store keeps progress also if the caller passes no encoded result."""
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 0, attempt=1, result=report(2))
        assert subject.store.write(StateWrite("a", "PROGRESS", at(1), attempt=1, meta=report(3)))
        assert subject.record("a").progress == Progress(3, 10)

    def test_full_timeout_changes_no_answer(self, subject: StoreUnderTest) -> None:
        """A call with the full timeout follows the same rules."""
        write = StateWrite(
            "a", "SUCCESS", at(1), attempt=1, result=subject.encode("a", "SUCCESS", 1)
        )
        assert (
            subject.store.start_attempt(
                AttemptStart("a", "tasks.t", at(0)), full_timeout=True
            ).attempt
            == 1
        )
        assert subject.store.write(write, full_timeout=True)
        assert not subject.store.write(write, full_timeout=True)


class TestRead:
    def test_unknown_id_has_empty_snapshot(self, subject: StoreUnderTest) -> None:
        """An unknown id has a snapshot without record and result."""
        snapshot = subject.snapshot("never")
        assert (snapshot.task_id, snapshot.record, snapshot.meta) == ("never", None, None)
        assert subject.store.read([]) == []

    def test_read_returns_snapshots_in_requested_order(self, subject: StoreUnderTest) -> None:
        """Snapshots have the order of the given ids, unknown and duplicate ids included."""
        subject.open("a")
        subject.open("b")
        asked = ["b", "x", "a", "b"]
        snapshots = subject.store.read(asked)
        assert [snapshot.task_id for snapshot in snapshots] == asked
        assert [snapshot.record is None for snapshot in snapshots] == [False, True, False, False]

    @pytest.mark.parametrize("task_id", ["ä-ö_日本", "with space", "a:b{c}*", "x" * 150])
    def test_any_printable_id_is_stored(self, subject: StoreUnderTest, task_id: str) -> None:
        """The store accepts every id that Celery accepts."""
        subject.open(task_id)
        subject.write(task_id, "PROGRESS", 1, attempt=1, result=report(3))
        assert subject.record(task_id).progress == Progress(3, 10)

    def test_progress_fields_are_read_unchanged(self, subject: StoreUnderTest) -> None:
        """A reader gets every field of a report unchanged, before and after the end."""
        sent = report(
            2.5,
            7,
            message="Zwölf %d \x00",
            attributes={"k": "v", "": "ä"},
            timestamp=1772366400123,
            rate=1.25,
        )
        subject.open("a")
        subject.write("a", "PROGRESS", 1, attempt=1, result=sent)
        before = subject.record("a").progress
        subject.write("a", "SUCCESS", 2, attempt=1)
        assert before is not None
        assert (before.current, before.total, before.message, before.attributes, before.rate) == (
            2.5,
            7,
            sent["message"],
            sent["attributes"],
            1.25,
        )
        assert subject.record("a").progress == before

    def test_exceptions_are_read_as_plain_data(self, subject: StoreUnderTest) -> None:
        """A failure reads as plain data, and no class of its name is created or called
        (celery-facts#decode-result-revives-exceptions).
        """
        subject.open("a")
        subject.write(
            "a",
            "FAILURE",
            1,
            attempt=1,
            result={"exc_type": "system", "exc_message": ["x"], "exc_module": "os"},
        )
        meta = subject.meta("a")
        assert meta is not None
        assert meta["result"] == {"exc_type": "system", "exc_message": ["x"], "exc_module": "os"}

    def test_result_of_external_writer_has_no_record(self, subject: StoreUnderTest) -> None:
        """A result that only Celery stored has a snapshot without a record."""
        subject.put("a", "PROGRESS", report(3))
        snapshot = subject.snapshot("a")
        assert snapshot.record is None
        assert states.resolve(snapshot, at(0)).progress == Progress(3, 10)

    def test_snapshot_has_record_and_result_of_same_report(self, subject: StoreUnderTest) -> None:
        """A store that keeps results reads record and result of the same report
        (celery-facts#state-and-info-are-two-reads).
        """
        if not subject.store.keeps_results:
            pytest.skip("the result follows its registry entry")
        subject.open("a", 0)

        def write_reports() -> None:
            for n in range(1, 101):
                subject.write("a", "PROGRESS", n, attempt=1, result=report(n, 100))

        with ThreadPoolExecutor(2) as pool:
            done = pool.submit(write_reports)
            while not done.done():
                snapshot = subject.snapshot("a")
                record = snapshot.record
                assert record is not None
                if record.state == "PROGRESS":
                    assert snapshot.meta is not None
                    assert record.updated_at == at(snapshot.meta["result"]["current"])
            done.result()


class TestClaim:
    def test_first_claim_of_key_wins(self, subject: StoreUnderTest) -> None:
        """The first caller sets a key, and all callers receive its value."""
        assert [subject.store.claim_key("k", task_id, 60) for task_id in ("a", "b", "a")] == [
            "a",
            "a",
            "a",
        ]
        assert subject.store.claim_key("k2 /ä:", "b", 60) == "b"

    def test_claim_is_replaced_only_with_current_value(self, subject: StoreUnderTest) -> None:
        """A caller replaces a claim only with its current value; an unset claim is always set."""
        claim = subject.store.claim_key
        assert claim("k", "a", 60, instead_of="never bound") == "a"
        assert [claim("k", "b", 60, instead_of=old) for old in ("b", None, "", "a", "a")] == [
            "a",
            "a",
            "a",
            "b",
            "b",
        ]
        assert claim("k", "c", 60) == "b"

    @pytest.mark.parametrize("sharing", ["memory", "redis", "sql", "files"])
    def test_one_of_many_concurrent_replacements_wins(
        self,
        sharing: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """One of many concurrent callers sets its value, and all receive that value."""
        url = request.getfixturevalue("redis_url") if sharing == "redis" else None
        subject = stores.make(sharing, tmp_path, url)
        monkeypatch.setattr(
            keyvalue, "LOCK_TIMEOUT", stores.PATIENCE
        )  # files allow one writer at a time
        subject.store.claim_key("k", "a", 60)
        with ThreadPoolExecutor(8) as pool:
            bound = set(
                pool.map(
                    lambda n: subject.store.claim_key("k", f"b{n}", 60, instead_of="a"), range(24)
                )
            )
        subject.store.close()
        assert len(bound) == 1
        assert bound < {f"b{n}" for n in range(24)}

    def test_claim_is_free_after_its_lifetime(self, subject: StoreUnderTest) -> None:
        """A claim is free again after its lifetime."""
        subject.store.claim_key("k", "a", 1e-9)  # a server rounds up to one millisecond
        until(lambda: subject.store.claim_key("k", "b", 60) == "b", what="the claim to end")


class TestLifetime:
    def test_store_reconnects_after_close(self, subject: StoreUnderTest) -> None:
        """A ping returns, a second close does nothing, and the next call connects again."""
        subject.store.ping()
        subject.open("a")
        subject.store.close()
        subject.store.close()
        assert subject.record("a").attempt == 1


class TestMemoryStore:
    def test_results_expire_by_given_clock(self) -> None:
        """The results of the memory store expire by the given clock."""
        now = [at(0)]
        store = MemoryStore(clock=lambda: now[0])
        subject = StoreUnderTest(store)
        subject.open("a", 0)
        subject.write("a", "SUCCESS", 1, attempt=1, result=1)
        assert subject.meta("a") is not None
        now[0] = at(3601)
        assert subject.snapshot("a") == replace(subject.snapshot("a"), meta=None)

    def test_subscribers_receive_only_accepted_writes(self) -> None:
        """The store publishes accepted writes in order, with Celery's record."""
        subject = StoreUnderTest(MemoryStore())
        assert isinstance(subject.store, MemoryStore)
        received: list[tuple[str, str]] = []
        stop = subject.store.subscribe(
            lambda task_id, meta: received.append((task_id, meta["status"]))
        )
        subject.open("a")
        subject.write("a", "PROGRESS", 1, attempt=1, result=report())
        subject.store.write(StateWrite("a", "IGNORED", at(2), attempt=1))
        subject.write("a", "PROGRESS", 3, attempt=1, result=report())
        assert received == [("a", "STARTED"), ("a", "PROGRESS"), ("a", "IGNORED")]
        stop()
        subject.open("b")
        assert len(received) == 3
