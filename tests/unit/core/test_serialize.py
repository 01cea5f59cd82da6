"""The models as JSON and back (contract, section 2)."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.core.serialize import (
    encode,
    execution_from_json,
    execution_json,
    iso,
    json_safe,
    progress_from_json,
    progress_json,
    tensorlake_json,
    time_from_json,
)
from headway.models import Execution, Failure, Phase, Progress, Status
from tests.unit.core.examples import examples

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
COMPLETED = Execution(
    "x", Status.COMPLETED, Phase.SUCCEEDED, Progress(5, 5), attempt=1, outputs={"rows": 5}
)
FAILED = Execution(
    "x",
    Status.FAILED,
    Phase.FAILED,
    Progress(3, 10),
    attempt=1,
    error=Failure("ValueError", "no", {"module": "m"}),
)

numbers = st.one_of(st.integers(0, 2**70), st.floats(0, 1e300))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.one_of(
    st.none(),
    st.integers(0, 4_000_000_000_000).map(
        lambda ms: datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=ms)
    ),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
progresses = st.builds(
    Progress,
    current=st.one_of(st.none(), numbers),
    total=st.one_of(st.none(), numbers),
    message=st.one_of(st.none(), texts),
    attributes=st.one_of(st.none(), st.dictionaries(texts, texts, max_size=3)),
    timestamp=times,
    rate=st.one_of(st.none(), st.floats(0, 1e9)),
)
optional = st.one_of(st.none(), texts)
executions = st.builds(
    Execution,
    execution_id=texts,
    status=st.sampled_from(Status),
    phase=st.sampled_from(Phase),
    progress=st.one_of(st.none(), progresses),
    task=optional,
    attempt=st.integers(0, 9),
    outputs=values,
    error=st.one_of(
        st.none(),
        st.builds(
            Failure, texts, texts, st.one_of(st.none(), st.dictionaries(texts, values, max_size=2))
        ),
    ),
    created_at=times,
    started_at=times,
    updated_at=times,
    finished_at=times,
    worker=optional,
    owner=optional,
    root_id=optional,
    group_id=optional,
)


def sent(body: Any) -> Any:
    """The body as a client receives it."""
    return json.loads(encode(body))


class TestProgress:
    def test_progress_has_fields_of_query_api(self) -> None:
        """2 of 5 has the values of the seed document."""
        body = progress_json(Progress(2, 5, "processing"))
        assert body is not None
        four = {
            name: body[name]
            for name in ("current_step", "total_steps", "percentage", "current_step_name")
        }
        assert four == {
            "current_step": 2,
            "total_steps": 5,
            "percentage": 40.0,
            "current_step_name": "processing",
        }

    def test_progress_always_has_all_keys(self) -> None:
        """Every key is present, null if there is no value."""
        keys = {
            "current_step",
            "total_steps",
            "percentage",
            "current_step_name",
            "message",
            "attributes",
            "current",
            "total",
        }
        keys |= {"indeterminate", "rate", "eta_seconds", "timestamp"}
        for progress in (Progress(), Progress(1, 2, "m", {"a": "b"}, AT, 2.0)):
            assert set(progress_json(progress) or ()) == keys
        assert progress_json(None) is None

    @pytest.mark.parametrize(
        ("current", "total", "percentage", "indeterminate"),
        [
            (2, 5, 40.0, False),
            (1, 3, 100 / 3, False),
            (7, 5, 100.0, False),
            (0, 5, 0.0, False),
            (5, 0, 0.0, True),
            (5, 0.0, 0.0, True),
            (5, None, 0.0, True),
            (None, 5, 0.0, True),
            (None, None, 0.0, True),
        ],
    )
    def test_percentage_is_unrounded_within_0_and_100(
        self, current: float | None, total: float | None, percentage: float, indeterminate: bool
    ) -> None:
        """It is current / total * 100 as a float, and 0.0 if the total is unknown."""
        body = progress_json(Progress(current, total)) or {}
        assert body["percentage"] == percentage
        assert type(body["percentage"]) is float
        assert body["indeterminate"] is indeterminate

    def test_percentage_of_ints_beyond_float_range(self) -> None:
        """An int larger than any float still has a percentage."""
        huge = 10**400
        pairs = [(huge, huge), (huge, 1), (1, huge), (1.5, huge)]
        assert [
            (progress_json(Progress(*pair, rate=1.5)) or {})["percentage"] for pair in pairs
        ] == [100.0, 100.0, 0.0, 0.0]

    @pytest.mark.parametrize(
        ("current", "steps"), [(2, 2), (2.999, 2), (0, 0), (None, 0), (3.0, 3)]
    )
    def test_steps_are_ints(self, current: float | None, steps: int) -> None:
        """``current_step`` counts completed steps as an int; ``current`` has the number itself."""
        body = progress_json(Progress(current, 5.5)) or {}
        assert (body["current_step"], body["total_steps"], body["current"], body["total"]) == (
            steps,
            5,
            current,
            5.5,
        )
        assert type(body["current_step"]) is int

    def test_empty_message_and_attributes_differ_from_none(self) -> None:
        """An empty message and empty attributes are kept."""
        body = progress_json(Progress(1, 2, "", {})) or {}
        assert (body["message"], body["current_step_name"], body["attributes"]) == ("", "", {})

    def test_eta_is_remaining_units_divided_by_rate(self) -> None:
        """In seconds; null without a rate, and never negative."""
        assert (progress_json(Progress(2, 10, rate=4.0)) or {})["eta_seconds"] == 2.0
        assert (progress_json(Progress(12, 10, rate=4.0)) or {})["eta_seconds"] == 0.0
        for progress in (
            Progress(2, 10),
            Progress(2, 0, rate=4.0),
            Progress(2, 10, rate=0.0),
            Progress(None, 10, rate=1.0),
        ):
            assert (progress_json(progress) or {})["eta_seconds"] is None

    def test_tensorlake_json_has_five_keys_and_milliseconds(self) -> None:
        """Tensorlake's poll response has a timestamp in whole milliseconds."""
        progress = Progress(
            45,
            100,
            "Processing batch 3 of 10",
            {"batch_id": "batch_003"},
            datetime(2024, 1, 1, tzinfo=UTC),
        )
        assert tensorlake_json(progress) == {
            "current": 45,
            "total": 100,
            "message": "Processing batch 3 of 10",
            "attributes": {"batch_id": "batch_003"},
            "timestamp": 1704067200000,
        }
        assert tensorlake_json(Progress(1, 2))["timestamp"] is None


class TestValues:
    @pytest.mark.parametrize(
        "zone", [UTC, timezone(timedelta(hours=-5)), timezone(timedelta(hours=5, minutes=30))]
    )
    def test_iso_converts_any_zone_to_utc(self, zone: timezone) -> None:
        """Times are UTC in ISO 8601, with Z."""
        assert iso(AT.astimezone(zone)) == "2026-03-01T12:00:00.123Z"
        assert iso(None) is None

    def test_nan_and_infinity_become_null(self) -> None:
        """Browsers can't parse NaN and Infinity (celery-facts#nan-is-not-json)."""
        body = json_safe(
            {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": (1, {2: "x"}), "d": {1}}
        )
        assert encode(body) == b'{"a":null,"b":[null,null,1.5],"c":[1,{"2":"x"}],"d":[1]}'
        with pytest.raises(ValueError, match="JSON"):
            encode({"a": math.nan})

    def test_json_safe_converts_foreign_objects(self) -> None:
        """Bytes, times, foreign objects and lone surrogates are converted; deep nesting is cut."""
        assert json_safe([b"a\xff", AT, AT.replace(tzinfo=None), complex(1, 2)]) == [
            "a\ufffd",
            "2026-03-01T12:00:00.123Z",
            "2026-03-01T12:00:00.123456",
            "(1+2j)",
        ]
        assert encode({"a": "\ud800"}) == b'{"a":"?"}'
        deep: Any = []
        for _ in range(5000):
            deep = [deep]
        assert b"..." in encode(json_safe(deep))

    @examples
    @given(
        st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists)
    )
    def test_any_json_safe_value_is_strict_json(self, value: object) -> None:
        """``encode`` accepts every result of ``json_safe``, and a strict parser reads it."""

        def refuse(word: str) -> None:
            raise AssertionError(word)

        json.loads(encode(json_safe(value)), parse_constant=refuse)


class TestExecution:
    def test_execution_always_has_all_keys(self) -> None:
        """Every key is present, null if there is no value, among them the seed document's four."""
        body = execution_json(Execution("exec_123456", Status.PENDING, Phase.QUEUED))
        assert set(body) == {field.name for field in fields(Execution)}
        assert {
            "execution_id",
            "status",
            "phase",
            "progress",
            "task",
            "attempt",
            "outputs",
            "error",
        } < set(body)
        assert {"created_at", "started_at", "updated_at", "finished_at"} < set(body)
        assert (body["status"], body["phase"], body["progress"], body["attempt"]) == (
            "pending",
            "queued",
            None,
            0,
        )
        json.loads(encode(body))

    def test_failed_execution_has_error(self) -> None:
        """The error has a type, a message and details."""
        assert execution_json(FAILED)["error"] == {
            "type": "ValueError",
            "message": "no",
            "details": {"module": "m"},
        }
        assert execution_json(COMPLETED)["error"] is None


@examples
@given(executions)
def test_execution_survives_round_trip(execution: Execution) -> None:
    """An execution that was sent as JSON is read back unchanged."""
    assert execution_from_json(sent(execution_json(execution))) == execution


@examples
@given(progresses)
def test_progress_survives_round_trip(progress: Progress) -> None:
    """A progress is read back unchanged, and ``{}`` stays apart from None."""
    read = progress_from_json(sent(progress_json(progress)))
    assert read == progress
    assert progress_json(read) == progress_json(progress)


def test_time_in_another_zone_is_read_as_utc() -> None:
    """A time in another zone is the same time in UTC."""
    assert time_from_json("2026-03-01T14:00:00.123+02:00") == AT.replace(microsecond=123000)
    assert time_from_json(None) is None
