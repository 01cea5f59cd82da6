"""A clock that can be set, for one worker and all its children: nobody may set the machine's.

The offset lies in a file that every process maps, so that setting it works at once in all of them.
What is replaced is what Python code asks: ``time.time`` and ``datetime.now``; ``time.monotonic``
goes on, as the machine's does when its clock is set.
"""

from __future__ import annotations

import datetime
import mmap
import struct
import time
from pathlib import Path
from typing import Any

SIZE = 8


class Clock:
    """The offset, in seconds, from the true time."""

    def __init__(self, path: str | Path) -> None:
        place = Path(path)
        if not place.exists():
            place.write_bytes(struct.pack("d", 0.0))
        with place.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)

    def set(self, offset: float) -> None:
        """Set it, for all processes that map the file."""
        self._memory[:SIZE] = struct.pack("d", offset)

    def get(self) -> float:
        """The offset now."""
        return float(struct.unpack("d", self._memory[:SIZE])[0])


def bend(path: str) -> None:
    """Let this process go by that clock. Before Celery and Headway are imported: they take the
    names with them.
    """
    clock, true_time, true_datetime = Clock(path), time.time, datetime.datetime

    class Kind(type):
        """What C code makes is a plain datetime, and has to pass for one of ours."""

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, true_datetime)

    class Bent(true_datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return true_datetime.now(tz) + datetime.timedelta(seconds=clock.get())

        @classmethod
        def utcnow(cls) -> Any:
            return true_datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(
                seconds=clock.get()
            )

    time.time = lambda: true_time() + clock.get()
    datetime.datetime = Bent  # type: ignore[misc]
