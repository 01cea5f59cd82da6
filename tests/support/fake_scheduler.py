"""A scheduler and clock for unit tests. Time passes when the test says so."""

from __future__ import annotations

from collections.abc import Callable


class FakeScheduler:
    """Has the interface of `worker.scheduler`, and is a clock: calling it returns ``now``."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.due: list[tuple[float, Callable[[float], None]]] = []

    def __call__(self) -> float:
        return self.now

    def call_at(self, due: float, call: Callable[[float], None]) -> None:
        self.due.append((due, call))

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and make each call at its time."""
        self.pass_to(self.now + seconds)

    def pass_to(self, then: float) -> None:
        """Let time pass until ``then``, and make each call at its time."""
        while self.due and (soonest := min(self.due, key=lambda item: item[0]))[0] <= then:
            self.due.remove(soonest)
            self.now = max(self.now, soonest[0])
            soonest[1](self.now)
        self.now = then

    def jump_to(self, then: float) -> None:
        """Let time pass, and make all calls late, as after a suspended process resumes."""
        self.now = then
        for _, call in [self.due.pop(0) for _ in range(len(self.due))]:
            call(then)
