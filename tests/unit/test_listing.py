"""``GET /executions``: filters, pages, and who may see what; and the walk over the indexes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from headway.core.registry import AttemptStart, Registration, Snapshot
from headway.models import Phase, Query, Status
from headway.server.auth import Action
from headway.stores import pagination
from headway.stores.keyvalue import KeyValueStore
from headway.stores.pagination import IndexEntry, IndexReader, Position, Slice
from tests.support.flask_app import MountedApp, mounted_app
from tests.support.stores import at
from tests.unit.test_problems import assert_problem

LIST = "/api/v1/executions"


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app() as made:
        yield made


def fill(server: MountedApp, count: int = 5, **more: Any) -> list[str]:
    """So many executions, one a second; their ids, newest first."""
    for n in range(count):
        server.store.register([Registration(f"e{n}", "tasks.some", server.clock(), **more)])
        server.clock.tick(1)
    return [f"e{n}" for n in reversed(range(count))]


def ids(server: MountedApp, **query: Any) -> list[str]:
    answer = server.client.get(LIST, query_string=query)
    assert answer.status_code == 200, answer.text
    return [each["execution_id"] for each in answer.json["executions"]]


class TestPages:
    def test_newest_first(self, server: MountedApp) -> None:
        """The last one that was published stands first."""
        wanted = fill(server)
        assert ids(server) == wanted

    def test_nothing(self, server: MountedApp) -> None:
        """Where there is nothing, a page of nothing, and nothing after it."""
        assert server.client.get(LIST).json == {"executions": [], "cursor": None}

    def test_a_line_is_the_execution(self, server: MountedApp) -> None:
        """A line says what the execution's own URL says, but for what it returned."""
        server.publish("x")
        server.begin("x")
        server.report("x", 2, 5, "processing", batch="3")
        whole = server.client.get(f"{LIST}/x").json
        [line] = server.client.get(LIST).json["executions"]
        assert whole.pop("outputs") is None
        assert line == whole

    def test_pages_follow_each_other(self, server: MountedApp) -> None:
        """Page by page each is seen once, although more come in and others end in between."""
        wanted = fill(server, 7)
        seen, cursor = [], None
        for n in range(10):
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            answer = server.client.get(LIST, query_string=query).json
            seen += [each["execution_id"] for each in answer["executions"]]
            cursor = answer["cursor"]
            if cursor is None:
                break
            server.clock.tick(1)
            server.publish(f"later{n}")
            server.begin(wanted[3])
        assert seen == wanted


class TestCounts:
    NONE = dict.fromkeys(("pending", "running", "completed", "failed", "cancelled"), 0)

    def test_of_all(self, server: MountedApp) -> None:
        """Of every status, whatever the page and its filters are."""
        fill(server)
        server.begin("e0")
        server.begin("e1")
        server.end("e1", "FAILURE", {"exc_type": "E", "exc_message": ["no"]})
        for query in ({}, {"status": "completed"}, {"limit": 1}):
            answer = server.client.get(LIST, query_string=query | {"counts": "true"}).json
            assert answer["counts"] == self.NONE | {"pending": 3, "running": 1, "failed": 1}

    def test_only_where_asked(self, server: MountedApp, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who doesn't ask for them pays nothing."""
        monkeypatch.setattr(server.store, "counts", None)
        assert "counts" not in server.client.get(LIST).json
        assert "counts" not in server.client.get(LIST, query_string={"counts": "false"}).json
        assert_problem(server.client.get(LIST, query_string={"counts": "1"}), 422, "true or false")

    @pytest.mark.parametrize("may", [True, False])
    def test_only_for_who_may_see_them_all(self, may: bool) -> None:
        """The app's own rule is asked for them; where it says no, they are null, and the page is as
        ever.
        """
        with mounted_app(
            authorize=lambda who, action, execution_id: action is not Action.COUNT or may
        ) as server:
            fill(server, 2)
            answer = server.client.get(LIST, query_string={"counts": "true"}).json
        assert len(answer["executions"]) == 2
        assert answer["counts"] == (self.NONE | {"pending": 2} if may else None)


class TestFilters:
    @pytest.fixture(autouse=True)
    def some(self, server: MountedApp) -> None:
        """One in every state, of two tasks and two owners."""
        for n, name in enumerate(
            ["queued", "running", "retrying", "done", "failed", "cancelled", "cancelling"]
        ):
            owner = "ann" if n % 2 else None
            server.store.register(
                [Registration(name, f"tasks.T{n % 3}", server.clock(), owner=owner)]
            )
            server.clock.tick(60)
            if name != "queued":
                server.store.start_attempt(AttemptStart(name, f"tasks.T{n % 3}", server.clock()))
        server.end("retrying", "RETRY")
        server.end("done", result=1)
        server.end("failed", "FAILURE", {"exc_type": "E", "exc_message": ["no"]})
        server.end("cancelled", "REVOKED")
        server.store.request_cancel("cancelling", server.clock())

    @pytest.mark.parametrize(
        ("query", "wanted"),
        [
            ("status=pending", ["queued"]),
            ("status=running", ["cancelling", "retrying", "running"]),
            ("status=completed,failed", ["failed", "done"]),
            ("status=completed&status=failed", ["failed", "done"]),
            ("status=cancelled", ["cancelled"]),
            ("phase=retrying", ["retrying"]),
            ("phase=running", ["running"]),
            ("phase=cancelling", ["cancelling"]),
            ("phase=succeeded,queued", ["done", "queued"]),
            ("phase=stalled", []),
            ("status=failed&phase=queued", []),
            ("task=tasks.T1", ["failed", "running"]),
            ("task=tasks.T", []),
            ("owner=ann", ["cancelled", "done", "running"]),
            ("owner=ann&status=running", ["running"]),
            ("owner=bob", []),
            ("q=CANCEL", ["cancelling", "cancelled"]),
            ("q=t2", ["cancelled", "retrying"]),
            ("since=2026-01-02T03:08:05Z", ["cancelling", "cancelled", "failed"]),
            ("until=2026-01-02T03:06:05Z", ["running", "queued"]),
            (
                "since=2026-01-02T04:05:05%2B01:00&until=2026-01-02T03:07:05.5Z",
                ["done", "retrying", "running"],
            ),
            ("until=9999-12-31T23:59:59Z&limit=1", ["cancelling"]),
        ],
    )
    def test_each(self, server: MountedApp, query: str, wanted: list[str]) -> None:
        """Each filter narrows down, together they narrow down further."""
        answer = server.client.get(f"{LIST}?{query}").json
        assert [each["execution_id"] for each in answer["executions"]] == wanted

    @pytest.mark.parametrize(
        ("query", "says"),
        [
            ("status=done", "status must be one or more of pending, running"),
            ("status=", "status must be"),
            ("phase=gone", "phase must be"),
            ("task=", "task must be"),
            ("owner=" + "a" * 256, "owner must be"),
            ("q=%00", "q must be"),
            ("since=yesterday", "since must be a time with a time zone"),
            ("since=2026-01-01T00:00:00", "since must be a time with a time zone"),
            ("until=0001-01-01T00:00:00Z", "until must be"),
            ("until=9999-12-31T23:59:59-23:59", "until must be"),
            ("limit=0", "limit must be a whole number from 1 to 200"),
            ("limit=201", "limit must be"),
            ("limit=ten", "limit must be"),
            ("cursor=x", "cursor must be"),
            ("cursor=MTIz", None),
            ("cursor=LTEuYQ", "cursor must be"),
            ("stauts=running", "Unknown filter 'stauts'"),
        ],
    )
    def test_what_is_no_filter(self, server: MountedApp, query: str, says: str | None) -> None:
        """A word that means nothing is refused, and the answer says what would."""
        answer = server.client.get(f"{LIST}?{query}")
        if says is None:
            assert answer.status_code == 200
        else:
            assert_problem(answer, 422, says)


class TestWhoMaySee:
    def test_each_is_asked_for(self) -> None:
        """Who may list is shown what it may read, and no more."""
        with mounted_app(
            authorize=lambda _, action, execution_id: (
                action is Action.LIST or execution_id in ("e1", "e3")
            )
        ) as server:
            fill(server)
            assert ids(server) == ["e3", "e1"]

    @pytest.mark.parametrize("at_once", [True, False])
    @pytest.mark.parametrize("most", [3, 200])
    @pytest.mark.parametrize("limit", [1, 2, 3])
    @pytest.mark.parametrize("mine", [{0, 7, 8, 29}, {15}, set(), {29, 28, 27}, set(range(30))])
    def test_a_cursor_names_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch, mine: set[int], limit: int, most: int, at_once: bool
    ) -> None:
        """No cursor holds an id that the caller may not read; page by page each that it may is seen
        once.
        """
        monkeypatch.setattr("headway.server.api.listing.MOST", most)
        allowed = {f"e{n:02}" for n in mine}
        with mounted_app(
            authorize=lambda _, action, execution_id: (
                action is Action.LIST or execution_id in allowed
            )
        ) as server:
            for n in range(30):
                server.store.register([Registration(f"e{n:02}", "tasks.some", server.clock())])
                server.clock.tick(0 if at_once else 1)
            seen, cursors, cursor = [], [], None
            while True:
                query = {"limit": limit} | ({"cursor": cursor} if cursor else {})
                answer = server.client.get(LIST, query_string=query).json
                assert len(answer["executions"]) <= limit
                seen += [each["execution_id"] for each in answer["executions"]]
                if (cursor := answer["cursor"]) is None:
                    break
                cursors.append(cursor)
                assert len(cursors) <= 31
        assert seen == sorted(allowed, reverse=True)
        assert {pagination.parse_cursor(each).task_id for each in cursors} <= allowed | {""}

    def test_who_may_not_list(self) -> None:
        """Who may read each one may not list them for that."""
        with mounted_app(authorize=lambda _, action, __: action is not Action.LIST) as server:
            assert_problem(server.client.get(LIST), 403, "Not allowed to list")

    def test_tokens(self) -> None:
        """Where there are tokens it wants one."""
        with mounted_app(tokens=["secret-secret-secret"]) as server:
            assert server.client.get(LIST).status_code == 401
            assert (
                server.client.get(
                    LIST, headers={"Authorization": "Bearer secret-secret-secret"}
                ).status_code
                == 200
            )


class TestFaults:
    def test_the_backend_is_away(self, server: MountedApp) -> None:
        """503, and when to try again."""
        server.store.away = True
        answer = server.client.get(LIST)
        assert_problem(answer, 503, "The result backend can't be reached")
        assert int(answer.headers["Retry-After"]) > 0

    def test_a_backend_without_order(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """501 where the result backend finds things by their names only."""
        monkeypatch.setattr(server.store, "query", KeyValueStore(server.celery).query)
        assert_problem(server.client.get(LIST), 501, "can't list executions")


class Shelf(IndexReader):
    """An index of made-up places that counts what it is asked for; nothing on it can be seen."""

    def __init__(self, count: int, visible: int = 0) -> None:
        self.all = [Position(n, f"e{n}") for n in reversed(range(count))]
        self.visible = visible
        self.peeked = 0
        self.repaired: list[tuple[IndexEntry, Status | None]] = []

    def scan(self, indexes: Sequence[str], part: Slice) -> Sequence[Sequence[Position]]:
        """All of them, in every index."""
        found = [place for place in self.all if part.after is None or place < part.after][
            : part.most
        ]
        return [found for _ in indexes]

    def peek_many(self, task_ids: Sequence[str]) -> Sequence[Snapshot]:
        """Gone, but for the oldest ones, which others have ended."""
        self.peeked += len(task_ids)
        ended = {"status": "SUCCESS", "result": None}
        return [Snapshot(t, None, ended if int(t[1:]) < self.visible else None) for t in task_ids]

    def repair(self, stale: Sequence[tuple[IndexEntry, Status | None]]) -> None:
        """Noted."""
        self.repaired += stale


class TestTheWalk:
    def test_it_is_bounded(self) -> None:
        """However many there are of which none fits: a page looks at so many, and says where it
        goes on.
        """
        shelf = Shelf(pagination.SCAN * 3, visible=5)
        query, pages, found = Query(owner="ann", limit=10), 0, 0
        while True:
            before = shelf.peeked
            page = pagination.page(shelf, query, at(0))
            assert shelf.peeked - before <= pagination.SCAN
            pages, found = pages + 1, found + len(page.snapshots)
            if page.cursor is None:
                break
            query = Query(owner="ann", limit=10, cursor=page.cursor)
        assert (pages, found) == (
            4,
            0,
        )  # the last of them is empty; an owner is nobody that others' results name

    def test_what_is_gone_is_taken_out(self) -> None:
        """What isn't there any more leaves the index that led to it."""
        shelf = Shelf(3, visible=1)
        pagination.page(shelf, Query(task="tasks.t"), at(0))
        assert shelf.repaired == [
            (IndexEntry(Position(n, f"e{n}"), "of:tasks.t"), None) for n in (2, 1)
        ]

    def test_what_others_ended_is_moved(self) -> None:
        """An end that never passed the store is found on the way; while it stands in two indexes it
        is shown once.
        """
        shelf = Shelf(1, visible=1)
        page = pagination.page(shelf, Query(), at(0))
        assert [each.task_id for each in page.snapshots] == ["e0"]
        others = sorted(
            pagination.status_index(status) for status in Status if status is not Status.COMPLETED
        )
        assert sorted((entry.name, true) for entry, true in shelf.repaired) == [
            (name, Status.COMPLETED) for name in others
        ]

    def test_a_full_page_costs_no_more(self) -> None:
        """Where everything fits, no more is looked at than is shown, but for one that says whether
        there is more.
        """
        shelf = Shelf(1000, visible=1000)
        page = pagination.page(shelf, Query(status=frozenset({Status.COMPLETED}), limit=50), at(0))
        assert (len(page.snapshots), shelf.peeked) == (50, 51)

    @pytest.mark.parametrize("phase", list(Phase))
    def test_every_phase_has_its_indexes(self, phase: Phase) -> None:
        """A query by phase walks the statuses that the phase may have, and no other."""
        assert pagination.indexes_for(Query(phase=frozenset({phase})))
        assert pagination.indexes_for(
            Query(phase=frozenset({phase}), status=frozenset(Status))
        ) == pagination.indexes_for(Query(phase=frozenset({phase})))
