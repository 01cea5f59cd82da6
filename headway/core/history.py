"""Which reports of an execution are kept: all of them at first; when the place is full, every
second of them, and so on.

The course of a long job shall be there from its begin to its end, in a bounded place. So nothing is
cut off at the beginning, and no age of it is thinner than another: what is kept is halved, and from
then on no more is taken than stays, which is one report in each `gap` of time. A report that isn't
taken costs nothing; halving looks at all that is kept, and makes room for as much again.

The first report is always there. The newest is in the registry's record anyway, and is put at the
end by whoever reads.

The Redis store has the same rule in Lua (``stores/history.lua``; one conformance suite holds all to
it).
"""

from __future__ import annotations

from collections.abc import Sequence

#: Bytes that the reports of an execution may take together, as they are stored. No more than 1,000
#: go into it: none is smaller than 24 bytes.
MAX_BYTES = 24_000


def starts_new_history(before: str | None, after: str | None) -> bool:
    """Whether an id is used again after its success (states before and after): another story, with
    a history of its own.
    """
    return before == "SUCCESS" and after != "SUCCESS"


def should_keep(gap: int, before: int | None, at: int) -> bool:
    """Whether a report is kept. All in microseconds: ``gap`` 0 while nothing was thinned out,
    ``before`` the last thing heard.
    """
    return not gap or before is None or at // gap != before // gap


def thin_out(sizes: Sequence[int], gap: int, span: int) -> tuple[range, int]:
    """Which stay of reports of these sizes, oldest first, and the gap from now on. ``span``:
    microseconds since the begin.

    Until half of the room is free, so that it is full again only after as much has come.
    """
    step, staying = 1, range(len(sizes))
    while len(staying) > 1 and (step == 1 or sum(sizes[n] for n in staying) > MAX_BYTES // 2):
        gap = max(1, 2 * gap, 2 * span // len(staying))
        step *= 2
        staying = range(0, len(sizes), step)
    return staying, gap
