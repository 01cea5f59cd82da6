"""What many viewers cost the web process, beside a server that only broadcasts (the `websockets`
library's).

The viewers run in other processes (`tests.support.load_clients`). Only the server is measured.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Literal, Self

import psutil
import redis
import requests
from websocket import WebSocket, create_connection

from benchmarks.measure import Size
from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.load_clients import LoadClients, ViewerSpec, raise_file_limit
from tests.support.processes import Address, Process, WebServer
from tests.support.wait import until

APP = "benchmarks.web:create_app()"
MESSAGE = "a message of the usual length, as a task would write it"

#: Viewers of most benchmarks, and of `rest`.
VIEWERS = {Size.FULL: 1000, Size.QUICK: 200, Size.SMOKE: 20}
MOST = {Size.FULL: 5000, Size.QUICK: 500, Size.SMOKE: 20}
#: Rounds, and messages in one round.
ROUNDS = {Size.FULL: 12, Size.QUICK: 3, Size.SMOKE: 2}
MESSAGES = {Size.FULL: 20, Size.QUICK: 20, Size.SMOKE: 3}
#: Reports that `commands` counts.
REPORTS = {Size.FULL: 150, Size.QUICK: 30, Size.SMOKE: 5}
#: Seconds of `rest`.
SECONDS = {Size.FULL: 20.0, Size.QUICK: 4.0, Size.SMOKE: 0.5}
#: Seconds between two messages: enough for all viewers to get each one, so that none is merged.
PAUSE = 0.05
#: Seconds for all viewers to connect, or to get an end.
TIMEOUT = 180.0


class Broadcast(Process):
    """`baseline_broadcast` in its own process."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.baseline_broadcast"], name="broadcast")
        self.address: Address = ("127.0.0.1", 0)
        self._control: WebSocket | None = None

    def wait_ready(self) -> None:
        """Wait until it prints its port."""
        self.address = ("127.0.0.1", int(self.wait_log(r"^port (\d+)$")[1]))
        self._control = create_connection(f"ws://127.0.0.1:{self.address[1]}/control", timeout=60)

    def close(self) -> None:
        if self._control is not None:
            self._control.shutdown()
        super().close()

    def send(self, bodies: list[str]) -> None:
        """Send each body to all viewers."""
        assert self._control is not None
        self._control.send(json.dumps({"bodies": bodies, "pause": PAUSE}))
        self._control.recv()


class ViewedServer:
    """A server, and viewers that all watch one execution."""

    def __init__(
        self,
        process: psutil.Process,
        spec: ViewerSpec,
        clients: LoadClients,
        send: Callable[[int], None],
    ) -> None:
        self._process, self._spec, self._clients, self._send = process, spec, clients, send
        self._group = spec.path
        self._sent = 0

    @property
    def cpu(self) -> float:
        """Processor time of the server, seconds."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    @property
    def memory(self) -> int:
        """Resident memory of the server, bytes."""
        return int(self._process.memory_info().rss)

    def connect(self, count: int) -> None:
        """Connect more viewers; returns when each has its first frame."""
        total = self._clients.tally(self._group).open + count
        self._clients.open(self._spec, self._group, count)
        until(
            lambda: self._clients.tally(self._group).open == total,
            within=TIMEOUT,
            what=f"{count} viewers to connect",
        )

    def disconnect(self) -> None:
        """Disconnect all viewers."""
        self._clients.forget(self._group)

    @property
    def completed(self) -> int:
        """Viewers that got the ``completed`` frame."""
        return self._clients.tally(self._group).ends["completed"]

    def send(self, messages: int) -> int:
        """Send reports and wait until all viewers have the last one; returns their frames."""
        before = self._frames()
        self._send(messages)
        self._sent += messages
        until(self._all_received, within=60, what="the last report to reach all viewers")
        return self._frames() - before

    def _frames(self) -> int:
        return self._clients.tally(self._group).frames["progress"]

    def _all_received(self) -> bool:
        tally = self._clients.tally(self._group)
        return tally.currents[float(self._sent)] == tally.open


class Servers:
    """Headway (``ours``) and, with ``baseline``, the broadcast server (``theirs``), each with its
    own viewers. A context manager.
    """

    def __init__(
        self,
        url: str,
        kind: Literal["gevent", "gthread"] = "gevent",
        *,
        viewers: int,
        baseline: bool = True,
    ) -> None:
        self._url, self._kind, self._viewers, self._baseline = url, kind, viewers, baseline
        self._reports = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        raise_file_limit()
        limit = str(self._viewers * 3 // 2 + 10)
        option = "--worker-connections" if self._kind == "gevent" else "--threads"
        with ExitStack() as stack:
            self.server = stack.enter_context(
                WebServer(self._kind, APP, {"BENCH_URL": self._url}, [option, limit])
            )
            clients = stack.enter_context(LoadClients())
            self.execution: FakeExecution = FakeWorker.on(self._url).begin()
            (worker,) = self.server.descendants()
            self.path = f"/api/v1/executions/{self.execution.id}"
            spec = ViewerSpec(self.server.address, f"{self.path}/progress/ws")
            self.ours = ViewedServer(worker, spec, clients, self._report)
            if self._baseline:
                broadcast = stack.enter_context(Broadcast())
                self.theirs = ViewedServer(
                    psutil.Process(broadcast.pid),
                    ViewerSpec(broadcast.address, f"/{self.execution.id}"),
                    stack.enter_context(LoadClients()),
                    self._same_frames(broadcast),
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _report(self, messages: int) -> None:
        pause = threading.Event()
        for _ in range(messages):
            self._reports += 1
            self.execution.report(self._reports, 10_000, MESSAGE)
            pause.wait(PAUSE)

    def _same_frames(self, broadcast: Broadcast) -> Callable[[int], None]:
        """Sends frames of the same length as Headway's."""
        address = f"{self.server.ws_url}{self.path}/progress/ws"
        with closing(create_connection(address, timeout=30)) as viewer:
            viewer.recv()
            self.execution.report(0.5, 10_000, MESSAGE)
            body = json.loads(viewer.recv())
        sent = 0

        def send(messages: int) -> None:
            nonlocal sent
            bodies = []
            for _ in range(messages):
                sent += 1
                body["progress"]["current"] = sent
                bodies.append(json.dumps(body, separators=(",", ":")))
            broadcast.send(bodies)

        broadcast.send([json.dumps(body | {"type": "status"}, separators=(",", ":"))])
        return send


def delivery(url: str, size: Size) -> dict[str, list[float]]:
    """Processor time of the server per frame and viewer, seconds, for each round and side."""
    samples: dict[str, list[float]] = {"ours": [], "theirs": []}
    with Servers(url, viewers=VIEWERS[size]) as servers:
        sides = {"ours": servers.ours, "theirs": servers.theirs}
        for side in sides.values():
            side.connect(VIEWERS[size])
            side.send(MESSAGES[size])
        for number in range(ROUNDS[size]):
            for name in sorted(sides, reverse=bool(number % 2)):
                side = sides[name]
                before = side.cpu
                frames = side.send(MESSAGES[size])
                samples[name].append((side.cpu - before) / frames)
    return samples


def handshake(url: str, size: Size) -> dict[str, list[float]]:
    """Processor time of the server until a new viewer has its first frame, seconds, for each round
    and side.
    """
    samples: dict[str, list[float]] = {"ours": [], "theirs": []}
    count = VIEWERS[size] // 4
    with Servers(url, viewers=VIEWERS[size]) as servers:
        sides = {"ours": servers.ours, "theirs": servers.theirs}
        for number in range(ROUNDS[size] // 2 + 2):
            for name in sorted(sides, reverse=bool(number % 2)):
                side = sides[name]
                before = side.cpu
                side.connect(count)
                if number:  # the first round warms up
                    samples[name].append((side.cpu - before) / count)
                side.disconnect()
    return samples


def memory(url: str, size: Size) -> dict[str, float]:
    """Memory of the server per viewer that has received reports, bytes."""
    count = VIEWERS[size]
    with Servers(url, viewers=count + 50) as servers:
        samples = {
            "theirs": _memory_each(servers.theirs, count),
            "gevent": _memory_each(servers.ours, count),
        }
    with Servers(url, "gthread", viewers=count + 50, baseline=False) as servers:
        samples["gthread"] = _memory_each(servers.ours, count)
    return samples


def _memory_each(server: ViewedServer, count: int) -> float:
    server.connect(20)  # the first viewers also pay for what is created on first use
    server.send(2)
    before = server.memory
    server.connect(count)
    server.send(5)
    return (server.memory - before) / count


def commands(url: str, size: Size) -> dict[int, float]:
    """Commands that the Redis server processes per report, by number of viewers. Ten reports per
    second; per report and not per second, because a busy machine makes fewer of both.
    """
    samples: dict[int, float] = {}
    pause = threading.Event()
    with (
        Servers(url, viewers=VIEWERS[size], baseline=False) as servers,
        closing(redis.Redis.from_url(url)) as client,
    ):
        for count in (1, VIEWERS[size]):
            servers.ours.connect(count - len(samples))
            before = client.info("stats")["total_commands_processed"]
            for _ in range(REPORTS[size]):
                servers.ours.send(1)
                pause.wait(0.1 - PAUSE)
            processed = client.info("stats")["total_commands_processed"] - before - 1
            samples[count] = processed / REPORTS[size]
    return samples


def rest(url: str, size: Size) -> dict[str, list[float]]:
    """Seconds of a GET of an execution: on a server with `MOST` viewers and two reports per second,
    and on a server without viewers.

    Raises ``AssertionError`` if a viewer does not get the end.
    """
    samples: dict[str, list[float]] = {"ours": [], "idle": []}
    count = MOST[size]
    with (
        Servers(url, viewers=count, baseline=False) as servers,
        WebServer("gevent", APP, {"BENCH_URL": url}) as idle,
        requests.Session() as session,
    ):
        servers.ours.connect(count)
        with reporting(servers.execution):
            deadline = time.monotonic() + SECONDS[size]
            while time.monotonic() < deadline:
                for name, server in (("ours", servers.server), ("idle", idle)):
                    start = time.perf_counter()
                    assert session.get(server.url + servers.path, timeout=60).status_code == 200
                    samples[name].append(time.perf_counter() - start)
        servers.execution.succeed()
        until(
            lambda: servers.ours.completed == count,
            within=TIMEOUT,
            what="the end to reach all viewers",
        )
    return samples


@contextmanager
def reporting(execution: FakeExecution) -> Iterator[None]:
    """Reports twice per second within the block."""
    stop = threading.Event()

    def report() -> None:
        number = 0
        while not stop.wait(0.5):
            number += 1
            execution.report(number, 10_000, MESSAGE)

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
