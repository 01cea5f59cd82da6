"""A `TaskRecord` as plain JSON, for registries that keep it whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from headway.core.registry import TaskRecord
from headway.models import Progress

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FIELDS = tuple(field.name for field in fields(TaskRecord))
TIMES = frozenset(name for name in FIELDS if name.endswith(("_at", "_by")))


def micros(time: datetime) -> int:
    """Microseconds since the epoch, exact (a float would round)."""
    return (time - EPOCH) // MICROSECOND


def moment(microseconds: int) -> datetime:
    """The other way round."""
    return EPOCH + microseconds * MICROSECOND


def record_to_json(record: TaskRecord) -> dict[str, Any]:
    """Every field; times in microseconds since the epoch."""
    values = {name: getattr(record, name) for name in FIELDS}
    values |= {name: micros(values[name]) for name in TIMES if values[name] is not None}
    return values | {"progress": progress_to_json(record.progress)}


def record_from_json(values: Mapping[str, Any]) -> TaskRecord:
    """The other way round. A field that isn't there has its default, an unknown one is of a newer
    version and passed over.
    """
    known = {name: values[name] for name in FIELDS if name in values}
    known |= {name: moment(known[name]) for name in TIMES if known.get(name) is not None}
    return TaskRecord(**(known | {"progress": progress_from_json(values.get("progress"))}))


def progress_to_json(progress: Progress | None) -> dict[str, Any] | None:
    """Every field; the timestamp in microseconds since the epoch."""
    if progress is None:
        return None
    return {
        "current": progress.current,
        "total": progress.total,
        "message": progress.message,
        "attributes": None if progress.attributes is None else dict(progress.attributes),
        "timestamp": None if progress.timestamp is None else micros(progress.timestamp),
        "rate": progress.rate,
    }


def progress_from_json(values: Mapping[str, Any] | None) -> Progress | None:
    """The other way round."""
    if values is None:
        return None
    stamp = values["timestamp"]
    return Progress(**(values | {"timestamp": None if stamp is None else moment(stamp)}))  # type: ignore[operator]
