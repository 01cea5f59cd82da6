"""A small soak test: some hundred viewers (``make soak``: thousands)."""

from __future__ import annotations

from tests.soak.run import SMALL, soak


def test_viewers_receive_every_end_and_release_all_resources() -> None:
    """Viewers connect, leave, reset and hang. The others receive every end, and nothing leaks."""
    outcome = soak(SMALL)
    assert not outcome.violations, "\n".join(outcome.violations)
