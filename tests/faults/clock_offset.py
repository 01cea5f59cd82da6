"""A settable clock for one worker and its children: a test can't set the machine's clock.

Every process maps the file with the offset, so a change takes effect in all of them at once.
It shifts ``time.time`` and ``datetime.now``. ``time.monotonic`` does not change, as on a machine
whose clock is set.
"""

from __future__ import annotations

import datetime
import mmap
import struct
import time
from pathlib import Path
from typing import Any

SIZE = 8


class ClockOffset:
    """The offset from the true time, in seconds."""

    def __init__(self, path: str | Path) -> None:
        file_path = Path(path)
        if not file_path.exists():
            file_path.write_bytes(struct.pack("d", 0.0))
        with file_path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)

    def set(self, offset: float) -> None:
        """Set it for all processes that map the file."""
        self._memory[:SIZE] = struct.pack("d", offset)

    def get(self) -> float:
        """The current offset."""
        return float(struct.unpack("d", self._memory[:SIZE])[0])


def apply_offset(path: str) -> None:
    """Make this process use the clock. Call it before Celery and Headway are imported: they import
    the functions by name.
    """
    offset, true_time, true_datetime = ClockOffset(path), time.time, datetime.datetime

    class AnyDatetime(type):
        """C code makes plain datetimes, which have to pass `isinstance` checks too."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, true_datetime)

    class OffsetDatetime(true_datetime, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return true_datetime.now(tz) + datetime.timedelta(seconds=offset.get())

        @classmethod
        def utcnow(cls) -> Any:
            return true_datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(
                seconds=offset.get()
            )

    time.time = lambda: true_time() + offset.get()
    datetime.datetime = OffsetDatetime  # type: ignore[misc]
