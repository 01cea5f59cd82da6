"""Records as JSON in key-value and SQL registries."""

from __future__ import annotations

from datetime import UTC

from hypothesis import given
from hypothesis import strategies as st

from headway.core.registry import TaskRecord
from headway.models import Progress
from headway.stores.codec import record_from_json, record_to_json

NUMBERS = st.none() | st.integers(0) | st.floats(0, allow_nan=False, allow_infinity=False)
TIMES = st.none() | st.datetimes(timezones=st.just(UTC))


@given(
    st.builds(
        TaskRecord,
        st.text(),
        created_at=TIMES,
        updated_at=TIMES,
        progress=st.none() | st.builds(Progress, NUMBERS, timestamp=TIMES),
    )
)
def test_record_survives_round_trip(record: TaskRecord) -> None:
    """A record that is stored as JSON is read back unchanged, to the microsecond."""
    assert record_from_json(record_to_json(record)) == record


def test_record_of_another_version_is_read() -> None:
    """A missing field has its default, and an unknown field is ignored."""
    assert record_from_json({"task_id": "x", "attempt": 2, "colour": "red"}) == TaskRecord(
        "x", attempt=2
    )
