"""One execution of the soak test and its viewers: some come early, in the middle or late, some
leave, and some hang.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.load_clients import LoadClients, Tally, ViewerSpec
from tests.support.processes import Address
from tests.support.timing import seconds

#: Reports of one execution.
STEPS = 20
#: Seconds for all viewers to receive the end of an execution and to disconnect.
END_TIMEOUT = seconds(90.0)

#: How executions end: the method of `FakeExecution`, and the type of the terminal frame.
ENDINGS = (("succeed", "completed"), ("fail", "failed"), ("revoke", "cancelled"))


@dataclass(frozen=True)
class Audience:
    """The number of viewers of one execution, by kind."""

    #: Over WebSocket: before the start, in the middle, just before the end. All read to the end,
    #: except those that leave.
    early: int
    middle: int
    late: int
    #: Over server-sent events, in the middle.
    events: int
    #: Read nothing.
    hang: int
    #: Early viewers that leave in the middle, by a close or by a reset.
    close: int
    reset: int

    @classmethod
    def of(cls, size: int) -> Audience:
        """An audience of ``size`` viewers."""
        few = max(1, size // 25)
        rest = size - 2 * few
        return cls(
            rest - 2 * (rest // 4),
            rest // 4,
            rest // 4,
            events=few,
            hang=few,
            close=few,
            reset=few,
        )


class Scenario:
    """One execution. Call `step` until it returns True."""

    def __init__(
        self,
        worker: FakeWorker,
        clients: LoadClients,
        server: Address,
        audience: Audience,
        number: int,
    ) -> None:
        self.execution: FakeExecution = worker.publish()
        self._clients, self._server, self._audience = clients, server, audience
        self._method, self._end_frame = ENDINGS[number % len(ENDINGS)]
        self._step = 0
        self._left: Counter[str] = Counter()
        self._ended_at: float | None = None
        #: What the viewers received wrongly, or did not receive.
        self.violations: list[str] = []
        self._join("sockets", audience.early)
        if audience.hang:
            clients.open(
                ViewerSpec(server, self._path("ws"), behaviour="hang"),
                f"{self.execution.id} hang",
                audience.hang,
            )

    def step(self) -> bool:
        """Make the next event. True as soon as all viewers are gone and checked."""
        if self._ended_at is not None:
            return self._check(self._ended_at)
        self._step += 1
        if self._step == 1:
            self.execution.open()
        elif self._step == STEPS // 2:
            self._join("sockets", self._audience.middle)
            self._join("events", self._audience.events)
            sockets = f"{self.execution.id} sockets"
            self._left["close"] = self._clients.leave(sockets, self._audience.close, "close")
            self._left["reset"] = self._clients.leave(sockets, self._audience.reset, "reset")
        elif self._step == STEPS:
            self._join("sockets", self._audience.late)
        self.execution.report(self._step, STEPS, f"step {self._step} of the soak test")
        if self._step == STEPS:
            self._end()
        return False

    @property
    def tallies(self) -> Sequence[Tally]:
        """The tallies of the sockets and of the event streams."""
        return [
            self._clients.tally(f"{self.execution.id} {group}") for group in ("sockets", "events")
        ]

    def _end(self) -> None:
        if self._method == "revoke":
            error = {
                "exc_type": "TaskRevokedError",
                "exc_message": ["revoked"],
                "exc_module": "celery.exceptions",
            }
            self.execution.write("REVOKED", error)
        else:
            getattr(self.execution, self._method)()
        self._ended_at = time.monotonic()

    def _check(self, ended_at: float) -> bool:
        sockets, events = self.tallies
        over = not any(tally.waiting or tally.silent or tally.open for tally in (sockets, events))
        if not over and time.monotonic() - ended_at < END_TIMEOUT:
            return False
        audience = self._audience
        stayed = audience.early + audience.middle + audience.late - self._left.total()
        if not over:
            self._violation(f"still connected after {END_TIMEOUT:g} s: {sockets} {events}")
        if sockets.ends != {self._end_frame: stayed} or events.ends != {
            self._end_frame: audience.events
        }:
            self._violation(
                f"{stayed} sockets and {audience.events} event streams should have received "
                f"{self._end_frame}: {sockets} {events}"
            )
        if sockets.closes != {1000: stayed}:
            self._violation(f"the close codes were {dict(sockets.closes)}")
        self.violations += sockets.violations + events.violations
        return True

    def _join(self, group: str, count: int) -> None:
        if group == "sockets":
            spec = ViewerSpec(self._server, self._path("ws"))
        else:
            spec = ViewerSpec(self._server, self._path("events"), "events")
        self._clients.open(spec, f"{self.execution.id} {group}", count)

    def _path(self, endpoint: str) -> str:
        return f"/api/v1/executions/{self.execution.id}/progress/{endpoint}"

    def _violation(self, text: str) -> None:
        self.violations.append(f"{self.execution.id}: {text}")
