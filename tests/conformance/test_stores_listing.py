"""Heartbeats, cancel requests and listings: contract of every store, each store in turn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from headway.core import states
from headway.core.registry import READY_STATES, AttemptStart, Registration
from headway.errors import InvalidRequest, NotSupported
from headway.models import Phase, Query, Status
from headway.stores.keyvalue import DocumentStore
from headway.stores.memory import MemoryStore
from tests.support.stores import StoreUnderTest, at, report
from tests.support.wait import until

#: Heartbeat lifetimes in seconds: longer than any test, and short enough to wait for.
LONG, SHORT = 600.0, 0.05


def phase(subject: StoreUnderTest, task_id: str = "a") -> Phase:
    return states.resolve(subject.snapshot(task_id), at(1)).phase


def wait_until_stalled(subject: StoreUnderTest) -> None:
    """Wait until the last heartbeat of "a" has expired."""
    until(lambda: subject.snapshot("a").alive is False, what="the heartbeat to expire")


class TestHeartbeat:
    def test_attempt_without_first_heartbeat_is_running(self, subject: StoreUnderTest) -> None:
        """An attempt whose worker never sent a heartbeat is not stalled."""
        subject.open("a", worker="w")
        assert subject.snapshot("a").alive is None
        assert phase(subject) is Phase.RUNNING

    def test_attempt_is_stalled_until_heartbeats_resume(self, subject: StoreUnderTest) -> None:
        """An attempt is stalled after its last heartbeat and runs again after the next one."""
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", SHORT)
        wait_until_stalled(subject)
        assert phase(subject) is Phase.STALLED
        subject.store.heartbeat(["a"], "w", LONG)
        assert subject.snapshot("a").alive is True
        assert phase(subject) is Phase.RUNNING

    def test_report_counts_as_heartbeat(self, subject: StoreUnderTest) -> None:
        """A report counts as a heartbeat, also if the main process of the worker was killed."""
        subject.open("a", worker="w")
        lifetimes = (
            SHORT * 2**n for n in itertools.count()
        )  # one of them is longer than a write and a read take here

        def report_is_heartbeat() -> bool:
            subject.store.heartbeat(["a"], "w", next(lifetimes))
            wait_until_stalled(subject)
            now = (datetime.now(UTC) - at(0)).total_seconds()
            assert subject.write("a", "PROGRESS", now, attempt=1, result=report())
            return subject.snapshot("a").alive is True

        until(report_is_heartbeat, what="a report that counts as a heartbeat")

    def test_external_write_is_no_heartbeat(self, subject: StoreUnderTest) -> None:
        """A write of an external writer does not count as a heartbeat."""
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", SHORT)
        wait_until_stalled(subject)
        subject.write("a", "PROGRESS", 1, result=report())
        assert subject.snapshot("a").alive is False

    def test_new_attempt_starts_without_heartbeat(self, subject: StoreUnderTest) -> None:
        """Heartbeats of an earlier attempt do not count for the new one."""
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", LONG)
        subject.open("a", 1, worker="w")
        assert subject.snapshot("a").alive is None
        subject.store.heartbeat(["a"], "w", LONG)
        assert subject.snapshot("a").alive is True

    def test_heartbeat_of_other_worker_is_ignored(self, subject: StoreUnderTest) -> None:
        """A worker that lost a task sends no heartbeat for the worker that runs it now
        (celery-facts#redelivery-runs-the-same-id-twice).
        """
        subject.open("a", worker="w2")
        subject.store.heartbeat(["a"], "w1", LONG)
        assert subject.snapshot("a").alive is None

    @pytest.mark.parametrize("state", ["RETRY", *sorted(READY_STATES)])
    def test_heartbeat_after_end_is_ignored(self, subject: StoreUnderTest, state: str) -> None:
        """The store ignores heartbeats of an ended attempt, which never stalls."""
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", LONG)
        subject.write("a", state, 1, attempt=1)
        before = subject.record("a")
        subject.store.heartbeat(["a"], "w", LONG)
        assert subject.record("a") == before
        assert subject.snapshot("a").alive is None

    def test_one_call_sends_heartbeats_of_known_ids(self, subject: StoreUnderTest) -> None:
        """One call sends all heartbeats, unknown ids stay unknown, and an empty call is valid."""
        for n in range(20):
            subject.open(f"t{n}", worker="w")
        subject.store.heartbeat([f"t{n}" for n in range(25)], "w", LONG)
        assert [each.alive for each in subject.store.read([f"t{n}" for n in range(20)])] == [
            True
        ] * 20
        assert subject.snapshot("t20").record is None
        assert subject.store.heartbeat([], "w", LONG) == frozenset()

    def test_heartbeat_returns_ids_with_cancel_request(self, subject: StoreUnderTest) -> None:
        """A heartbeat returns the ids of the worker's attempts with a cancel request."""
        for task_id in "abc":
            subject.open(task_id, worker="w")
        subject.open("d", worker="other")
        for task_id in "bd":
            subject.store.request_cancel(task_id, at(1))
        assert subject.store.heartbeat(["a", "b", "c", "d", "e"], "w", LONG) == {"b"}


class TestCancel:
    def test_cancel_of_unknown_id_stores_nothing(self, subject: StoreUnderTest) -> None:
        """A cancel request for an unknown id stores nothing."""
        assert subject.store.request_cancel("a", at(0)) is None
        assert subject.snapshot("a").record is None

    def test_cancel_of_queued_task_is_sent_to_attempt(self, subject: StoreUnderTest) -> None:
        """A queued task is cancelling, and its attempt receives the request at its start."""
        subject.store.register([Registration("a", "tasks.t", at(0))])
        answer = subject.store.request_cancel("a", at(1))
        assert answer is not None
        assert states.resolve(answer, at(1)).phase is Phase.CANCELLING
        assert subject.open("a", 2).cancel_requested

    def test_cancel_of_running_task_is_returned_by_writes(self, subject: StoreUnderTest) -> None:
        """Each write returns the cancel request, refused writes included."""
        subject.open("a")
        assert not subject.write("a", "PROGRESS", 1, attempt=1, result=report()).cancel_requested
        subject.store.request_cancel("a", at(2))
        answer = subject.write("a", "PROGRESS", 3, attempt=1, result=report())
        assert (answer.accepted, answer.cancel_requested) == (True, True)
        answer = subject.write("a", "PROGRESS", 4, attempt=0, result=report())
        assert (answer.accepted, answer.cancel_requested) == (False, True)
        assert phase(subject) is Phase.CANCELLING

    def test_cancel_request_survives_retry(self, subject: StoreUnderTest) -> None:
        """A new attempt receives the request, although the retry published the id again."""
        subject.open("a")
        subject.store.request_cancel("a", at(1))
        subject.store.register([Registration("a", "tasks.t", at(2))])
        subject.write("a", "RETRY", 2, attempt=1)
        assert phase(subject) is Phase.CANCELLING
        assert subject.open("a", 3, retries=1).cancel_requested

    @pytest.mark.parametrize("end", sorted(READY_STATES))
    def test_cancel_of_ended_execution_changes_nothing(
        self, subject: StoreUnderTest, end: str
    ) -> None:
        """A cancel request does not change an ended execution."""
        subject.open("a")
        subject.write("a", end, 1, attempt=1, result=1)
        before = subject.record("a")
        answer = subject.store.request_cancel("a", at(2))
        assert answer is not None
        assert answer.record == before

    def test_new_publication_clears_cancel_request(self, subject: StoreUnderTest) -> None:
        """A new publication of a fixed id clears a cancel request; a redelivery keeps it."""
        subject.open("a")
        subject.store.request_cancel("a", at(1))
        subject.write("a", "REVOKED", 2, attempt=1)
        assert subject.open("a", 3).cancel_requested
        subject.write("a", "REVOKED", 4, attempt=2)
        subject.store.register([Registration("a", "tasks.t", at(100))])
        assert not subject.open("a", 101).cancel_requested

    def test_second_cancel_request_changes_nothing(self, subject: StoreUnderTest) -> None:
        """The store keeps the time of the first request."""
        subject.open("a")
        subject.store.request_cancel("a", at(1))
        subject.store.request_cancel("a", at(2))
        assert subject.record("a").cancel_requested_at == at(1)

    def test_cancel_of_unregistered_task_is_accepted(self, subject: StoreUnderTest) -> None:
        """The store accepts a cancel request for a task of a worker without Headway."""
        subject.put("a", "PROGRESS", report())
        assert subject.store.request_cancel("a", at(1)) is not None
        assert phase(subject) is Phase.CANCELLING


@pytest.fixture
def listing(subject: StoreUnderTest) -> StoreUnderTest:
    """Return each store that can list executions."""
    if not isinstance(subject.store, MemoryStore) and subject.app is not None:
        try:
            subject.store.query(Query())
        except NotSupported:
            pytest.skip("cannot list executions")
    return subject


def pages(subject: StoreUnderTest, query: Query) -> Iterator[list[str]]:
    """Yield the ids of each page up to the last one."""
    for _ in itertools.count():
        page = subject.store.query(query)
        yield [each.task_id for each in page.snapshots]
        if page.cursor is None:
            return
        query = replace(query, cursor=page.cursor)


def found(subject: StoreUnderTest, **query: object) -> list[str]:
    """Return the ids of all matching executions."""
    return [task_id for page in pages(subject, Query(**query)) for task_id in page]  # type: ignore[arg-type]


class TestFind:
    def test_empty_store_lists_one_empty_page(self, listing: StoreUnderTest) -> None:
        """An empty store returns one empty page."""
        assert list(pages(listing, Query())) == [[]]

    def test_tasks_of_same_time_are_listed_once(self, listing: StoreUnderTest) -> None:
        """Pages show each member of a group that was published at the same time once."""
        names = [f"{n:x}-{n}" for n in range(30)]
        listing.store.register([Registration(name, "tasks.t", at(0)) for name in names])
        assert [len(page) for page in pages(listing, Query(limit=7))] == [7, 7, 7, 7, 2]
        assert found(listing, limit=7) == sorted(names, reverse=True)

    def test_executions_are_listed_by_status_task_and_owner(self, listing: StoreUnderTest) -> None:
        """The store lists executions by status, task and owner, after any sequence of states."""
        for n, state in enumerate(
            ["PENDING", "STARTED", "PROGRESS", "RETRY", *sorted(READY_STATES)]
        ):
            listing.store.register(
                [Registration(state, f"tasks.t{n % 2}", at(n), owner="ann" if n < 3 else None)]
            )
            if state != "PENDING":
                listing.store.start_attempt(AttemptStart(state, f"tasks.t{n % 2}", at(10 + n)))
            if state not in ("PENDING", "STARTED"):
                listing.write(
                    state, state, 20, attempt=1, result=report() if state == "PROGRESS" else None
                )
        assert {
            status: sorted(found(listing, status=frozenset({status}))) for status in Status
        } == {
            Status.PENDING: ["PENDING"],
            Status.RUNNING: ["PROGRESS", "RETRY", "STARTED"],
            Status.COMPLETED: ["IGNORED", "SUCCESS"],
            Status.FAILED: ["FAILURE", "REJECTED"],
            Status.CANCELLED: ["REVOKED"],
        }
        assert found(listing, task="tasks.t1") == ["REVOKED", "IGNORED", "RETRY", "STARTED"]
        assert found(listing, owner="ann") == ["PROGRESS", "STARTED", "PENDING"]
        both = frozenset({Status.RUNNING, Status.FAILED})
        assert found(listing, text="re", status=both) == [
            "REJECTED",
            "FAILURE",
            "RETRY",
            "PROGRESS",
        ]

    def test_late_registration_does_not_move_execution(self, listing: StoreUnderTest) -> None:
        """An execution keeps its position from the first write after a late registration."""
        listing.open("a", 5)
        listing.open("b", 6)
        listing.write("c", "REVOKED", 7, task="tasks.t")
        assert found(listing) == found(listing, task="tasks.t") == ["c", "b", "a"]
        listing.store.register([Registration("a", "tasks.t", at(9), owner="ann")])
        assert found(listing) == ["c", "b", "a"]
        assert found(listing, owner="ann") == ["a"]

    def test_restarted_execution_is_listed_once_as_running(self, listing: StoreUnderTest) -> None:
        """The store lists an execution that starts again once, and as running."""
        listing.open("a")
        listing.write("a", "FAILURE", 1, attempt=1)
        listing.open("a", 2)
        if not listing.store.keeps_results:
            listing.put("a", "STARTED")  # as the fence does
        assert found(listing) == found(listing, status=frozenset({Status.RUNNING})) == ["a"]
        assert found(listing, status=frozenset({Status.FAILED})) == []

    def test_expired_execution_is_listed_only_after_restart(self, listing: StoreUnderTest) -> None:
        """The store does not list an expired execution until it starts again."""
        listing.store.register([Registration("a", "tasks.t", at(0), owner="ann")])
        listing.open("a")
        listing.write("a", "SUCCESS", 1, attempt=1, result=1)
        listing.forget("a")
        for query in ({}, {"task": "tasks.t"}, {"owner": "ann"}):
            assert found(listing, **query) == []
        listing.open("a", 100)
        for query in ({}, {"task": "tasks.t"}, {"owner": "ann"}):
            assert found(listing, **query) == ["a"]

    def test_external_end_is_listed_with_its_status(self, listing: StoreUnderTest) -> None:
        """A listing detects the end that a worker without Headway stored."""
        listing.store.register([Registration("a", "tasks.t", at(0))])
        listing.put("a", "SUCCESS", 1)
        assert found(listing, status=frozenset({Status.PENDING})) == []
        assert found(listing, status=frozenset({Status.COMPLETED})) == ["a"]

    def test_invalid_cursor_is_refused(self, listing: StoreUnderTest) -> None:
        """The store refuses every invalid cursor."""
        for cursor in ("", "!", "x", "MTc3MjM2NjQwMDEyMzQ1NjcuYQ", "\N{SNOWMAN}"):
            with pytest.raises(InvalidRequest):
                listing.store.query(Query(cursor=cursor))


class TestCounts:
    def test_counts_equal_listed_executions(self, listing: StoreUnderTest) -> None:
        """The count of each status equals the number of listed executions."""
        assert listing.store.counts() == dict.fromkeys(Status, 0)
        for n, state in enumerate(
            ["PENDING", "PENDING", "STARTED", "PROGRESS", "RETRY", *sorted(READY_STATES)]
        ):
            listing.store.register([Registration(f"{state}{n}", "tasks.t", at(n))])
            if state != "PENDING":
                listing.store.start_attempt(AttemptStart(f"{state}{n}", "tasks.t", at(10 + n)))
            if state not in ("PENDING", "STARTED"):
                listing.write(
                    f"{state}{n}",
                    state,
                    20,
                    attempt=1,
                    result=report() if state == "PROGRESS" else None,
                )
        counts = listing.store.counts()
        assert counts == {
            status: len(found(listing, status=frozenset({status}))) for status in Status
        }
        assert sum(counts.values()) == len(found(listing)) == 10

    def test_counts_are_refused_without_listing(self, subject: StoreUnderTest) -> None:
        """A store that cannot list raises ``NotSupported`` for counts."""
        if isinstance(subject.store, DocumentStore):
            with pytest.raises(NotSupported, match="count"):
                subject.store.counts()
