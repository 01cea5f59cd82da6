"""Counters of the hub and its viewers, for ``/metrics``.

`Counts.add` takes a lock, so no delivered frame calls it: the hub adds once per batch, and a viewer
only while it is slow or when it is disconnected.
"""

from __future__ import annotations

import threading
from collections import Counter
from enum import StrEnum


class Count(StrEnum):
    """What is counted. The value is the metric's name without the prefix ``headway_``."""

    FRAMES = "frames"
    MERGED = "frames_merged"
    DROPPED = "frames_dropped"
    CUT_OFF = "viewers_cut_off"
    REPORTS = "reports"
    READS = "backend_reads"
    SWEEPS = "sweeps"
    OUTAGES = "feed_outages"
    RECONNECTS = "feed_reconnects"


#: The help text of each metric.
HELP: dict[Count, str] = {
    Count.FRAMES: "Frames delivered to viewers; those sent are fewer by the merged and the dropped",
    Count.MERGED: "Reports replaced by a newer one because the viewer was too slow",
    Count.DROPPED: "Frames still unsent when their viewer was disconnected or left",
    Count.CUT_OFF: "Viewers disconnected because they did not read (4408)",
    Count.REPORTS: "Reports delivered straight from the feed, without a read",
    Count.READS: "Reads of the result backend for viewers, each of up to some hundred executions",
    Count.SWEEPS: "Reads of everything that is watched, to find lost messages",
    Count.OUTAGES: "Times the feed lost its connection",
    Count.RECONNECTS: "Times the feed connected again",
}


class Counts:
    """Counters that start at 0. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Count] = Counter()

    def add(self, what: Count, number: int = 1) -> None:
        """Add ``number`` to one counter."""
        with self._lock:
            self._counts[what] += number

    def __getitem__(self, what: Count) -> int:
        return self._counts[what]
