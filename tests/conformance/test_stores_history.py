"""The reports of an execution: what every store owes (``headway/stores/base.py``), each store in
turn.
"""

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
def telling(subject: StoreUnderTest) -> StoreUnderTest:
    """Each store that has a place for histories."""
    if isinstance(subject.store, DocumentStore):
        pytest.skip("has no place for histories")
    return subject


def stamp(seconds: float) -> int:
    return round(at(seconds).timestamp() * 1000)


def from_micros(seconds: float) -> datetime:
    return datetime.fromtimestamp(stamp(seconds) / 1000, UTC)


def reported(
    subject: StoreUnderTest, number: float, attempt: int | None = 1, task_id: str = "a", **more: Any
) -> None:
    """The report that says ``number``, at that second."""
    said = report(number, 5000, timestamp=stamp(number), **more)
    assert subject.store.write(
        StateWrite(task_id, "PROGRESS", at(number), attempt=attempt, meta=said)
    )


def counts(history: History) -> list[Any]:
    return [each.progress.current for each in history.reports]


def test_none_is_kept_where_there_is_no_place(subject: StoreUnderTest) -> None:
    """An empty history that isn't complete; and nothing of an unknown id, anywhere."""
    assert subject.store.history("unknown").reports == ()
    subject.open("a")
    reported(subject, 1)
    known = subject.store.history("a")
    assert known.complete is bool(known.reports) is not isinstance(subject.store, DocumentStore)


class TestKept:
    def test_as_they_were_written(self, telling: StoreUnderTest) -> None:
        """Each report with its attempt, its time and all that it said, oldest first."""
        telling.open("a")
        said: list[dict[str, Any]] = [
            {"message": "Zähle ✓ 1 2\x00\n", "attributes": {"a": "1", "b": ""}},
            {"message": "", "attributes": {}},
            {},
        ]
        for number, more in enumerate(said):
            reported(telling, number, **more)
        telling.write("a", "RETRY", 4, attempt=1)
        telling.open("a", 5, retries=1)
        reported(telling, 6.5, attempt=2)
        first = [
            Report(
                1, Progress(n, 5000, more.get("message"), more.get("attributes"), from_micros(n))
            )
            for n, more in enumerate(said)
        ]
        assert telling.store.history("a") == History(
            (*first, Report(2, Progress(6.5, 5000, timestamp=from_micros(6.5))))
        )

    def test_what_carries_no_progress_is_no_report(self, telling: StoreUnderTest) -> None:
        """Neither a start, a retry, an end, nor a state of a task's own that says nothing; nor what
        was refused.
        """
        telling.store.register([Registration("a", "tasks.t", at(0))])
        telling.open("a", result=telling.encode("a", "STARTED", None), store_result=True)
        telling.write("a", "WAITING", 1, attempt=1)
        reported(telling, 2)
        for n, end in enumerate(sorted(READY_STATES - {"SUCCESS"})):
            telling.write("a", end, 3, attempt=n + 1, result={"done": 3, "total": 10})
            assert not telling.store.write(
                StateWrite("a", "PROGRESS", at(4), attempt=n + 1, meta=report(4))
            )
            telling.open("a", 5)
        telling.write("a", "RETRY", 6, attempt=len(READY_STATES), result={"done": 3, "total": 10})
        assert counts(telling.store.history("a")) == [2]

    def test_a_task_without_headway(self, telling: StoreUnderTest) -> None:
        """What a task passes to ``update_state`` is remembered as it is read, with the time of the
        write where it has none.
        """
        telling.write("a", "WORKING", 3, result={"done": 1, "of": 4, "step": "Fetching"})
        progress = Progress(1, 4, "Fetching", timestamp=from_micros(3))
        assert telling.store.history("a").reports == (Report(0, progress),)

    def test_large_attributes_are_left_out(self, telling: StoreUnderTest) -> None:
        """A report with many attributes is kept without them; everything else is kept."""
        telling.open("a")
        small, large = {"key": "x" * (MAX_ATTRIBUTES - 3)}, {"key": "x" * (MAX_ATTRIBUTES - 2)}
        reported(telling, 1, attributes=small)
        reported(telling, 2, attributes=large, message="m" * 2048)
        kept = [each.progress for each in telling.store.history("a").reports]
        assert [progress.attributes for progress in kept] == [small, None]
        assert kept[1].message == "m" * 2048

    @pytest.mark.parametrize("with_result", [True, False])
    def test_new_run_starts_new_history(self, telling: StoreUnderTest, with_result: bool) -> None:
        """An id that is used again after its success begins with nothing: its result has gone, or
        there never was any.
        """
        for night in range(2):
            telling.store.register([Registration("a", "tasks.t", at(100 * night))])
            telling.open("a", 100 * night)
            reported(telling, 100 * night + 1, attempt=night + 1)
            if with_result:
                telling.write("a", "SUCCESS", 100 * night + 2, attempt=night + 1, result=night)
                telling.forget("a")
            else:
                assert telling.store.write(
                    StateWrite("a", "SUCCESS", at(100 * night + 2), attempt=night + 1)
                )
        assert [each.attempt for each in telling.store.history("a").reports] == [2]

    def test_each_its_own(self, telling: StoreUnderTest) -> None:
        """Two executions have two histories."""
        for task_id, number in (("a", 1), ("b", 2), ("a", 3)):
            reported(telling, number, task_id=task_id)
        assert counts(telling.store.history("a")) == [1, 3]
        assert counts(telling.store.history("b")) == [2]


def test_a_registry_that_was_dropped(tmp_path: Path) -> None:
    """What was remembered of a registry's row that is no more keeps no report of a new one from
    being stored.
    """
    subject = stores.make("sql", tmp_path, None)
    assert isinstance(subject.store, SqlStore)
    for number in range(3):
        reported(subject, number, attempt=None)
    with subject.store._engine() as engine, engine.begin() as connection:
        connection.execute(subject.store._executions.delete())
    subject.open("a")
    for number in range(3, 5):
        reported(subject, number)
    assert counts(subject.store.history("a")) == [3, 4]
    subject.store.close()


class TestBounds:
    """Not for every setting of Redis: it has nothing to do with what they change."""

    @pytest.fixture(params=["memory", "redis", "sql"])
    def telling(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreUnderTest]:
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
    def test_the_course_from_begin_to_end(
        self, telling: StoreUnderTest, message: str, count: int, least: int
    ) -> None:
        """However many and however long they are: within the bounds, the first and the newest among
        them, evenly between.
        """
        telling.open("a")
        for number in range(count):
            reported(telling, number, message=message)
        history = telling.store.history("a")
        kept = counts(history)
        steps = [after - before for before, after in itertools.pairwise(kept[:-1])]
        assert not history.complete
        assert (kept[0], kept[-1]) == (0, count - 1)
        assert least <= len(kept) <= 1000
        assert self.size(history) <= MAX_BYTES + len(message) + 50
        assert max(steps) <= 4 * min(steps), "some age of it is thinner than another"

    def test_no_more_than_a_thousand(self, telling: StoreUnderTest) -> None:
        """The smallest reports that there can be fill the room by fewer than a thousand and one."""
        smallest = encode_report(1, Progress(), at(0))
        assert MAX_BYTES // len(smallest) <= 1000

    def test_all_stores_thin_out_alike(self, redis_url: str, tmp_path: Path) -> None:
        """The same reports, of whatever sizes and at whatever times, leave the same history in
        every store.
        """
        subjects = [stores.make(name, tmp_path, redis_url) for name in ("memory", "redis", "sql")]
        dice, seconds = random.Random(7), 0.0
        for subject in subjects:
            subject.open("a", 0)
        for number in range(150):
            seconds += dice.choice((0, 0.000001, 0.25, 0.25, 30, 3600))
            message = "m" * dice.choice((0, 10, 100, 2000))
            for subject in subjects:
                said = report(number, 150, message=message)
                assert subject.store.write(
                    StateWrite("a", "PROGRESS", at(seconds), attempt=1, meta=said)
                )
        histories = [subject.store.history("a") for subject in subjects]
        for subject in subjects:
            subject.store.close()
        assert histories[0] == histories[1] == histories[2]
        assert not histories[0].complete
