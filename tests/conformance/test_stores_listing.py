"""Signs of life, cancel requests and listings: what every store owes (``headway/stores/base.py``),
each store in turn.
"""

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

#: Seconds: longer than any test takes, and shorter than it takes to lose patience.
LONG, SHORT = 600.0, 0.05


def phase(subject: StoreUnderTest, task_id: str = "a") -> Phase:
    return states.resolve(subject.snapshot(task_id), at(1)).phase


def falls_silent(subject: StoreUnderTest) -> None:
    """The last sign of "a" is over."""
    until(lambda: subject.snapshot("a").alive is False, what="the signs to stop")


class TestSigns:
    def test_silence_means_nothing_at_first(self, subject: StoreUnderTest) -> None:
        """An attempt whose worker never gave a sign isn't stalled."""
        subject.open("a", worker="w")
        assert subject.snapshot("a").alive is None
        assert phase(subject) is Phase.RUNNING

    def test_signs_that_stop(self, subject: StoreUnderTest) -> None:
        """With heartbeats it is running, without them stalled, and running when they resume."""
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", SHORT)
        falls_silent(subject)
        assert phase(subject) is Phase.STALLED
        subject.store.heartbeat(["a"], "w", LONG)
        assert subject.snapshot("a").alive is True
        assert phase(subject) is Phase.RUNNING

    def test_who_reports_lives(self, subject: StoreUnderTest) -> None:
        """A report is a sign too: the child of a worker that was killed isn't stalled while it
        works.
        """
        subject.open("a", worker="w")
        lifetimes = (
            SHORT * 2**n for n in itertools.count()
        )  # one that is longer than a write and a look take here

        def reported() -> bool:
            subject.store.heartbeat(["a"], "w", next(lifetimes))
            falls_silent(subject)
            now = (datetime.now(UTC) - at(0)).total_seconds()
            assert subject.write("a", "PROGRESS", now, attempt=1, result=report())
            return subject.snapshot("a").alive is True

        until(reported, what="a report that is a sign")

    def test_a_bystanders_word_is_no_sign(self, subject: StoreUnderTest) -> None:
        """What somebody else stores says nothing of the attempt's life."""
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", SHORT)
        falls_silent(subject)
        subject.write("a", "PROGRESS", 1, result=report())
        assert subject.snapshot("a").alive is False

    def test_a_new_attempt_begins_without(self, subject: StoreUnderTest) -> None:
        """The signs of the attempt before say nothing of the new one, neither while they last nor
        after.
        """
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", LONG)
        subject.open("a", 1, worker="w")
        assert subject.snapshot("a").alive is None
        subject.store.heartbeat(["a"], "w", LONG)
        assert subject.snapshot("a").alive is True

    def test_only_its_own_worker(self, subject: StoreUnderTest) -> None:
        """The worker that lost a task (celery-facts#redelivery-runs-the-same-id-twice) gives no
        sign for the one that has it now.
        """
        subject.open("a", worker="w2")
        subject.store.heartbeat(["a"], "w1", LONG)
        assert subject.snapshot("a").alive is None

    @pytest.mark.parametrize("state", ["RETRY", *sorted(READY_STATES)])
    def test_what_has_ended_has_no_life(self, subject: StoreUnderTest, state: str) -> None:
        """No sign is taken for an attempt that has ended, and its silence is no news."""
        subject.open("a", worker="w")
        subject.store.heartbeat(["a"], "w", LONG)
        subject.write("a", state, 1, attempt=1)
        before = subject.record("a")
        subject.store.heartbeat(["a"], "w", LONG)
        assert subject.record("a") == before
        assert subject.snapshot("a").alive is None

    def test_many_at_once_and_who_is_unknown(self, subject: StoreUnderTest) -> None:
        """One call sends all heartbeats; unknown ids stay unknown, an empty list is fine."""
        for n in range(20):
            subject.open(f"t{n}", worker="w")
        subject.store.heartbeat([f"t{n}" for n in range(25)], "w", LONG)
        assert [each.alive for each in subject.store.read([f"t{n}" for n in range(20)])] == [
            True
        ] * 20
        assert subject.snapshot("t20").record is None
        assert subject.store.heartbeat([], "w", LONG) == frozenset()

    def test_the_cancel_comes_back(self, subject: StoreUnderTest) -> None:
        """A sign of life is answered by the ids whose cancel is asked for."""
        for task_id in "abc":
            subject.open(task_id, worker="w")
        subject.open("d", worker="other")
        for task_id in "bd":
            subject.store.request_cancel(task_id, at(1))
        assert subject.store.heartbeat(["a", "b", "c", "d", "e"], "w", LONG) == {"b"}


class TestCancel:
    def test_an_unknown_id(self, subject: StoreUnderTest) -> None:
        """A cancel request for an unknown id stores nothing."""
        assert subject.store.request_cancel("a", at(0)) is None
        assert subject.snapshot("a").record is None

    def test_a_queued_one(self, subject: StoreUnderTest) -> None:
        """It is cancelling, and the attempt that opens is told."""
        subject.store.register([Registration("a", "tasks.t", at(0))])
        answer = subject.store.request_cancel("a", at(1))
        assert answer is not None
        assert states.resolve(answer, at(1)).phase is Phase.CANCELLING
        assert subject.open("a", 2).cancel_requested

    def test_a_running_one_is_told(self, subject: StoreUnderTest) -> None:
        """Each write is answered by it, those that are refused too."""
        subject.open("a")
        assert not subject.write("a", "PROGRESS", 1, attempt=1, result=report()).cancel_requested
        subject.store.request_cancel("a", at(2))
        answer = subject.write("a", "PROGRESS", 3, attempt=1, result=report())
        assert (answer.accepted, answer.cancel_requested) == (True, True)
        answer = subject.write("a", "PROGRESS", 4, attempt=0, result=report())
        assert (answer.accepted, answer.cancel_requested) == (False, True)
        assert phase(subject) is Phase.CANCELLING

    def test_a_retried_one_keeps_it(self, subject: StoreUnderTest) -> None:
        """A new attempt is told, although the retry has published the id again."""
        subject.open("a")
        subject.store.request_cancel("a", at(1))
        subject.store.register([Registration("a", "tasks.t", at(2))])
        subject.write("a", "RETRY", 2, attempt=1)
        assert phase(subject) is Phase.CANCELLING
        assert subject.open("a", 3, retries=1).cancel_requested

    @pytest.mark.parametrize("end", sorted(READY_STATES))
    def test_an_ended_one(self, subject: StoreUnderTest, end: str) -> None:
        """What has ended is what it was."""
        subject.open("a")
        subject.write("a", end, 1, attempt=1, result=1)
        before = subject.record("a")
        answer = subject.store.request_cancel("a", at(2))
        assert answer is not None
        assert answer.record == before

    def test_a_new_publication_takes_it_back(self, subject: StoreUnderTest) -> None:
        """A nightly job with a fixed id that was cancelled once runs the next night; a redelivery
        of it doesn't.
        """
        subject.open("a")
        subject.store.request_cancel("a", at(1))
        subject.write("a", "REVOKED", 2, attempt=1)
        assert subject.open("a", 3).cancel_requested
        subject.write("a", "REVOKED", 4, attempt=2)
        subject.store.register([Registration("a", "tasks.t", at(100))])
        assert not subject.open("a", 101).cancel_requested

    def test_second_cancel_request_changes_nothing(self, subject: StoreUnderTest) -> None:
        """The first request is the one that is kept."""
        subject.open("a")
        subject.store.request_cancel("a", at(1))
        subject.store.request_cancel("a", at(2))
        assert subject.record("a").cancel_requested_at == at(1)

    def test_one_that_only_the_backend_knows(self, subject: StoreUnderTest) -> None:
        """A task of a worker without Headway can be asked for as well."""
        subject.put("a", "PROGRESS", report())
        assert subject.store.request_cancel("a", at(1)) is not None
        assert phase(subject) is Phase.CANCELLING


@pytest.fixture
def listing(subject: StoreUnderTest) -> StoreUnderTest:
    """Each store that can list."""
    if not isinstance(subject.store, MemoryStore) and subject.app is not None:
        try:
            subject.store.query(Query())
        except NotSupported:
            pytest.skip("finds things by their names only")
    return subject


def pages(subject: StoreUnderTest, query: Query) -> Iterator[list[str]]:
    """Page by page, to the end."""
    for _ in itertools.count():
        page = subject.store.query(query)
        yield [each.task_id for each in page.snapshots]
        if page.cursor is None:
            return
        query = replace(query, cursor=page.cursor)


def found(subject: StoreUnderTest, **query: object) -> list[str]:
    """All that fits."""
    return [task_id for page in pages(subject, Query(**query)) for task_id in page]  # type: ignore[arg-type]


class TestFind:
    def test_empty_store_lists_nothing(self, listing: StoreUnderTest) -> None:
        """Where there is nothing, one empty page."""
        assert list(pages(listing, Query())) == [[]]

    def test_those_of_one_moment(self, listing: StoreUnderTest) -> None:
        """A group that was published in one moment is paged through like any other, each member
        once.
        """
        names = [f"{n:x}-{n}" for n in range(30)]
        listing.store.register([Registration(name, "tasks.t", at(0)) for name in names])
        assert [len(page) for page in pages(listing, Query(limit=7))] == [7, 7, 7, 7, 2]
        assert found(listing, limit=7) == sorted(names, reverse=True)

    def test_each_index_is_listed(self, listing: StoreUnderTest) -> None:
        """By status, by task and by owner, whatever it went through."""
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

    def test_first_heard_of_from_its_worker(self, listing: StoreUnderTest) -> None:
        """Without a publication it stands where it was first heard of, and a later publication
        doesn't move it.
        """
        listing.open("a", 5)
        listing.open("b", 6)
        listing.write("c", "REVOKED", 7, task="tasks.t")
        assert found(listing) == found(listing, task="tasks.t") == ["c", "b", "a"]
        listing.store.register([Registration("a", "tasks.t", at(9), owner="ann")])
        assert found(listing) == ["c", "b", "a"]
        assert found(listing, owner="ann") == ["a"]

    def test_reopened_execution_is_listed_again(self, listing: StoreUnderTest) -> None:
        """An execution that begins again is listed once, and as running."""
        listing.open("a")
        listing.write("a", "FAILURE", 1, attempt=1)
        listing.open("a", 2)
        if not listing.store.keeps_results:
            listing.put("a", "STARTED")  # as the fence does
        assert found(listing) == found(listing, status=frozenset({Status.RUNNING})) == ["a"]
        assert found(listing, status=frozenset({Status.FAILED})) == []

    def test_expired_execution_is_not_listed(self, listing: StoreUnderTest) -> None:
        """What has expired isn't listed; begun anew, it is."""
        listing.store.register([Registration("a", "tasks.t", at(0), owner="ann")])
        listing.open("a")
        listing.write("a", "SUCCESS", 1, attempt=1, result=1)
        listing.forget("a")
        for query in ({}, {"task": "tasks.t"}, {"owner": "ann"}):
            assert found(listing, **query) == []
        listing.open("a", 100)
        for query in ({}, {"task": "tasks.t"}, {"owner": "ann"}):
            assert found(listing, **query) == ["a"]

    def test_ended_by_others(self, listing: StoreUnderTest) -> None:
        """The end that a worker without Headway stores is found out, and is right from then on."""
        listing.store.register([Registration("a", "tasks.t", at(0))])
        listing.put("a", "SUCCESS", 1)
        assert found(listing, status=frozenset({Status.PENDING})) == []
        assert found(listing, status=frozenset({Status.COMPLETED})) == ["a"]

    def test_what_a_cursor_is(self, listing: StoreUnderTest) -> None:
        """Anything but a cursor is refused, whatever it is."""
        for cursor in ("", "!", "x", "MTc3MjM2NjQwMDEyMzQ1NjcuYQ", "\N{SNOWMAN}"):
            with pytest.raises(InvalidRequest):
                listing.store.query(Query(cursor=cursor))


class TestCounts:
    def test_as_they_are_listed(self, listing: StoreUnderTest) -> None:
        """Of each status as many as a listing of it shows, and none where there is nothing."""
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

    def test_listing_is_not_supported_everywhere(self, subject: StoreUnderTest) -> None:
        """What can't list can't count, and says so."""
        if isinstance(subject.store, DocumentStore):
            with pytest.raises(NotSupported, match="count"):
                subject.store.counts()
