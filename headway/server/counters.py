"""What the hub and its viewers have done, counted for ``/metrics``.

A lock is taken for each `Counts.add`, so none is called for each delivered frame: the hub adds once
a batch, and a viewer only where it is behind, or is let go.
"""

from __future__ import annotations

import threading
from collections import Counter
from enum import StrEnum


class Count(StrEnum):
    """What is counted; the value is the metric's name behind ``headway_``."""

    FRAMES = "frames"
    MERGED = "frames_merged"
    DROPPED = "frames_dropped"
    CUT_OFF = "viewers_cut_off"
    REPORTS = "reports"
    READS = "backend_reads"
    SWEEPS = "sweeps"
    OUTAGES = "feed_outages"
    RECONNECTS = "feed_reconnects"


#: What each means, as ``/metrics`` says it.
HELP: dict[Count, str] = {
    Count.FRAMES: "Frames told to viewers, one for each; those that were sent are these less the merged and the dropped",
    Count.MERGED: "Reports that a viewer was too slow for: a newer one took their place, or led back to what was shown",
    Count.DROPPED: "Frames that a viewer had not taken when it was let go, or left",
    Count.CUT_OFF: "Viewers let go because they took nothing (4408)",
    Count.REPORTS: "Reports told to viewers straight from the feed, with no read",
    Count.READS: "Reads of the result backend for those who look on, of up to some hundred executions each",
    Count.SWEEPS: "Looks at everything that is watched, for messages that were lost",
    Count.OUTAGES: "Times that the feed lost its connection",
    Count.RECONNECTS: "Times that the feed was connected again",
}


class Counts:
    """Counters that begin at 0; each method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Count] = Counter()

    def add(self, what: Count, number: int = 1) -> None:
        """Count on."""
        with self._lock:
            self._counts[what] += number

    def __getitem__(self, what: Count) -> int:
        return self._counts[what]
