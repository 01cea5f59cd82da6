"""A scheduler for unit tests. Time passes when the test says so."""

from __future__ import annotations

from collections.abc import Callable


class FakeScheduler:
    """Has the interface of `worker.scheduler`. The test sets its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[float], None]]] = []

    def call_at(self, due: float, call: Callable[[float], None]) -> None:
        self.due.append((due, call))

    def pass_to(self, then: float) -> None:
        """Let time pass, and make each call at its time."""
        while self.due and self.due[0][0] <= then:
            self.now, call = self.due.pop(0)
            call(self.now)
        self.now = then

    def jump_to(self, then: float) -> None:
        """Let time pass, and make all calls late, as after a suspended process resumes."""
        self.now = then
        for _, call in [self.due.pop(0) for _ in range(len(self.due))]:
            call(then)
