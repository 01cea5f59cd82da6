"""Histories: contract of every store (``headway/stores/base.py``), each store in turn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from headway.core.history import MAX_BYTES
from headway.core.registry import READY_STATES, Registration, StateWrite
from headway.models import History, Progress, Report
from headway.stores.codec import MAX_ATTRIBUTES, encode_report
from headway.stores.keyvalue import DocumentStore
from headway.stores.sql import SqlStore
from tests.support import stores
from tests.support.stores import StoreUnderTest, at, report


@pytest.fixture
def keeping(subject: StoreUnderTest) -> StoreUnderTest:
    """Return each store that keeps histories."""
    if isinstance(subject.store, DocumentStore):
        pytest.skip("does not store histories")
    return subject


def stamp(seconds: float) -> int:
    return round(at(seconds).timestamp() * 1000)


def from_micros(seconds: float) -> datetime:
    return datetime.fromtimestamp(stamp(seconds) / 1000, UTC)


def write_report(
    subject: StoreUnderTest, number: float, attempt: int | None = 1, task_id: str = "a", **more: Any
) -> None:
    """Write a report with the count ``number`` at that second."""
    sent = report(number, 5000, timestamp=stamp(number), **more)
    assert subject.store.write(
        StateWrite(task_id, "PROGRESS", at(number), attempt=attempt, meta=sent)
    )


def counts(history: History) -> list[Any]:
    return [each.progress.current for each in history.reports]


def test_history_is_empty_and_incomplete_without_support(subject: StoreUnderTest) -> None:
    """A store without histories, and any store for an unknown id, returns an empty history."""
    assert subject.store.history("unknown").reports == ()
    subject.open("a")
    write_report(subject, 1)
    known = subject.store.history("a")
    assert known.complete is bool(known.reports) is not isinstance(subject.store, DocumentStore)


class TestKept:
    def test_history_has_all_reports_in_written_order(self, keeping: StoreUnderTest) -> None:
        """A history has each report with its attempt, time and fields, oldest first."""
        keeping.open("a")
        fields: list[dict[str, Any]] = [
            {"message": "Zähle ✓ 1 2\x00\n", "attributes": {"a": "1", "b": ""}},
            {"message": "", "attributes": {}},
            {},
        ]
        for number, more in enumerate(fields):
            write_report(keeping, number, **more)
        keeping.write("a", "RETRY", 4, attempt=1)
        keeping.open("a", 5, retries=1)
        write_report(keeping, 6.5, attempt=2)
        first = [
            Report(
                1, Progress(n, 5000, more.get("message"), more.get("attributes"), from_micros(n))
            )
            for n, more in enumerate(fields)
        ]
        assert keeping.store.history("a") == History(
            (*first, Report(2, Progress(6.5, 5000, timestamp=from_micros(6.5))))
        )

    def test_write_without_progress_adds_no_report(self, keeping: StoreUnderTest) -> None:
        """States without progress, starts, retries, ends and refused writes add no report."""
        keeping.store.register([Registration("a", "tasks.t", at(0))])
        keeping.open("a", result=keeping.encode("a", "STARTED", None), store_result=True)
        keeping.write("a", "WAITING", 1, attempt=1)
        write_report(keeping, 2)
        for n, end in enumerate(sorted(READY_STATES - {"SUCCESS"})):
            keeping.write("a", end, 3, attempt=n + 1, result={"done": 3, "total": 10})
            assert not keeping.store.write(
                StateWrite("a", "PROGRESS", at(4), attempt=n + 1, meta=report(4))
            )
            keeping.open("a", 5)
        keeping.write("a", "RETRY", 6, attempt=len(READY_STATES), result={"done": 3, "total": 10})
        assert counts(keeping.store.history("a")) == [2]

    def test_history_keeps_reports_of_task_without_headway(self, keeping: StoreUnderTest) -> None:
        """A history keeps ``update_state`` calls, with the time of the write as default."""
        keeping.write("a", "WORKING", 3, result={"done": 1, "of": 4, "step": "Fetching"})
        progress = Progress(1, 4, "Fetching", timestamp=from_micros(3))
        assert keeping.store.history("a").reports == (Report(0, progress),)

    def test_report_with_large_attributes_is_kept_without_them(
        self, keeping: StoreUnderTest
    ) -> None:
        """The history drops attributes that are too large and keeps the rest of the report."""
        keeping.open("a")
        small, large = {"key": "x" * (MAX_ATTRIBUTES - 3)}, {"key": "x" * (MAX_ATTRIBUTES - 2)}
        write_report(keeping, 1, attributes=small)
        write_report(keeping, 2, attributes=large, message="m" * 2048)
        kept = [each.progress for each in keeping.store.history("a").reports]
        assert [progress.attributes for progress in kept] == [small, None]
        assert kept[1].message == "m" * 2048

    @pytest.mark.parametrize("with_result", [True, False])
    def test_new_run_after_success_starts_new_history(
        self, keeping: StoreUnderTest, with_result: bool
    ) -> None:
        """A new run of an id whose success has no result any more starts a new history."""
        for night in range(2):
            keeping.store.register([Registration("a", "tasks.t", at(100 * night))])
            keeping.open("a", 100 * night)
            write_report(keeping, 100 * night + 1, attempt=night + 1)
            if with_result:
                keeping.write("a", "SUCCESS", 100 * night + 2, attempt=night + 1, result=night)
                keeping.forget("a")
            else:
                assert keeping.store.write(
                    StateWrite("a", "SUCCESS", at(100 * night + 2), attempt=night + 1)
                )
        assert [each.attempt for each in keeping.store.history("a").reports] == [2]

    def test_each_execution_has_own_history(self, keeping: StoreUnderTest) -> None:
        """Two executions have two histories."""
        for task_id, number in (("a", 1), ("b", 2), ("a", 3)):
            write_report(keeping, number, task_id=task_id)
        assert counts(keeping.store.history("a")) == [1, 3]
        assert counts(keeping.store.history("b")) == [2]


def test_reports_are_stored_after_registry_row_is_deleted(tmp_path: Path) -> None:
    """Cached data of a deleted registry row does not block the reports of a new row."""
    subject = stores.make("sql", tmp_path, None)
    assert isinstance(subject.store, SqlStore)
    for number in range(3):
        write_report(subject, number, attempt=None)
    with subject.store._engine() as engine, engine.begin() as connection:
        connection.execute(subject.store._executions.delete())
    subject.open("a")
    for number in range(3, 5):
        write_report(subject, number)
    assert counts(subject.store.history("a")) == [3, 4]
    subject.store.close()


class TestBounds:
    """Limits of a history, tested without the variants of Redis, which do not affect them."""

    @pytest.fixture(params=["memory", "redis", "sql"])
    def keeping(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreUnderTest]:
        url = request.getfixturevalue("redis_url") if request.param == "redis" else None
        made = stores.make(request.param, tmp_path, url)
        yield made
        made.store.close()

    def size(self, history: History) -> int:
        return sum(
            len(encode_report(each.attempt, each.progress, at(0))) for each in history.reports
        )

    @pytest.mark.parametrize(
        ("message", "count", "least"), [("", 900, 200), ("m" * 400, 150, 20), ("m" * 2000, 50, 4)]
    )
    def test_long_history_keeps_evenly_spaced_reports(
        self, keeping: StoreUnderTest, message: str, count: int, least: int
    ) -> None:
        """A long history stays within its limits and keeps the first, the newest and even steps."""
        keeping.open("a")
        for number in range(count):
            write_report(keeping, number, message=message)
        history = keeping.store.history("a")
        kept = counts(history)
        steps = [after - before for before, after in itertools.pairwise(kept[:-1])]
        assert not history.complete
        assert (kept[0], kept[-1]) == (0, count - 1)
        assert least <= len(kept) <= 1000
        assert self.size(history) <= MAX_BYTES + len(message) + 50
        assert max(steps) <= 4 * min(steps), "the steps are uneven"

    def test_history_has_at_most_thousand_reports(self, keeping: StoreUnderTest) -> None:
        """The size limit has room for at most a thousand of the smallest reports."""
        smallest = encode_report(1, Progress(), at(0))
        assert MAX_BYTES // len(smallest) <= 1000

    def test_all_stores_keep_same_reports(self, redis_url: str, tmp_path: Path) -> None:
        """The same reports, of any size and time, leave the same history in every store."""
        subjects = [stores.make(name, tmp_path, redis_url) for name in ("memory", "redis", "sql")]
        dice, seconds = random.Random(7), 0.0
        for subject in subjects:
            subject.open("a", 0)
        for number in range(150):
            seconds += dice.choice((0, 0.000001, 0.25, 0.25, 30, 3600))
            message = "m" * dice.choice((0, 10, 100, 2000))
            for subject in subjects:
                sent = report(number, 150, message=message)
                assert subject.store.write(
                    StateWrite("a", "PROGRESS", at(seconds), attempt=1, meta=sent)
                )
        histories = [subject.store.history("a") for subject in subjects]
        for subject in subjects:
            subject.store.close()
        assert histories[0] == histories[1] == histories[2]
        assert not histories[0].complete
