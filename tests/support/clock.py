"""A clock for unit tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """Returns the same time until the test lets time pass."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)
