"""The soak test, small: hundreds of viewers for some seconds (``make soak``: thousands for
minutes).
"""

from __future__ import annotations

from tests.soak.run import SMALL, soak


def test_nobody_misses_an_end_and_nothing_is_left() -> None:
    """Viewers come, leave, vanish and hang; whoever stays is told every end, and nothing of them is
    left.
    """
    outcome = soak(SMALL)
    assert not outcome.faults, "\n".join(outcome.faults)
