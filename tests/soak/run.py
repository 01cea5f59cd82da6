"""The whole soak test: waves of viewers, then executions with their audiences side by side, and a
final check that all resources were released.
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
from tests.soak.environment import Resources
from tests.soak.scenario import STEPS, Audience, Scenario
from tests.support.fake_worker import FakeWorker
from tests.support.load_clients import LoadClients, Tally, ViewerSpec, raise_file_limit
from tests.support.processes import WebServer
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

APP = "tests.soak.app:create_app()"

#: The part of the viewers' memory that the process may keep: allocators don't return all of it.
MAX_KEPT = 0.25
#: Bytes of normal variation. A few hundred viewers need less.
SLACK = 8 * 2**20


@dataclass(frozen=True)
class Size:
    """The size of the test."""

    #: Viewers at a time.
    viewers: int
    #: Executions at a time.
    concurrent: int
    #: The total number of executions, which bounds the test.
    executions: int
    #: Processes of viewers.
    client_processes: int
    #: The shortest time between two steps of an execution, in seconds.
    step_interval: float
    #: The server's ``ping_interval``: it finds a hanging viewer after twice that time.
    ping_interval: float
    #: Seconds for a wave of viewers to connect, or to disappear. `until` scales it.
    wave_timeout: float


FULL = Size(
    viewers=5000,
    concurrent=50,
    executions=250,
    client_processes=3,
    step_interval=1.0,
    ping_interval=5.0,
    wave_timeout=180.0,
)
SMALL = Size(
    viewers=200,
    concurrent=8,
    executions=24,
    client_processes=1,
    step_interval=0.15,
    ping_interval=5.0,
    wave_timeout=120.0,
)


@dataclass
class Outcome:
    """The result of the test."""

    #: What was wrong. Empty: nothing.
    violations: list[str] = field(default_factory=list)
    #: The lines of the table: name and value.
    lines: list[tuple[str, str]] = field(default_factory=list)


def soak(size: Size, log: Callable[[str], object] = lambda text: None) -> Outcome:
    """Run the test. Raises ``AssertionError`` if it can't continue."""
    raise_file_limit()
    started, outcome = time.monotonic(), Outcome()
    with ExitStack() as stack:
        backend = stack.enter_context(ValkeyServer())
        env = {"SOAK_BACKEND": backend.url, "HEADWAY_PING_INTERVAL": str(size.ping_interval)}
        args = ["--worker-connections", str(size.viewers * 3 // 2), "--graceful-timeout", "20"]
        server = stack.enter_context(WebServer("gevent", APP, env, args))
        clients = [stack.enter_context(LoadClients()) for _ in range(size.client_processes)]
        test = SoakTest(size, server, backend, clients, outcome)
        test.wave(max(1, size.viewers // 50))  # warms up: objects made on first use are no leak
        empty, empty_bytes = test.wait_until_empty(), test.resident_bytes()
        log(f"an idle process has {empty_bytes / 2**20:.0f} MiB")
        test.wave(size.viewers)
        test.wait_until_empty(empty)
        first_bytes = test.resident_bytes()
        log(
            f"{test.peak_bytes / 2**20:.0f} MiB with {size.viewers} viewers, "
            f"{first_bytes / 2**20:.0f} MiB after them"
        )
        test.run_scenarios(log)
        test.wait_until_empty(empty)
        last_bytes = test.resident_bytes()
        used = test.peak_bytes - empty_bytes
        if last_bytes - first_bytes > max(SLACK, MAX_KEPT * used):
            outcome.violations.append(
                f"memory grew from {first_bytes} to {last_bytes} bytes; "
                f"all viewers together used {used}"
            )
        test.summarize(empty_bytes, first_bytes, last_bytes)
        if "Traceback" in server.log():
            outcome.violations.append(
                f"there is a traceback in the server's log:\n{server.log()[-4000:]}"
            )
    outcome.lines.append(("seconds", f"{time.monotonic() - started:.0f}"))
    return outcome


class SoakTest:
    """One web process, its backend and its viewers."""

    def __init__(
        self,
        size: Size,
        server: WebServer,
        backend: ValkeyServer,
        clients: list[LoadClients],
        outcome: Outcome,
    ) -> None:
        self._size, self._server, self._backend = size, server, backend
        self._clients, self._outcome = clients, outcome
        self._worker = FakeWorker.on(backend.url)
        self._process = environment.process_of(server)
        #: Seconds that each REST request took.
        self._rest_times: list[float] = []
        self._total = Tally()
        self._finished = 0
        #: The maximum of viewers at the same time, and of the process's memory.
        self.max_viewers = 0
        self.peak_bytes = 0

    def resident_bytes(self) -> int:
        """The memory of the process now."""
        now: int = self._process.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, now)
        return now

    def wave(self, viewers: int) -> None:
        """Connect all viewers to one execution, end it, and wait until all are gone."""
        execution = self._worker.begin().report(1, 2)
        each, more = divmod(viewers, len(self._clients))
        path = f"/api/v1/executions/{execution.id}/progress/ws"
        spec = ViewerSpec(self._server.address, path)
        for number, clients in enumerate(self._clients):
            clients.open(spec, execution.id, each + (number < more))

        def total() -> Tally:
            return sum((clients.tally(execution.id) for clients in self._clients), Tally())

        until(
            lambda: total().open == viewers,
            within=self._size.wave_timeout,
            what=f"{viewers} viewers to connect",
        )
        self.max_viewers = max(self.max_viewers, viewers)
        self.resident_bytes()
        execution.succeed()
        until(
            lambda: total().closes.total() == viewers,
            within=self._size.wave_timeout,
            what="all viewers to receive the end",
        )
        tally = total()
        if tally.ends != {"completed": viewers} or tally.closes != {1000: viewers}:
            self._outcome.violations.append(f"a wave of {viewers} viewers ended with {tally}")
        self._outcome.violations += tally.violations
        self._total += tally

    def wait_until_empty(self, before: Resources | None = None) -> Resources:
        """Wait until there are no viewers and nothing has grown since ``before``."""
        now = environment.measure(self._server, self._backend)

        def left() -> dict[str, str]:
            nonlocal now
            now = environment.measure(self._server, self._backend)
            grown = {} if before is None else now.growth_since(before)
            return grown | {
                name: str(getattr(now, name))
                for name in ("viewers", "watched", "channels")
                if getattr(now, name)
            }

        try:
            until(lambda: not left(), within=self._size.wave_timeout)
        except AssertionError:
            self._outcome.violations.append(f"not released: {left()}")
        return now

    def run_scenarios(self, log: Callable[[str], object]) -> None:
        """Run all executions, some side by side, each with its audience."""
        size = self._size
        audience = Audience.of(size.viewers // size.concurrent)
        running: deque[Scenario] = deque()
        started, logged_at, pause = 0, time.monotonic(), threading.Event()
        while started < size.executions or running:
            round_at = time.monotonic()
            # Start a few in each round, so that they don't all start and end together.
            for _ in range(max(1, size.concurrent // STEPS)):
                if started < size.executions and len(running) < size.concurrent:
                    clients = self._clients[started % len(self._clients)]
                    address = self._server.address
                    running.append(Scenario(self._worker, clients, address, audience, started))
                    started += 1
            for scenario in [running.popleft() for _ in range(len(running))]:
                if scenario.step():
                    self._outcome.violations += scenario.violations
                    self._total = sum(scenario.tallies, self._total)
                    self._finished += 1
                else:
                    running.append(scenario)
            if running:
                self._request(running[0].execution.id)
            if time.monotonic() - logged_at > 15:
                logged_at = time.monotonic()
                log(f"{self._finished} of {size.executions} executions have ended")
            pause.wait(max(0.0, size.step_interval - (time.monotonic() - round_at)))

    def summarize(self, empty: int, first: int, last: int) -> None:
        """Add the lines of the table. All three numbers are bytes."""
        numbers = environment.metrics(self._server)
        total, mib = self._total, 2.0**20
        hung = self._finished * Audience.of(self._size.viewers // self._size.concurrent).hang
        self._outcome.lines += [
            ("viewers at the same time, max.", f"{self.max_viewers}"),
            ("executions", f"{self._finished}"),
            ("viewers, total", f"{total.ends.total() + total.left + hung}"),
            ("  received the end", f"{total.ends.total()}"),
            ("  left before the end", f"{total.left}"),
            ("  hung, reading nothing", f"{hung}"),
            ("  disconnected as slow (4408)", f"{numbers['headway_viewers_cut_off_total']:.0f}"),
            ("frames sent", f"{numbers['headway_frames_total']:.0f}"),
            ("  merged", f"{numbers['headway_frames_merged_total']:.0f}"),
            ("  dropped with their viewers", f"{numbers['headway_frames_dropped_total']:.0f}"),
            ("reads of the result backend", f"{numbers['headway_backend_reads_total']:.0f}"),
            ("REST request, median", f"{statistics.median(self._rest_times) * 1000:.0f} ms"),
            ("  max.", f"{max(self._rest_times) * 1000:.0f} ms"),
            ("memory, idle", f"{empty / mib:.0f} MiB"),
            ("  max.", f"{self.peak_bytes / mib:.0f} MiB"),
            ("  after the first wave", f"{first / mib:.0f} MiB"),
            ("  at the end", f"{last / mib:.0f} MiB"),
        ]

    def _request(self, execution_id: str) -> None:
        """The server answers REST requests beside the streams."""
        sent_at = time.monotonic()
        # A new connection each time: the server may close an idle one just as it is used again.
        response = requests.get(
            f"{self._server.url}/api/v1/executions/{execution_id}", timeout=RESPONSE_TIMEOUT
        )
        self._rest_times.append(time.monotonic() - sent_at)
        # 503: the backend was slower than the server's time limit.
        if response.status_code not in (200, 503):
            self._outcome.violations.append(
                f"REST returned {response.status_code}: {response.text[:200]}"
            )
        viewers = environment.open_streams(environment.metrics(self._server))
        self.max_viewers = max(self.max_viewers, viewers)
        self.resident_bytes()
