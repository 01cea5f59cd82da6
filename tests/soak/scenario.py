"""One execution of the soak test, and its audience: who comes early, in the middle and late, who
leaves, and who hangs.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.load_clients import LoadClients, Tally, ViewerSpec
from tests.support.processes import Address

#: Reports of one execution.
STEPS = 20
#: Seconds after an execution's end in which all who look on must have been told, and be gone.
PATIENCE = 90.0

#: How executions end: the method of `FakeExecution` that does it, and the frame that tells it.
ENDINGS = (("succeed", "completed"), ("fail", "failed"), ("revoke", "cancelled"))


@dataclass(frozen=True)
class Audience:
    """How many of each kind look at one execution."""

    #: Over WebSocket: before its start, in its middle, just before its end. They read to the end,
    #: but for those who leave.
    early: int
    middle: int
    late: int
    #: Over server-sent events, in its middle.
    events: int
    #: Read nothing.
    hang: int
    #: Of the early ones, leave in the middle: with a close, and without a word.
    close: int
    vanish: int

    @classmethod
    def of(cls, size: int) -> Audience:
        """So many in all."""
        few = max(1, size // 25)
        rest = size - 2 * few
        return cls(
            rest - 2 * (rest // 4),
            rest // 4,
            rest // 4,
            events=few,
            hang=few,
            close=few,
            vanish=few,
        )


class Show:
    """One execution. `step` is called again and again until it says that all is over."""

    def __init__(
        self, runs: FakeWorker, fleet: LoadClients, server: Address, audience: Audience, number: int
    ) -> None:
        self.run: FakeExecution = runs.publish()
        self._fleet, self._server, self._audience = fleet, server, audience
        self._how, self._ending = ENDINGS[number % len(ENDINGS)]
        self._step = 0
        self._left: Counter[str] = Counter()
        self._ended_at: float | None = None
        #: What was shown that wasn't so, or wasn't shown at all.
        self.faults: list[str] = []
        self._come("sockets", audience.early)
        if audience.hang:
            fleet.open(
                ViewerSpec(server, self._path("ws"), manner="hang"),
                f"{self.run.id} hang",
                audience.hang,
            )

    def step(self) -> bool:
        """Let something happen; True where all are gone, and what they were told has been looked
        at.
        """
        if self._ended_at is not None:
            return self._look_back(self._ended_at)
        self._step += 1
        if self._step == 1:
            self.run.open()
        elif self._step == STEPS // 2:
            self._come("sockets", self._audience.middle)
            self._come("events", self._audience.events)
            self._left["close"] = self._fleet.leave(
                f"{self.run.id} sockets", self._audience.close, "close"
            )
            self._left["vanish"] = self._fleet.leave(
                f"{self.run.id} sockets", self._audience.vanish, "vanish"
            )
        elif self._step == STEPS:
            self._come("sockets", self._audience.late)
        self.run.report(self._step, STEPS, f"step {self._step} of the soak test")
        if self._step == STEPS:
            self._end()
        return False

    @property
    def tallies(self) -> Sequence[Tally]:
        """Of the sockets and of the event streams."""
        return [self._fleet.tally(f"{self.run.id} {group}") for group in ("sockets", "events")]

    def _end(self) -> None:
        if self._how == "revoke":
            said = {
                "exc_type": "TaskRevokedError",
                "exc_message": ["revoked"],
                "exc_module": "celery.exceptions",
            }
            self.run.write("REVOKED", said)
        else:
            getattr(self.run, self._how)()
        self._ended_at = time.monotonic()

    def _look_back(self, ended_at: float) -> bool:
        sockets, events = self.tallies
        over = not any(tally.waiting or tally.silent or tally.open for tally in (sockets, events))
        if not over and time.monotonic() - ended_at < PATIENCE:
            return False
        audience = self._audience
        stayed = audience.early + audience.middle + audience.late - self._left.total()
        if not over:
            self._fault(f"after {PATIENCE:g} s there still were {sockets} and {events}")
        if sockets.ends != {self._ending: stayed} or events.ends != {self._ending: audience.events}:
            self._fault(
                f"{stayed} sockets and {audience.events} event streams were owed {self._ending}: {sockets} {events}"
            )
        if sockets.closes != {1000: stayed}:
            self._fault(f"the sockets closed with {dict(sockets.closes)}")
        self.faults += sockets.faults + events.faults
        return True

    def _come(self, group: str, count: int) -> None:
        skin, path = ("websocket", "ws") if group == "sockets" else ("events", "events")
        self._fleet.open(
            ViewerSpec(self._server, self._path(path), skin), f"{self.run.id} {group}", count
        )  # type: ignore[arg-type]

    def _path(self, skin: str) -> str:
        return f"/api/v1/executions/{self.run.id}/progress/{skin}"

    def _fault(self, text: str) -> None:
        self.faults.append(f"{self.run.id}: {text}")
