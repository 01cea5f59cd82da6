"""Which reports of an execution are kept: first all of them. When `MAX_BYTES` is reached, every
second one, and so on.

The history of a long job must show it from its start to its end in bounded space. So no part is cut
off, and old reports are not thinner than new ones: what is kept is halved, and from then on at most
one report is kept in each ``min_interval``. A report that isn't kept costs nothing. Halving reads
everything that is kept, and makes space for as much again.

The first report is always kept. The newest one is in the registry's record, and readers append it.

The Redis store has the same rule in Lua (``stores/lua/_history.lua``). One conformance suite tests
both.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Bytes that the stored reports of an execution may take together. That is at most 1,000 reports:
#: none is smaller than 24 bytes.
MAX_BYTES = 24_000


def starts_new_history(before: str | None, after: str | None) -> bool:
    """Whether an id is used again after its success. ``before`` and ``after`` are Celery states."""
    return before == "SUCCESS" and after != "SUCCESS"


def should_keep(min_interval: int, last: int | None, at: int) -> bool:
    """Whether a report made ``at`` is kept. ``last`` is the time of the record's last update.

    All in microseconds. ``min_interval`` is 0 until the history is thinned out.
    """
    return not min_interval or last is None or at // min_interval != last // min_interval


def thin_out(sizes: Sequence[int], min_interval: int, span: int) -> tuple[range, int]:
    """Which reports stay, and the ``min_interval`` from now on.

    ``sizes`` are in bytes, oldest report first. ``span`` is the time since the start, in
    microseconds. Thins out to half of `MAX_BYTES`, so that thinning is rare.
    """
    step, kept = 1, range(len(sizes))
    while len(kept) > 1 and (step == 1 or sum(sizes[n] for n in kept) > MAX_BYTES // 2):
        min_interval = max(1, 2 * min_interval, 2 * span // len(kept))
        step *= 2
        kept = range(0, len(sizes), step)
    return kept, min_interval
