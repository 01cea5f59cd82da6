"""Records and reports as bytes.

`record_to_json` is for registries that keep a `TaskRecord` as one document. `encode_report` is the
compact form of a report in a history::

    <attempt> <milliseconds> <current> <total> <message bytes> <attributes bytes> <message><attributes>

Message and attributes may contain anything, so their lengths come first. There may be many reports,
so there are no keys, and nothing that can be computed. It is not JSON, because a worker encodes a
report four times a second per task, and this is faster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from headway.core import states
from headway.core.registry import StateWrite, TaskRecord
from headway.models import Progress, Report

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
FIELDS = tuple(field.name for field in fields(TaskRecord))
TIMES = frozenset(name for name in FIELDS if name.endswith(("_at", "_by")))

#: Characters of attributes that a report in a history may have. With more, it is kept without them.
MAX_ATTRIBUTES = 512

_HEAD = re.compile(rb"(\d+) (-?\d+) (\S+) (\S+) (\d+|-) (\d+|-) ")


def to_micros(time: datetime) -> int:
    """Microseconds since the epoch, exact (a float would round)."""
    return (time - EPOCH) // MICROSECOND


def from_micros(microseconds: int) -> datetime:
    """The inverse of `to_micros`."""
    return EPOCH + microseconds * MICROSECOND


def record_to_json(record: TaskRecord) -> dict[str, Any]:
    """All fields; times in microseconds since the epoch."""
    values = {name: getattr(record, name) for name in FIELDS}
    values |= {name: to_micros(values[name]) for name in TIMES if values[name] is not None}
    return values | {"progress": progress_to_json(record.progress)}


def record_from_json(values: Mapping[str, Any]) -> TaskRecord:
    """The inverse of `record_to_json`.

    A missing field has its default; an unknown field is from a newer version and is ignored.
    """
    known = {name: values[name] for name in FIELDS if name in values}
    known |= {name: from_micros(known[name]) for name in TIMES if known.get(name) is not None}
    return TaskRecord(**(known | {"progress": progress_from_json(values.get("progress"))}))


def progress_to_json(progress: Progress | None) -> dict[str, Any] | None:
    """All fields; the timestamp in microseconds since the epoch."""
    if progress is None:
        return None
    return {
        "current": progress.current,
        "total": progress.total,
        "message": progress.message,
        "attributes": None if progress.attributes is None else dict(progress.attributes),
        "timestamp": None if progress.timestamp is None else to_micros(progress.timestamp),
        "rate": progress.rate,
    }


def progress_from_json(values: Mapping[str, Any] | None) -> Progress | None:
    """The inverse of `progress_to_json`."""
    if values is None:
        return None
    stamp = values["timestamp"]
    return Progress(**(values | {"timestamp": None if stamp is None else from_micros(stamp)}))  # type: ignore[operator]


def encode_report_of(write: StateWrite, attempt: int | None) -> bytes:
    """The report in a write; empty if it carries no progress. None leaves the attempt's place
    empty.
    """
    progress = states.progress_of(write)
    return b"" if progress is None else encode_report(attempt, progress, write.at)


def encode_report(attempt: int | None, progress: Progress, at: datetime) -> bytes:
    """``at`` is the time of a report without a timestamp: when it was stored."""
    stamp, message, attributes = progress.timestamp, progress.message, progress.attributes
    text = b"" if message is None else message.encode("utf-8", "surrogatepass")
    pairs = b""
    if attributes is not None:
        if sum(len(key) + len(value) for key, value in attributes.items()) > MAX_ATTRIBUTES:
            attributes = None
        else:
            pairs = json.dumps(dict(attributes), separators=(",", ":")).encode()
    head = (
        f"{'' if attempt is None else attempt}"
        f" {round((at if stamp is None else stamp).timestamp() * 1000)}"
        f" {'-' if progress.current is None else progress.current}"
        f" {'-' if progress.total is None else progress.total}"
        f" {'-' if message is None else len(text)} {'-' if attributes is None else len(pairs)} "
    )
    return head.encode() + text + pairs


def decode_reports(entries: bytes) -> Iterator[Report]:
    """Decode concatenated reports."""
    at = 0
    while head := _HEAD.match(entries, at):
        attempt, stamp, current, total, text, pairs = head.groups()
        start = head.end()
        middle = start + _length(text)
        at = middle + _length(pairs)
        message = None if text == b"-" else entries[start:middle].decode("utf-8", "surrogatepass")
        attributes = None if pairs == b"-" else json.loads(entries[middle:at])
        time = from_micros(int(stamp) * 1000)
        progress = Progress(_number(current), _number(total), message, attributes, time)
        yield Report(int(attempt), progress)


def _length(field: bytes) -> int:
    return 0 if field == b"-" else int(field)


def _number(field: bytes) -> int | float | None:
    if field == b"-":
        return None
    return int(field) if field.isdigit() else float(field)
