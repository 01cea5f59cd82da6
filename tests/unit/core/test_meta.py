"""Reading progress from any meta: mostly right, never wrong, without errors and in bounded time."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway import progress_from_meta
from headway.core import meta as reader
from headway.models import Progress
from tests.unit.core.examples import examples

DATA = Path(__file__).parents[2] / "data"


def lines(name: str) -> list[dict[str, Any]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def percentage(progress: Progress | None) -> float | None:
    return None if progress is None or progress.indeterminate else progress.percentage


def score(labelled: list[dict[str, Any]]) -> tuple[float, float, list[str]]:
    """The weighted share of correct percentages and messages, and the ids with an invented bar."""
    weights = right_percentages = right_messages = 0
    invented = []
    for line in labelled:
        if line["ambiguous"]:
            continue
        progress, expected = progress_from_meta(line["state"], line["meta"]), line["expected"]
        weight = max(line["seen"], 1)
        got, want = percentage(progress), expected["percentage"]
        right = got is want or (got is not None and want is not None and abs(got - want) <= 0.0101)
        message = progress.message if progress is not None else None
        weights += weight
        right_percentages += weight * right
        right_messages += weight * (
            (message or None) == ((expected["message"] or "").strip() or None)
        )
        if got is not None and want is None:
            invented.append(line["id"])
    return right_percentages / weights, right_messages / weights, invented


@pytest.mark.parametrize(("name", "least"), [("metas.jsonl", 0.995), ("metas_more.jsonl", 0.99)])
def test_labelled_payloads_are_read_as_a_person_would(name: str, least: float) -> None:
    """Nearly all payloads from public code are read as labelled, and no bar is invented."""
    percentages, messages, invented = score(lines(name))
    print(f"{name}: percentages {percentages:.4f}, messages {messages:.4f}, invented {invented}")  # noqa: T201 (shown with -s)
    assert invented == []
    assert percentages >= least
    assert messages >= least


OWN = st.fixed_dictionaries(
    {
        "current": st.integers(0, 10**30) | st.floats(0, allow_nan=False, allow_infinity=False),
        "total": st.none()
        | st.integers(0, 10**30)
        | st.floats(0, allow_nan=False, allow_infinity=False),
        "message": st.none() | st.text(max_size=50),
        "attributes": st.none()
        | st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4),
        "timestamp": st.integers(10**12, 4 * 10**12),
        "rate": st.none() | st.floats(0, 1e9),
        "attempt": st.integers(1, 9),
    }
)


@examples
@given(OWN, st.sampled_from(["PROGRESS", "RETRY", "SUCCESS", "FAILURE", None]))
def test_own_payload_is_read_exactly(meta: dict[str, Any], state: str | None) -> None:
    """A report that Headway stored is read back exactly, in any state."""
    stamp = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=meta["timestamp"])
    assert progress_from_meta(state, meta) == Progress(
        meta["current"], meta["total"], meta["message"], meta["attributes"], stamp, meta["rate"]
    )


NAMES = (
    "current total progress percent done remaining status message i n count pages total_pages "
    "failed success data details logs fraction timestamp attributes max value exc_message step"
)
KEYS = st.text(max_size=12) | st.sampled_from(NAMES.split())
NUMERALS = st.integers(0, 10**16)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.binary(max_size=9)
    | st.text(max_size=30)
    | st.sampled_from(
        [
            "12/30",
            "45.3%",
            "1/0",
            "0 of 0",
            "999999/1",
            "40% done",
            "{'current': 1, 'total': 2}",
            '{"a"',
            "{" * 900 + "}",
        ]
    )
    | st.builds("{}{}{}".format, NUMERALS, st.sampled_from(["/", " of ", "%", ".", ","]), NUMERALS)
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS | st.integers() | st.tuples(st.integers()), inner, max_size=6)
    ),
    max_leaves=25,
)


@examples
@given(
    st.none() | st.text(max_size=9) | st.sampled_from(["PROGRESS", "SUCCESS", "FAILURE", "RETRY"]),
    ANYTHING,
)
def test_any_payload_gives_valid_progress_or_none(state: str | None, meta: object) -> None:
    """Any payload: nothing is raised, and the percentage and all numbers are valid."""
    progress = progress_from_meta(state, meta)
    if progress is None:
        return
    assert 0.0 <= progress.percentage <= 100.0
    assert progress.message is None or isinstance(progress.message, str)
    for number in (progress.current, progress.total, progress.rate):
        assert number is None or (
            not isinstance(number, bool) and math.isfinite(number) and number >= 0
        )


class Hostile(dict[str, Any]):
    """An unpickled object whose methods raise."""

    def items(self) -> Any:
        raise RuntimeError("items")

    def keys(self) -> Any:
        raise RuntimeError("keys")


class WithoutClass:
    """An object whose class can't be read."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("__class__")


def test_objects_whose_methods_raise_give_none() -> None:
    """Objects whose own methods raise have no progress."""
    assert progress_from_meta("PROGRESS", Hostile(current=1, total=2)) is None
    assert progress_from_meta("PROGRESS", WithoutClass()) is None
    assert progress_from_meta("PROGRESS", {"progress": WithoutClass(), "message": "x"}) is None
    assert progress_from_meta(WithoutClass(), {"progress": 5}) is None  # type: ignore[arg-type]


def test_cyclic_and_huge_payloads_are_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of keys that are read is bounded, for a cycle and for millions of values."""
    cycle: dict[str, Any] = {"message": "round"}
    cycle["data"] = cycle["details"] = cycle["progress"] = cycle
    assert progress_from_meta("PROGRESS", cycle) is not None

    items_read = 0
    items = reader._items

    def counted(payload: dict[Any, Any]) -> list[reader.MetaItem]:
        nonlocal items_read
        found = items(payload)
        items_read += len(found)
        return found

    monkeypatch.setattr(reader, "_items", counted)
    wide: Any = {"x": 1}
    for _ in range(3):
        wide = {f"progress_{number}": wide for number in range(500)}
    progress_from_meta("PROGRESS", wide)
    assert items_read <= reader.MAX_DICTS * reader.MAX_KEYS
    long = progress_from_meta(
        "PROGRESS", {"message": "a" * 10**6, "9" * 10**5: 3, "progress": "9" * 10**5}
    )
    assert long is not None
    assert len(long.message or "") == reader.MAX_TEXT


@pytest.mark.parametrize(
    "meta",
    [
        {"user_id": 42},
        {"port": 80},
        {"timestamp": 1700000000},
        {"eta_seconds": 40, "elapsed": 12},
        {"cpu_percent": 80.0},
        {"success_rate": 0.98},
        {"accuracy": 0.9, "loss": 0.1},
        {"humidity": "45%"},
        {"ids": ["3", "10"]},
        {"bbox": [3, 10]},
        {"attempt": 2, "max_attempts": 5},
        {"limit": 50, "offset": 2},
        {"page": 1, "per_page": 20, "total": 100},
        {"price": 5, "quantity": 3, "total": 15},
        {"current": 3, "max_results": 100},
        {"processed_rows": 5, "total_tables": 10},
        {"failed": 2, "total": 10},
        {"current": 3, "total": 0},
        {"current": -1, "total": -1},
        {"progress": True, "total": 1},
        {"progress": float("nan")},
        {"current": Decimal("NaN"), "total": Decimal(3)},
        {"message": "Retry 2/5"},
        {"message": "Memory at 80%"},
        {"message": "Report of 3/2024"},
        {"message": "https://example.com/1/2"},
        {"params": {"current": 1, "total": 2}},
        {"task_id": 3, "total": 6},
        {"done": 1e308, "remaining": 10**308},
    ],
)
def test_unrelated_numbers_give_no_percentage(meta: dict[str, Any]) -> None:
    """Ids, times, sizes, settings and other shares never become a bar."""
    assert percentage(progress_from_meta("PROGRESS", meta)) is None


@pytest.mark.parametrize(
    ("state", "meta", "expected"),
    [
        (
            "PROGRESS",
            {"percent": 0.5, "done": 10, "total": 2000},
            0.5,
        ),  # the counts decide the scale
        (
            "PROGRESS",
            {"percent": 50, "done": 1, "total": 10},
            50.0,
        ),  # percentage of the whole, counts of a part
        ("PROGRESS", {"progress": 5, "total": 20}, 25.0),  # with a total it is a count
        ("PROGRESS", {"progress": 50, "total": 20}, 50.0),  # more than the total: no count
        ("PROGRESS", {"progress": 1}, 1.0),
        ("PROGRESS", {"progress": 104}, 100.0),
        ("PROGRESS", {"progress": 1.0}, 100.0),
        ("PROGRESS", {"Pages Crawled": "25", "totalPages": "50"}, 50.0),
        ("PROGRESS", {"percent": "\x1b[0;94m 45.3%\x1b[0m"}, 45.3),
        ("PROGRESS", {"data": {"progress": {"done": 1, "all": 4}}}, 25.0),
        ("PROGRESS", {"message": "Row 3/10"}, 30.0),
        ("FAILURE", {"message": "Row 3/10 is broken"}, None),
        ("SUCCESS", {"current": 10, "total": 10}, 100.0),
        ("SUCCESS", {"count": 20, "total": 300}, None),
        ("SUCCESS", 0.5, None),
    ],
)
def test_percentage_follows_rules(state: str, meta: object, expected: float | None) -> None:
    """The rules in the module's docstring, one by one."""
    assert percentage(progress_from_meta(state, meta)) == (
        pytest.approx(expected) if expected is not None else None
    )


@pytest.mark.parametrize(
    ("state", "meta", "expected"),
    [
        (
            "FAILURE",
            {"exc_type": "KeyError", "exc_message": ["a", "b"], "exc_module": "builtins"},
            "a, b",
        ),
        ("FAILURE", {"step": "Upload", "error": "disk full"}, "disk full"),
        ("PROGRESS", {"step": "Upload", "error": "one row was bad"}, "Upload"),
        ("PROGRESS", {"status": "processing", "step": "Reading text"}, "Reading text"),
        ("PROGRESS", {"status": "PROGRESS", "current": 1}, None),
        (
            "PROGRESS",
            {"step_description": "Resize the pictures", "step": "resize"},
            "Resize the pictures",
        ),
        ("PROGRESS", {"message_id": "m-1", "task_id": "t-1", "filename": "a.pdf"}, None),
        ("PROGRESS", "Removing \x1b[1mpassword\x1b[0m", "Removing password"),
        ("SUCCESS", "/exports/report.pdf", None),
    ],
)
def test_message_is_text_for_people(state: str, meta: object, expected: str | None) -> None:
    """Of several texts the one for people wins; the text of a result is no message."""
    progress = progress_from_meta(state, meta)
    assert (progress.message if progress is not None else None) == expected
