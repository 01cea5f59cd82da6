"""The whole: a wave of viewers to warm up, executions with their audiences side by side, and what
is left in the end.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import requests

from tests.soak import environment
from tests.soak.environment import Room
from tests.soak.scenario import STEPS, Audience, Show
from tests.support.fake_worker import FakeWorker
from tests.support.load_clients import LoadClients, Tally, ViewerSpec, raise_file_limit
from tests.support.processes import WebServer
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

APP = "tests.soak.app:create_app()"

#: Of what all viewers together took, this part may be kept when they have gone: allocators give
#: back what they like.
KEPT_AT_MOST = 0.25
#: Bytes that a process grows and shrinks by anyhow: more than a few hundred viewers take.
SLACK = 8 * 2**20


@dataclass(frozen=True)
class Size:
    """How much of it."""

    #: Viewers at a time, and executions that they look at.
    viewers: int
    side_by_side: int
    #: Executions in all: what bounds it.
    executions: int
    #: Processes of viewers.
    fleets: int
    #: Seconds between the steps of an execution, at least.
    pace: float
    #: The server's ``ping_interval``: one that hangs is found after twice as long.
    ping_interval: float
    #: Seconds that a wave may take to be there, or to be gone.
    patience: float


FULL = Size(
    viewers=5000,
    side_by_side=50,
    executions=250,
    fleets=3,
    pace=1.0,
    ping_interval=5.0,
    patience=180.0,
)
SMALL = Size(
    viewers=200,
    side_by_side=8,
    executions=24,
    fleets=1,
    pace=0.15,
    ping_interval=5.0,
    patience=120.0,
)


@dataclass
class Outcome:
    """What was seen."""

    #: Everything that wasn't as promised; empty: all of it was.
    faults: list[str] = field(default_factory=list)
    #: The lines of the table: what, and how much.
    lines: list[tuple[str, str]] = field(default_factory=list)


def soak(size: Size, say: Callable[[str], object] = lambda text: None) -> Outcome:
    """Run it. Raises ``AssertionError`` where it can't even go on."""
    raise_file_limit()
    begin, outcome = time.monotonic(), Outcome()
    with ExitStack() as stack:
        backend = stack.enter_context(ValkeyServer())
        env = {"SOAK_BACKEND": backend.url, "HEADWAY_PING_INTERVAL": str(size.ping_interval)}
        connections = [
            "--worker-connections",
            str(size.viewers * 3 // 2),
            "--graceful-timeout",
            "20",
        ]
        server = stack.enter_context(WebServer("gevent", APP, env, connections))
        fleets = [stack.enter_context(LoadClients()) for _ in range(size.fleets)]
        hall = Hall(size, server, backend, fleets, outcome)
        hall.wave(max(1, size.viewers // 50))  # what is made on first use is no leak
        empty, empty_bytes = hall.emptied(), hall.resident()
        say(f"an empty process holds {empty_bytes / 2**20:.0f} MiB")
        hall.wave(size.viewers)
        hall.emptied(empty)
        first_bytes = hall.resident()
        say(
            f"{size.viewers} viewers made that {hall.peak / 2**20:.0f} MiB, and left {first_bytes / 2**20:.0f} MiB"
        )
        hall.perform(say)
        hall.emptied(empty)
        last_bytes = hall.resident()
        took = hall.peak - empty_bytes
        if last_bytes - first_bytes > max(SLACK, KEPT_AT_MOST * took):
            outcome.faults.append(
                f"memory went from {first_bytes} to {last_bytes} bytes; all viewers together took {took}"
            )
        hall.tell(empty_bytes, first_bytes, last_bytes)
        if "Traceback" in server.log():
            outcome.faults.append(f"the server's log has a traceback:\n{server.log()[-4000:]}")
    outcome.lines.append(("seconds", f"{time.monotonic() - begin:.0f}"))
    return outcome


class Hall:
    """One web process and everybody around it."""

    def __init__(
        self,
        size: Size,
        server: WebServer,
        backend: ValkeyServer,
        fleets: list[LoadClients],
        outcome: Outcome,
    ) -> None:
        self._size, self._server, self._backend, self._fleets, self._outcome = (
            size,
            server,
            backend,
            fleets,
            outcome,
        )
        self._runs = FakeWorker.on(backend.url)
        self._process = environment.process_of(server)
        #: Seconds that REST took, each time.
        self._asked: list[float] = []
        self._total = Tally()
        self._shows = 0
        #: The most viewers at once, and the most bytes that the process held.
        self.most = 0
        self.peak = 0

    def resident(self) -> int:
        """Bytes that the process holds."""
        now: int = self._process.memory_info().rss
        self.peak = max(self.peak, now)
        return now

    def wave(self, viewers: int) -> None:
        """So many come to one execution, are told of its end, and go."""
        run = self._runs.begin().report(1, 2)
        each, more = divmod(viewers, len(self._fleets))
        look = ViewerSpec(self._server.address, f"/api/v1/executions/{run.id}/progress/ws")
        for number, fleet in enumerate(self._fleets):
            fleet.open(look, run.id, each + (number < more))

        def total() -> Tally:
            return sum((fleet.tally(run.id) for fleet in self._fleets), Tally())

        until(
            lambda: total().open == viewers,
            within=self._size.patience,
            what=f"{viewers} viewers to be there",
        )
        self.most = max(self.most, viewers)
        self.resident()
        run.succeed()
        until(
            lambda: total().closes.total() == viewers,
            within=self._size.patience,
            what="all of them to be told the end",
        )
        seen = total()
        if seen.ends != {"completed": viewers} or seen.closes != {1000: viewers}:
            self._outcome.faults.append(f"a wave of {viewers} saw {seen}")
        self._outcome.faults += seen.faults
        self._total += seen

    def emptied(self, before: Room | None = None) -> Room:
        """Wait until nobody is there and nothing is left of them."""
        now = environment.look(self._server, self._backend)

        def left() -> dict[str, str]:
            nonlocal now
            now = environment.look(self._server, self._backend)
            told = {} if before is None else now.left_since(before)
            return told | {
                name: str(getattr(now, name))
                for name in ("viewers", "watched", "channels")
                if getattr(now, name)
            }

        try:
            until(lambda: not left(), within=self._size.patience)
        except AssertionError:
            self._outcome.faults.append(f"was left in the room: {left()}")
        return now

    def perform(self, say: Callable[[str], object]) -> None:
        """All executions, some side by side, each with its audience."""
        size = self._size
        audience = Audience.of(size.viewers // size.side_by_side)
        running: deque[Show] = deque()
        begun, told_at, pause = 0, time.monotonic(), threading.Event()
        while begun < size.executions or running:
            round_at = time.monotonic()
            # At first one a round, so that they don't all begin and end together.
            starts = max(1, size.side_by_side // STEPS)
            for _ in range(starts):
                if begun < size.executions and len(running) < size.side_by_side:
                    fleet = self._fleets[begun % len(self._fleets)]
                    running.append(Show(self._runs, fleet, self._server.address, audience, begun))
                    begun += 1
            for show in [running.popleft() for _ in range(len(running))]:
                if show.step():
                    self._outcome.faults += show.faults
                    self._total = sum(show.tallies, self._total)
                    self._shows += 1
                else:
                    running.append(show)
            if running:
                self._ask(running[0].run.id)
            if time.monotonic() - told_at > 15:
                told_at = time.monotonic()
                say(f"{self._shows} of {size.executions} executions are over")
            pause.wait(max(0.0, size.pace - (time.monotonic() - round_at)))

    def tell(self, empty: int, first: int, last: int) -> None:
        """The lines of the table."""
        numbers = environment.metrics(self._server)
        total, mib = self._total, 2.0**20
        hung = self._shows * Audience.of(self._size.viewers // self._size.side_by_side).hang
        self._outcome.lines += [
            ("viewers at once, at most", f"{self.most}"),
            ("executions", f"{self._shows}"),
            ("viewers in all", f"{total.ends.total() + total.left + hung}"),
            ("  were owed an end, and told it", f"{total.ends.total()}"),
            ("  left without waiting for it", f"{total.left}"),
            ("  hung, reading nothing", f"{hung}"),
            ("  were cut off (4408)", f"{numbers['headway_viewers_cut_off_total']:.0f}"),
            ("frames told", f"{numbers['headway_frames_total']:.0f}"),
            ("  merged", f"{numbers['headway_frames_merged_total']:.0f}"),
            ("  dropped with who left or hung", f"{numbers['headway_frames_dropped_total']:.0f}"),
            ("reads of the result backend", f"{numbers['headway_backend_reads_total']:.0f}"),
            ("a GET beside them, median", f"{statistics.median(self._asked) * 1000:.0f} ms"),
            ("  at worst", f"{max(self._asked) * 1000:.0f} ms"),
            ("memory, empty", f"{empty / mib:.0f} MiB"),
            ("  at most", f"{self.peak / mib:.0f} MiB"),
            ("  after the first wave", f"{first / mib:.0f} MiB"),
            ("  in the end", f"{last / mib:.0f} MiB"),
        ]

    def _ask(self, execution_id: str) -> None:
        """REST is served beside the streams."""
        begin = time.monotonic()
        # A connection for each: one that rested for too long the server may close while it is being
        # written to.
        answer = requests.get(f"{self._server.url}/api/v1/executions/{execution_id}", timeout=60)
        self._asked.append(time.monotonic() - begin)
        if answer.status_code not in (
            200,
            503,
        ):  # 503: the backend was held up for longer than anybody waits for it
            self._outcome.faults.append(f"REST answered {answer.status_code}: {answer.text[:200]}")
        numbers = environment.metrics(self._server)
        viewers = int(
            sum(value for name, value in numbers.items() if name.startswith("headway_viewers{"))
        )
        self.most = max(self.most, viewers)
        self.resident()
