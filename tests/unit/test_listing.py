"""``GET /executions``: filters, pages and permissions; and the walk over the indexes."""

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
    """Publish so many executions, one a second. Returns their ids, newest first."""
    for n in range(count):
        server.store.register([Registration(f"e{n}", "tasks.some", server.clock(), **more)])
        server.clock.tick(1)
    return [f"e{n}" for n in reversed(range(count))]


def ids(server: MountedApp, **query: Any) -> list[str]:
    response = server.client.get(LIST, query_string=query)
    assert response.status_code == 200, response.text
    return [each["execution_id"] for each in response.json["executions"]]


class TestPages:
    def test_newest_execution_is_first(self, server: MountedApp) -> None:
        """The execution that was published last is first."""
        expected = fill(server)
        assert ids(server) == expected

    def test_empty_store_gives_an_empty_page(self, server: MountedApp) -> None:
        """Without executions the page is empty and has no cursor."""
        assert server.client.get(LIST).json == {"executions": [], "cursor": None}

    def test_line_is_the_execution_without_outputs(self, server: MountedApp) -> None:
        """A line has the fields of the execution's own URL, except its outputs."""
        server.publish("x")
        server.begin("x")
        server.report("x", 2, 5, "processing", batch="3")
        whole = server.client.get(f"{LIST}/x").json
        [line] = server.client.get(LIST).json["executions"]
        assert whole.pop("outputs") is None
        assert line == whole

    def test_pages_show_each_execution_once(self, server: MountedApp) -> None:
        """Page by page each execution is shown once, while others start and change."""
        expected = fill(server, 7)
        seen, cursor = [], None
        for n in range(10):
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            response = server.client.get(LIST, query_string=query).json
            seen += [each["execution_id"] for each in response["executions"]]
            cursor = response["cursor"]
            if cursor is None:
                break
            server.clock.tick(1)
            server.publish(f"later{n}")
            server.begin(expected[3])
        assert seen == expected


class TestCounts:
    NONE = dict.fromkeys(("pending", "running", "completed", "failed", "cancelled"), 0)

    def test_counts_ignore_filters_and_pages(self, server: MountedApp) -> None:
        """Counts cover every status, whatever the filters and the page are."""
        fill(server)
        server.begin("e0")
        server.begin("e1")
        server.end("e1", "FAILURE", {"exc_type": "E", "exc_message": ["no"]})
        for query in ({}, {"status": "completed"}, {"limit": 1}):
            response = server.client.get(LIST, query_string=query | {"counts": "true"}).json
            assert response["counts"] == self.NONE | {"pending": 3, "running": 1, "failed": 1}

    def test_counts_are_read_on_request_only(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Counts are read only with ``?counts=true``."""
        monkeypatch.setattr(server.store, "counts", None)
        assert "counts" not in server.client.get(LIST).json
        assert "counts" not in server.client.get(LIST, query_string={"counts": "false"}).json
        assert_problem(server.client.get(LIST, query_string={"counts": "1"}), 422, "true or false")

    @pytest.mark.parametrize("may", [True, False])
    def test_counts_need_permission(self, may: bool) -> None:
        """If ``authorize`` refuses COUNT, the counts are null and the page is complete."""
        with mounted_app(
            authorize=lambda who, action, execution_id: action is not Action.COUNT or may
        ) as server:
            fill(server, 2)
            response = server.client.get(LIST, query_string={"counts": "true"}).json
        assert len(response["executions"]) == 2
        assert response["counts"] == (self.NONE | {"pending": 2} if may else None)


class TestFilters:
    @pytest.fixture(autouse=True)
    def some(self, server: MountedApp) -> None:
        """One execution in every state, of three tasks and one owner."""
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
        ("query", "expected"),
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
    def test_filters_narrow_the_list(
        self, server: MountedApp, query: str, expected: list[str]
    ) -> None:
        """Each filter narrows the list; several filters narrow it further."""
        response = server.client.get(f"{LIST}?{query}").json
        assert [each["execution_id"] for each in response["executions"]] == expected

    @pytest.mark.parametrize(
        ("query", "text"),
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
    def test_invalid_filter_is_422(self, server: MountedApp, query: str, text: str | None) -> None:
        """An invalid filter is a 422 that names the valid values."""
        response = server.client.get(f"{LIST}?{query}")
        if text is None:
            assert response.status_code == 200
        else:
            assert_problem(response, 422, text)


class TestPermissions:
    def test_only_readable_executions_are_listed(self) -> None:
        """The list contains only what the caller may read."""
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
    def test_cursor_reveals_no_unreadable_id(
        self, monkeypatch: pytest.MonkeyPatch, mine: set[int], limit: int, most: int, at_once: bool
    ) -> None:
        """No cursor contains an id that the caller may not read; each other one is shown once."""
        monkeypatch.setattr("headway.server.api.listing.MAX_LIMIT", most)
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
                response = server.client.get(LIST, query_string=query).json
                assert len(response["executions"]) <= limit
                seen += [each["execution_id"] for each in response["executions"]]
                if (cursor := response["cursor"]) is None:
                    break
                cursors.append(cursor)
                assert len(cursors) <= 31
        assert seen == sorted(allowed, reverse=True)
        assert {pagination.parse_cursor(each).task_id for each in cursors} <= allowed | {""}

    def test_list_permission_is_separate_from_read(self) -> None:
        """A caller that may read each execution may still not list them."""
        with mounted_app(authorize=lambda _, action, __: action is not Action.LIST) as server:
            assert_problem(server.client.get(LIST), 403, "Not allowed to list")

    def test_list_needs_a_token(self) -> None:
        """With tokens configured, the list needs one."""
        with mounted_app(tokens=["secret-secret-secret"]) as server:
            assert server.client.get(LIST).status_code == 401
            assert (
                server.client.get(
                    LIST, headers={"Authorization": "Bearer secret-secret-secret"}
                ).status_code
                == 200
            )


class TestUnavailable:
    def test_backend_outage_is_503_with_retry_after(self, server: MountedApp) -> None:
        """An outage of the backend is a 503 with Retry-After."""
        server.store.away = True
        response = server.client.get(LIST)
        assert_problem(response, 503, "The result backend can't be reached")
        assert int(response.headers["Retry-After"]) > 0

    def test_backend_without_indexes_is_501(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A result backend that can read by key only is a 501."""
        monkeypatch.setattr(server.store, "query", KeyValueStore(server.celery).query)
        assert_problem(server.client.get(LIST), 501, "cannot list executions")


class FakeIndexReader(IndexReader):
    """Indexes with made-up positions. Counts what is peeked at, and records repairs."""

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
        """Nothing is found, except the oldest ones, which an external writer has ended."""
        self.peeked += len(task_ids)
        ended = {"status": "SUCCESS", "result": None}
        return [Snapshot(t, None, ended if int(t[1:]) < self.visible else None) for t in task_ids]

    def repair(self, stale: Sequence[tuple[IndexEntry, Status | None]]) -> None:
        """Record the repairs."""
        self.repaired += stale


class TestIndexWalk:
    def test_page_scans_a_bounded_number_of_entries(self) -> None:
        """If nothing matches, a page stops after a bounded scan and returns a cursor."""
        reader = FakeIndexReader(pagination.SCAN * 3, visible=5)
        query, pages, found = Query(owner="ann", limit=10), 0, 0
        while True:
            before = reader.peeked
            page = pagination.page(reader, query, at(0))
            assert reader.peeked - before <= pagination.SCAN
            pages, found = pages + 1, found + len(page.snapshots)
            if page.cursor is None:
                break
            query = Query(owner="ann", limit=10, cursor=page.cursor)
        # The last page is empty. Results of external writers have no owner, so none matches.
        assert (pages, found) == (4, 0)

    def test_missing_execution_is_removed_from_its_index(self) -> None:
        """An execution that no longer exists is removed from the index that led to it."""
        reader = FakeIndexReader(3, visible=1)
        pagination.page(reader, Query(task="tasks.t"), at(0))
        assert reader.repaired == [
            (IndexEntry(Position(n, f"e{n}"), "of:tasks.t"), None) for n in (2, 1)
        ]

    def test_externally_ended_execution_is_moved(self) -> None:
        """An end of an external writer is found by the scan, moved, and shown once."""
        reader = FakeIndexReader(1, visible=1)
        page = pagination.page(reader, Query(), at(0))
        assert [each.task_id for each in page.snapshots] == ["e0"]
        others = sorted(
            pagination.status_index(status) for status in Status if status is not Status.COMPLETED
        )
        assert sorted((entry.name, status) for entry, status in reader.repaired) == [
            (name, Status.COMPLETED) for name in others
        ]

    def test_full_page_peeks_at_one_entry_more(self) -> None:
        """If everything matches, one more entry than shown is read: is there another page?"""
        reader = FakeIndexReader(1000, visible=1000)
        page = pagination.page(reader, Query(status=frozenset({Status.COMPLETED}), limit=50), at(0))
        assert (len(page.snapshots), reader.peeked) == (50, 51)

    @pytest.mark.parametrize("phase", list(Phase))
    def test_phase_query_uses_indexes_of_its_statuses(self, phase: Phase) -> None:
        """A query by phase scans the statuses that the phase may have, and no others."""
        assert pagination.indexes_for(Query(phase=frozenset({phase})))
        assert pagination.indexes_for(
            Query(phase=frozenset({phase}), status=frozenset(Status))
        ) == pagination.indexes_for(Query(phase=frozenset({phase})))
