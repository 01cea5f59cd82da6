"""What every store owes (``headway/stores/base.py``): one suite, each store in turn."""

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
    def test_a_published_task_is_known_before_it_begins(self, subject: StoreUnderTest) -> None:
        """A registered task reads as a record with no state and with all data of its publisher."""
        registration = Registration(
            "a", "tasks.t", at(0), owner="ann", root_id="r", parent_id="p", group_id="g"
        )
        subject.store.register([registration])
        assert subject.record("a") == states.apply_registration(None, registration)
        assert states.resolve(subject.snapshot("a"), at(1)).status is Status.PENDING

    def test_many_at_once(self, subject: StoreUnderTest) -> None:
        """All tasks of one call are known after it, an id that is named twice and an empty call
        included.
        """
        subject.store.register([])
        subject.store.register(Registration(f"t{n % 20}", "tasks.t", at(n)) for n in range(40))
        snapshots = subject.store.read([f"t{n}" for n in range(20)])
        assert [snapshot.record.created_at for snapshot in snapshots if snapshot.record] == [
            at(n) for n in range(20)
        ]

    def test_a_second_publish_changes_nothing(self, subject: StoreUnderTest) -> None:
        """A retry publishes the same id again, and nothing that is known is lost
        (celery-facts#before-task-publish-comes-first).
        """
        subject.store.register([Registration("a", "tasks.t", at(0), owner="ann")])
        subject.open("a", 1, worker="w1")
        subject.write("a", "PROGRESS", 2, attempt=1, result=report())
        before = subject.record("a")
        subject.store.register([Registration("a", "tasks.other", at(3), owner="bob")])
        assert subject.record("a") == before

    @pytest.mark.parametrize("reported", [True, False])
    def test_id_with_ignored_result_is_used_again(
        self, subject: StoreUnderTest, reported: bool
    ) -> None:
        """A success that left no result is taken back by the next publication of its id, and by
        nothing else.
        """
        # A backend that keeps its results itself has a clock of its own, which goes on while this
        # runs.
        now = (datetime.now(UTC) - at(0)).total_seconds() + 3600
        publish = [Registration("a", "tasks.t", at(now + 0))]
        subject.store.register(publish)
        subject.open("a", now + 1)
        if reported:  # what stood there is replaced by a record that is no result
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

    def test_a_success_with_a_result_is_not_taken_back(self, subject: StoreUnderTest) -> None:
        """Publishing its id again changes nothing while the result is there."""
        subject.open("a", 1)
        subject.write("a", "SUCCESS", 2, attempt=1, result=42)
        before = subject.record("a")
        subject.store.register([Registration("a", "tasks.t", at(3))])
        assert subject.record("a") == replace(before, created_at=subject.record("a").created_at)
        assert subject.open("a", 4).attempt == 0

    def test_what_was_missing_is_filled_in(self, subject: StoreUnderTest) -> None:
        """A task that was first heard of from its worker was made no later than it began."""
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
    def test_attempts_are_numbered(self, subject: StoreUnderTest) -> None:
        """Attempts are numbered 1, 2, 3 and so on, and the last one is open."""
        assert [subject.open("a", n).attempt for n in range(3)] == [1, 2, 3]
        record = subject.record("a")
        assert (record.attempt, record.last_ended_attempt, record.state, record.started_at) == (
            3,
            0,
            "STARTED",
            at(0),
        )

    def test_celerys_own_count_is_the_least(self, subject: StoreUnderTest) -> None:
        """A second retry is the third attempt, also where the runs before it left no trace."""
        assert subject.open("a", retries=2).attempt == 3

    @pytest.mark.parametrize("sharing", ["memory", "redis", "sql"])
    def test_attempts_are_numbered_once(
        self,
        sharing: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Workers that start one execution at the same moment get different attempt numbers."""
        monkeypatch.setattr(sql, "FULL_TIMEOUT", stores.PATIENCE)  # SQLite lets one write at a time
        url = request.getfixturevalue("redis_url") if sharing == "redis" else None
        first = stores.make(sharing, tmp_path, url)
        # A store each, as in a process each; the fake is one process's own.
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
    def test_an_end_may_be_followed_by_a_new_attempt(
        self, subject: StoreUnderTest, end: str
    ) -> None:
        """A redelivered, retried or resent execution begins again after any end but a success."""
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

    def test_nothing_opens_a_success(self, subject: StoreUnderTest) -> None:
        """A redelivery after the success gets the number 0, and nothing it writes is let in."""
        subject.open("a", 0)
        subject.write("a", "SUCCESS", 1, attempt=1, result=42)
        before = subject.record("a")
        assert subject.open("a", 2).attempt == 0
        assert not subject.write("a", "PROGRESS", 3, attempt=0, result=report())
        assert not subject.write("a", "SUCCESS", 3, attempt=0, result=43)
        assert subject.record("a") == before
        assert subject.snapshot("a").meta["result"] == 42  # type: ignore[index]

    def test_a_success_whose_result_has_expired_holds_its_id_no_longer(
        self, subject: StoreUnderTest
    ) -> None:
        """A nightly job with a fixed id runs every night, although the registry still knows the
        last one.
        """
        subject.open("a", 0)
        subject.write("a", "SUCCESS", 1, attempt=1, result=42)
        subject.forget("a")
        assert subject.open("a", 100).attempt == 2
        assert subject.write("a", "SUCCESS", 101, attempt=2, result=43)

    def test_the_same_run_is_opened_once(self, subject: StoreUnderTest) -> None:
        """A worker that got no answer asks again: the same number, the same answer, and no end of
        its run is undone.
        """
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

    def test_a_run_that_its_retry_overtook(self, subject: StoreUnderTest) -> None:
        """An attempt whose start was lost ends after its retry has started: it takes nothing from
        that one.
        """
        assert subject.open("a", 0, retries=1, delivery_id="r2").attempt == 2
        before = subject.snapshot("a")
        assert subject.open("a", 1, delivery_id="r1", retry_published=True) == AttemptStarted(0)
        assert not subject.write("a", "RETRY", 1, attempt=0)
        assert subject.snapshot("a") == before
        assert subject.open("b", 0, delivery_id="r1", retry_published=True).attempt == 1, (
            "it has not begun"
        )
        assert subject.write("b", "RETRY", 1, attempt=1)

    def test_the_owner_that_the_message_names(self, subject: StoreUnderTest) -> None:
        """Where no publisher has told the store, the worker's first word says whose it is; else the
        publisher's counts.
        """
        subject.open("a", 0, owner="ann")
        subject.open("a", 1, owner="bob")
        assert subject.record("a").owner == "ann"
        subject.store.register([Registration("b", "tasks.t", at(0), owner="ann")])
        subject.open("b", 1, owner="bob")
        assert subject.record("b").owner == "ann"

    def test_the_progress_before(self, subject: StoreUnderTest) -> None:
        """A new attempt is told the last progress of the attempt before it, and nothing of one
        before that.
        """
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        subject.write("a", "PROGRESS", 2, attempt=1, result=report(4))
        subject.write(
            "a", "RETRY", 3, attempt=1, result={"exc_type": "OSError", "exc_message": ["no"]}
        )
        answer = subject.open("a", 4, retries=1)
        assert answer == AttemptStarted(2, previous=Progress(4, 10))
        assert subject.open("a", 5, retries=2).previous is None

    def test_no_old_end_beside_an_open_attempt(self, subject: StoreUnderTest) -> None:
        """Where an earlier attempt left a result, a store that keeps results replaces it; else a
        reader passes over it.
        """
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

    def test_the_start_is_kept_where_asked(self, subject: StoreUnderTest) -> None:
        """The STARTED record is the result where Celery tracks starts; else the execution has none
        yet.
        """
        if not subject.store.keeps_results:
            pytest.skip("the caller lets Celery store it")
        subject.open("quiet")
        assert subject.meta("quiet") is None
        record = subject.encode("a", "STARTED", {"pid": 1})
        subject.open("a", result=record, store_result=True)
        assert subject.meta("a") == {**subject.meta("a"), "status": "STARTED", "result": {"pid": 1}}  # type: ignore[dict-item]


class TestWrite:
    def test_the_open_attempt_writes(self, subject: StoreUnderTest) -> None:
        """Reports of the open attempt are let in, and are what a reader sees."""
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
    def test_terminal_is_terminal(self, subject: StoreUnderTest, end: str, late: str) -> None:
        """No later write of the same attempt, nor of a bystander, changes an end: not the registry,
        and not the result.
        """
        subject.open("a", 0, worker="w1")
        subject.write("a", end, 1, attempt=1, result="the end")
        before = subject.snapshot("a")
        assert not subject.write("a", late, 2, attempt=1, result=report())
        assert not subject.write("a", late, 2, retries=0, worker="w1", result=report())
        assert not subject.write("a", late, 2, result=report())
        assert subject.snapshot("a") == before

    def test_an_older_attempt_is_refused(self, subject: StoreUnderTest) -> None:
        """Of two runs of one message the newer one writes: progress doesn't go back
        (celery-facts#redelivery-runs-the-same-id-twice).
        """
        subject.open("a", 0)
        subject.open("a", 1)
        for state in ("PROGRESS", "SUCCESS", "FAILURE", "RETRY"):
            assert not subject.write("a", state, 2, attempt=1)
        assert subject.write("a", "PROGRESS", 3, attempt=2, result=report())

    def test_a_retry_ends_the_attempt_only(self, subject: StoreUnderTest) -> None:
        """After RETRY the attempt may say no more, and the execution is not finished."""
        subject.open("a", 0)
        subject.write("a", "RETRY", 1, attempt=1)
        assert not subject.write("a", "PROGRESS", 2, attempt=1, result=report())
        record = subject.record("a")
        assert (record.last_ended_attempt, record.finished_at, record.state) == (1, None, "RETRY")

    def test_a_late_retry_of_the_attempt_before(self, subject: StoreUnderTest) -> None:
        """A RETRY that comes after the next attempt's start is refused
        (celery-facts#celery-undoes-its-own-ends).
        """
        subject.open("a", 0)
        subject.open("a", 1, retries=1)
        assert not subject.write("a", "RETRY", 2, attempt=1)

    def test_a_bystander_ends_what_is_open(self, subject: StoreUnderTest) -> None:
        """The main process that saw its child die, or hit the time limit, ends the run that it
        speaks of.
        """
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

    def test_a_bystander_of_an_older_run_is_refused(self, subject: StoreUnderTest) -> None:
        """One that speaks of fewer retries, of a run that ended in RETRY, or for another worker's
        run, changes nothing.
        """
        subject.open("a", 0, worker="w1")
        subject.write("a", "RETRY", 1, attempt=1)
        assert not subject.write("a", "FAILURE", 2, retries=0, worker="w1")
        subject.open("a", 3, retries=1, worker="w2")
        assert not subject.write("a", "FAILURE", 4, retries=0, worker="w2")
        assert not subject.write("a", "FAILURE", 4, retries=1, worker="w1")
        assert subject.write("a", "FAILURE", 4, retries=1, worker="w2")

    def test_a_bystander_of_another_run_on_the_same_worker_is_refused(
        self, subject: StoreUnderTest
    ) -> None:
        """One worker got a message twice: only the mark tells which run was lost. Where one has
        none, the worker decides.
        """
        subject.open("a", 0, worker="w1", delivery_id="r1")
        subject.open("a", 1, worker="w1", delivery_id="r2")
        assert not subject.write("a", "FAILURE", 2, retries=0, worker="w1", delivery_id="r1")
        assert subject.write("a", "FAILURE", 3, retries=0, worker="w1", delivery_id="r2")
        subject.open("b", 0, worker="w1", delivery_id="r1")
        assert subject.write("b", "FAILURE", 1, retries=0, worker="w1")
        subject.open("c", 0, worker="w1")
        assert subject.write("c", "FAILURE", 1, retries=0, worker="w1", delivery_id="r1")

    def test_a_revoke_that_knows_no_run_does_not_end_one(self, subject: StoreUnderTest) -> None:
        """Celery 5.6 stores REVOKED for a task that is only flagged; a run that is open goes on and
        ends by itself (celery-facts#revoke-does-not-stop-a-running-task).
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
        assert subject.write("c", "REVOKED", 2), "it waits for its retry, and nothing of it runs"

    def test_a_revoke_of_what_never_began(self, subject: StoreUnderTest) -> None:
        """A worker that drops a revoked message ends the execution, and so it ends while it waits
        for its retry.
        """
        subject.store.register([Registration("a", "tasks.t", at(0))])
        assert subject.write("a", "REVOKED", 1, retries=0, worker="w1")
        assert states.resolve(subject.snapshot("a"), at(2)).status is Status.CANCELLED
        subject.open("b", 0)
        subject.write("b", "RETRY", 1, attempt=1)
        assert subject.write("b", "REVOKED", 2, retries=1, worker="w2")

    def test_a_store_revokes_what_waits(self, subject: StoreUnderTest) -> None:
        """What waits for a retry ends as REVOKED, for Celery's readers too; what runs or has ended
        does not.
        """
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

    def test_an_end_without_a_result(self, subject: StoreUnderTest) -> None:
        """An end that Celery keeps no record of is an end, keeps the progress, and doesn't read as
        expired.
        """
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

    def test_the_last_progress_outlives_what_follows(self, subject: StoreUnderTest) -> None:
        """A state that says nothing of progress, a retry and an end leave the last report where it
        was.
        """
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 1, attempt=1, result=report(3))
        subject.write("a", "UPLOADING", 2, attempt=1, result=None)
        assert subject.record("a").progress == Progress(3, 10)
        subject.write("a", "SUCCESS", 3, attempt=1, result={"rows": 1})
        assert subject.record("a").progress == Progress(3, 10)
        subject.forget("a")
        assert subject.record("a").progress == Progress(3, 10)

    def test_the_fence_stands_again_after_a_loss_of_data(self, subject: StoreUnderTest) -> None:
        """A write without a record is accepted, and its number fences out earlier attempts."""
        assert subject.write("a", "PROGRESS", 1, attempt=3, result=report())
        assert (subject.record("a").attempt, subject.record("a").progress_attempt) == (3, 3)
        assert subject.write("b", "PROGRESS", 1, attempt=1, result=report())
        assert subject.write("b", "PROGRESS", 2, attempt=2, result=report())
        assert (subject.record("b").attempt, subject.record("b").progress_attempt) == (2, 2)
        assert not subject.write("a", "PROGRESS", 2, attempt=2, result=report())
        assert subject.write("a", "SUCCESS", 3, attempt=3)
        assert not subject.write("a", "PROGRESS", 4, attempt=4, result=report())

    def test_an_end_that_a_bystander_wrote_after_a_loss_is_an_end(
        self, subject: StoreUnderTest
    ) -> None:
        """An attempt that the store has forgotten can't undo an end that came after the loss."""
        assert subject.write("a", "FAILURE", 1, retries=0, worker="w1")
        assert not subject.write("a", "PROGRESS", 2, attempt=1, result=report())

    def test_a_report_without_a_record(self, subject: StoreUnderTest) -> None:
        """Progress is known also where the caller had no bytes for it."""
        subject.open("a", 0)
        subject.write("a", "PROGRESS", 0, attempt=1, result=report(2))
        assert subject.store.write(StateWrite("a", "PROGRESS", at(1), attempt=1, meta=report(3)))
        assert subject.record("a").progress == Progress(3, 10)

    def test_patience_changes_no_answer(self, subject: StoreUnderTest) -> None:
        """A patient call follows the same rules."""
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
        """An id that was never seen is an empty answer."""
        snapshot = subject.snapshot("never")
        assert (snapshot.task_id, snapshot.record, snapshot.meta) == ("never", None, None)
        assert subject.store.read([]) == []

    def test_in_the_order_asked_for(self, subject: StoreUnderTest) -> None:
        """Snapshots have the order of the given ids, known or unknown, duplicates included."""
        subject.open("a")
        subject.open("b")
        asked = ["b", "x", "a", "b"]
        snapshots = subject.store.read(asked)
        assert [snapshot.task_id for snapshot in snapshots] == asked
        assert [snapshot.record is None for snapshot in snapshots] == [False, True, False, False]

    @pytest.mark.parametrize("task_id", ["ä-ö_日本", "with space", "a:b{c}*", "x" * 150])
    def test_any_printable_id_is_stored(self, subject: StoreUnderTest, task_id: str) -> None:
        """Whatever Celery takes as an id is one here."""
        subject.open(task_id)
        subject.write(task_id, "PROGRESS", 1, attempt=1, result=report(3))
        assert subject.record(task_id).progress == Progress(3, 10)

    def test_progress_comes_back_as_it_was_said(self, subject: StoreUnderTest) -> None:
        """Every field of a report survives the store, before and after the end."""
        said = report(
            2.5,
            7,
            message="Zwölf %d \x00",
            attributes={"k": "v", "": "ä"},
            timestamp=1772366400123,
            rate=1.25,
        )
        subject.open("a")
        subject.write("a", "PROGRESS", 1, attempt=1, result=said)
        before = subject.record("a").progress
        subject.write("a", "SUCCESS", 2, attempt=1)
        assert before is not None
        assert (before.current, before.total, before.message, before.attributes, before.rate) == (
            2.5,
            7,
            said["message"],
            said["attributes"],
            1.25,
        )
        assert subject.record("a").progress == before

    def test_exceptions_stay_data(self, subject: StoreUnderTest) -> None:
        """A failure reads as plain data, and no class of its name is made or called
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

    def test_what_others_stored_is_read(self, subject: StoreUnderTest) -> None:
        """A task that no Headway ever saw has a snapshot without a record."""
        subject.put("a", "PROGRESS", report(3))
        snapshot = subject.snapshot("a")
        assert snapshot.record is None
        assert states.resolve(snapshot, at(0)).progress == Progress(3, 10)

    def test_snapshots_are_not_torn(self, subject: StoreUnderTest) -> None:
        """Registry and result of a store that keeps both always speak of the same report
        (celery-facts#state-and-info-are-two-reads).
        """
        if not subject.store.keeps_results:
            pytest.skip("the result follows its registry entry")
        subject.open("a", 0)

        def reports() -> None:
            for n in range(1, 101):
                subject.write("a", "PROGRESS", n, attempt=1, result=report(n, 100))

        with ThreadPoolExecutor(2) as pool:
            done = pool.submit(reports)
            while not done.done():
                snapshot = subject.snapshot("a")
                record = snapshot.record
                assert record is not None
                if record.state == "PROGRESS":
                    assert snapshot.meta is not None
                    assert record.updated_at == at(snapshot.meta["result"]["current"])
            done.result()


class TestClaim:
    def test_the_first_one_has_it(self, subject: StoreUnderTest) -> None:
        """A key is bound once, and everybody is told to what; other keys are free."""
        assert [subject.store.claim_key("k", task_id, 60) for task_id in ("a", "b", "a")] == [
            "a",
            "a",
            "a",
        ]
        assert subject.store.claim_key("k2 /ä:", "b", 60) == "b"

    def test_it_is_replaced_by_who_knows_it(self, subject: StoreUnderTest) -> None:
        """A claim is replaced only if the caller names its value; an unset claim is always set."""
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
    def test_one_replaces_it(
        self,
        sharing: str,
        tmp_path: Path,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Of many callers at the same moment one sets its value, and all receive that value."""
        url = request.getfixturevalue("redis_url") if sharing == "redis" else None
        subject = stores.make(sharing, tmp_path, url)
        monkeypatch.setattr(
            keyvalue, "LOCK_TIMEOUT", stores.PATIENCE
        )  # files are written by one at a time
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

    def test_claim_expires_after_its_time(self, subject: StoreUnderTest) -> None:
        """A claim whose time is over is free again."""
        subject.store.claim_key(
            "k", "a", 1e-9
        )  # a server counts in milliseconds, and lets it live for one
        until(lambda: subject.store.claim_key("k", "b", 60) == "b", what="the claim to end")


class TestLifetime:
    def test_ping_and_close(self, subject: StoreUnderTest) -> None:
        """A store that answers says so by returning; closing twice is fine, and using it again
        connects again.
        """
        subject.store.ping()
        subject.open("a")
        subject.store.close()
        subject.store.close()
        assert subject.record("a").attempt == 1


class TestMemoryStore:
    def test_results_expire_after_their_time(self) -> None:
        """The fake's results have a life too, by the clock that it is given."""
        now = [at(0)]
        store = MemoryStore(clock=lambda: now[0])
        subject = StoreUnderTest(store)
        subject.open("a", 0)
        subject.write("a", "SUCCESS", 1, attempt=1, result=1)
        assert subject.meta("a") is not None
        now[0] = at(3601)
        assert subject.snapshot("a") == replace(subject.snapshot("a"), meta=None)

    def test_subscribers_hear_what_is_let_in(self) -> None:
        """Accepted writes are published in order, with Celery's record. Refused ones are not."""
        subject = StoreUnderTest(MemoryStore())
        assert isinstance(subject.store, MemoryStore)
        heard: list[tuple[str, str]] = []
        stop = subject.store.subscribe(
            lambda task_id, meta: heard.append((task_id, meta["status"]))
        )
        subject.open("a")
        subject.write("a", "PROGRESS", 1, attempt=1, result=report())
        subject.store.write(StateWrite("a", "IGNORED", at(2), attempt=1))
        subject.write("a", "PROGRESS", 3, attempt=1, result=report())
        assert heard == [("a", "STARTED"), ("a", "PROGRESS"), ("a", "IGNORED")]
        stop()
        subject.open("b")
        assert len(heard) == 3
