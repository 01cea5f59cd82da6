"""A report of a history in as few bytes as can be, and the other way round.

``<attempt> <milliseconds> <current> <total> <bytes of the message> <bytes of the attributes>
<message><attributes>``: what stands at the end may hold anything, so its length is told. There may
be many reports, so no key is there, nor anything that can be worked out. Not JSON, because a report
is on its way to the server four times a second for each task, and this is sooner made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime

from headway.core import states
from headway.core.registry import StateWrite
from headway.models import Progress, Report
from headway.stores.codec import moment

#: Characters of attributes that are remembered with a report. One with more of them is remembered
#: without.
MAX_ATTRIBUTES = 512

_HEAD = re.compile(rb"(\d+) (-?\d+) (\S+) (\S+) (\d+|-) (\d+|-) ")


def entry_of(write: StateWrite, attempt: int | None) -> bytes:
    """What is remembered of a write; empty where it carries no progress. Without ``attempt`` its
    place is left empty.
    """
    progress = states.progress_of(write)
    return b"" if progress is None else encode_report(attempt, progress, write.at)


def encode_report(attempt: int | None, progress: Progress, at: datetime) -> bytes:
    """``at``: when it was stored, for a report that carries no time."""
    stamp, message, attributes = progress.timestamp, progress.message, progress.attributes
    said = b"" if message is None else message.encode("utf-8", "surrogatepass")
    more = b""
    if attributes is not None:
        if sum(len(key) + len(value) for key, value in attributes.items()) > MAX_ATTRIBUTES:
            attributes = None
        else:
            more = json.dumps(dict(attributes), separators=(",", ":")).encode()
    head = (
        f"{'' if attempt is None else attempt} {round((at if stamp is None else stamp).timestamp() * 1000)}"
        f" {'-' if progress.current is None else progress.current} {'-' if progress.total is None else progress.total}"
        f" {'-' if message is None else len(said)} {'-' if attributes is None else len(more)} "
    )
    return head.encode() + said + more


def reports_in(entries: bytes) -> Iterator[Report]:
    """Read entries that stand one behind the other."""
    at = 0
    while head := _HEAD.match(entries, at):
        attempt, stamp, current, total, said, more = head.groups()
        begin = head.end()
        middle = begin + _length(said)
        at = middle + _length(more)
        message = None if said == b"-" else entries[begin:middle].decode("utf-8", "surrogatepass")
        attributes = None if more == b"-" else json.loads(entries[middle:at])
        yield Report(
            int(attempt),
            Progress(
                _number(current), _number(total), message, attributes, moment(int(stamp) * 1000)
            ),
        )


def _length(told: bytes) -> int:
    return 0 if told == b"-" else int(told)


def _number(told: bytes) -> int | float | None:
    if told == b"-":
        return None
    return int(told) if told.isdigit() else float(told)
