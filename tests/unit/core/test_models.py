"""The public records: what they derive from their fields."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import headway.core.registry
import headway.models
from headway.models import Phase, Progress, Status
from tests.unit.core.examples import examples

NUMBERS = st.none() | st.integers(0) | st.floats(0, allow_nan=False, allow_infinity=False)


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
def test_status_terminal_is_true_for_ends_only(status: Status, terminal: bool) -> None:
    """Completed, failed and cancelled are terminal; pending and running are not."""
    assert status.terminal is terminal


def test_statuses_and_phases_are_those_of_contract() -> None:
    """Five statuses and eight phases, spelled as in the API."""
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


def test_same_as_ignores_time_and_rate() -> None:
    """Two reports are the same if a viewer sees no difference; no report differs from any."""
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


@examples
@given(NUMBERS, NUMBERS, NUMBERS)
def test_derived_numbers_stay_in_range(
    current: float | None, total: float | None, rate: float | None
) -> None:
    """For any numbers the percentage is a float within 0..100, and the remaining time isn't
    negative.
    """
    progress = Progress(current, total, rate=rate)
    assert isinstance(progress.percentage, float)
    assert 0.0 <= progress.percentage <= 100.0
    assert not (progress.indeterminate and progress.percentage)
    assert progress.eta_seconds is None or progress.eta_seconds >= 0.0


@pytest.mark.parametrize("current", range(101))
def test_percentage_of_whole_hundredths_is_exact(current: int) -> None:
    """7 of 100 is 7.0, not 7.000000000000001."""
    assert Progress(current, 100).percentage == float(current)


def test_percentage_of_huge_floats_stays_in_range() -> None:
    """Numbers whose product is infinite still have a percentage."""
    assert Progress(5e307, 1e308).percentage == 50.0
