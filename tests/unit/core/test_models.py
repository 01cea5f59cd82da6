"""The nouns: what they derive from their fields, and that they keep to their word."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headway.core.registry
import headway.models
from headway.core.registry import TaskRecord
from headway.models import Phase, Progress, Status
from headway.stores.codec import record_from_json, record_to_json

NUMBERS = st.none() | st.integers(0) | st.floats(0, allow_nan=False, allow_infinity=False)
MOMENTS = st.none() | st.datetimes(timezones=st.just(UTC))


def test_records_are_frozen() -> None:
    """Every record is replaced, never changed in place."""
    records = [
        thing
        for thing in {**vars(headway.models), **vars(headway.core.registry)}.values()
        if dataclasses.is_dataclass(thing)
    ]
    assert len(records) >= 8
    assert all(record.__dataclass_params__.frozen for record in records)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "terminal"), [(status, status not in ("pending", "running")) for status in Status]
)
def test_ends(status: Status, terminal: bool) -> None:
    """Completed, failed and cancelled are ends; pending and running are not."""
    assert status.terminal is terminal


def test_the_words_are_the_contracts() -> None:
    """Five statuses and eight phases, spelt as in the API."""
    assert [*Status] == ["pending", "running", "completed", "failed", "cancelled"]
    assert [*Phase] == [
        "queued",
        "running",
        "retrying",
        "stalled",
        "cancelling",
        "succeeded",
        "failed",
        "cancelled",
    ]


def test_the_same_to_a_viewer() -> None:
    """What the task said counts, and not when it said it or how fast it is; nothing is not the same
    as something.
    """
    progress = Progress(1, 2, "m", {"a": "b"}, datetime(2026, 3, 1, tzinfo=UTC), 1.0)
    assert progress.same_as(Progress(1, 2, "m", {"a": "b"}))
    assert not progress.same_as(None)
    for other in (
        Progress(2, 2, "m", {"a": "b"}),
        Progress(1, 3, "m", {"a": "b"}),
        Progress(1, 2, "", {"a": "b"}),
        Progress(1, 2, "m"),
    ):
        assert not progress.same_as(other)


@given(NUMBERS, NUMBERS, NUMBERS)
def test_any_numbers(current: float | None, total: float | None, rate: float | None) -> None:
    """Whatever the numbers: the percentage is a float within 0..100, 0.0 where indeterminate, and
    no time left is negative.
    """
    progress = Progress(current, total, rate=rate)
    assert isinstance(progress.percentage, float)
    assert 0.0 <= progress.percentage <= 100.0
    assert not (progress.indeterminate and progress.percentage)
    assert progress.eta_seconds is None or progress.eta_seconds >= 0.0


@given(
    st.builds(
        TaskRecord,
        st.text(),
        created_at=MOMENTS,
        updated_at=MOMENTS,
        progress=st.none() | st.builds(Progress, NUMBERS, timestamp=MOMENTS),
    )
)
def test_records_come_back_from_json(record: TaskRecord) -> None:
    """A record that a registry keeps as JSON is the same afterwards, to the microsecond."""
    assert record_from_json(record_to_json(record)) == record


def test_json_of_another_version() -> None:
    """A field that an older version didn't write has its default; one that a newer version wrote is
    passed over.
    """
    assert record_from_json({"task_id": "x", "attempt": 2, "colour": "red"}) == TaskRecord(
        "x", attempt=2
    )
