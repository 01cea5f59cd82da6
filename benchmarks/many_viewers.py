"""What many viewers cost the web process, beside a server that does no more than to tell them (the
``websockets`` library's own).

The viewers are `tests.support.load_clients`'s, in processes of their own; what is measured is the
server's.
"""

from __future__ import annotations

import json
import statistics
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

from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.load_clients import LoadClients, ViewerSpec, raise_file_limit
from tests.support.processes import Address, Process, WebServer
from tests.support.wait import until

APP = "benchmarks.web:create_app()"

#: Viewers of most of these; and of the largest crowd. Usually, and with --quick.
VIEWERS = {False: 1000, True: 200}
MOST = {False: 5000, True: 500}
#: Rounds, and messages in one.
ROUNDS = {False: 12, True: 3}
MESSAGES = 20
#: Seconds between two messages: enough for all viewers to be told, so that none is merged.
PAUSE = 0.05
#: Seconds that a crowd may take to come.
PATIENCE = 180.0


class Broadcast(Process):
    """The other side, in a process of its own."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.baseline_broadcast"], name="broadcast")
        self.address: Address = ("127.0.0.1", 0)
        self._control: WebSocket | None = None

    def wait_ready(self) -> None:
        """It says its port."""
        self.address = ("127.0.0.1", int(self.wait_log(r"^port (\d+)$")[1]))
        self._control = create_connection(f"ws://127.0.0.1:{self.address[1]}/control", timeout=60)

    def close(self) -> None:
        if self._control is not None:
            self._control.shutdown()
        super().close()

    def tell(self, bodies: list[str]) -> None:
        """Tell all of it to all."""
        assert self._control is not None
        self._control.send(json.dumps({"bodies": bodies, "pause": PAUSE}))
        self._control.recv()


class Side:
    """One server, and a crowd that looks at one execution."""

    def __init__(
        self,
        process: psutil.Process,
        look: ViewerSpec,
        fleet: LoadClients,
        tell: Callable[[int], None],
    ) -> None:
        self.process, self._look, self._fleet, self._tell = process, look, fleet, tell
        self._told = 0

    @property
    def cpu(self) -> float:
        """Seconds of a processor that the server has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def memory(self) -> int:
        """Bytes that it holds."""
        return int(self.process.memory_info().rss)

    def come(self, count: int) -> None:
        """So many more viewers; returns when each has been told something."""
        there = self._fleet.tally(self._group).open
        self._fleet.open(self._look, self._group, count)
        until(
            lambda: self._fleet.tally(self._group).open == there + count,
            within=PATIENCE,
            what=f"{count} viewers to be there",
        )

    def go(self) -> None:
        """All leave; returns when they have."""
        self._fleet.forget(self._group)

    @property
    def ends(self) -> int:
        """How many were told that it is completed."""
        return self._fleet.tally(self._group).ends["completed"]

    def tell(self, messages: int) -> int:
        """Tell so many reports to all, and wait until all have the last; returns how many frames
        that were.
        """
        before = self._frames()
        self._tell(messages)
        self._told += messages
        until(self._all_told, within=60, what="the last report to be everywhere")
        return self._frames() - before

    @property
    def _group(self) -> str:
        return self._look.path

    def _frames(self) -> int:
        return self._fleet.tally(self._group).frames["progress"]

    def _all_told(self) -> bool:
        tally = self._fleet.tally(self._group)
        return tally.currents[float(self._told)] == tally.open


class Stage:
    """Headway and, where it is wanted, the other side, each with viewers of its own. A context
    manager.
    """

    def __init__(
        self,
        url: str,
        kind: Literal["gevent", "gthread"] = "gevent",
        *,
        seats: int,
        other: bool = True,
    ) -> None:
        self._url, self._kind, self._seats, self._other = url, kind, seats, other
        self._said = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        raise_file_limit()
        room = str(self._seats * 3 // 2)
        args = ["--worker-connections", room] if self._kind == "gevent" else ["--threads", room]
        with ExitStack() as stack:
            #: The web server with Headway.
            self.server = stack.enter_context(
                WebServer(self._kind, APP, {"BENCH_URL": self._url}, args)
            )
            fleet = stack.enter_context(LoadClients())
            #: The execution that all look at.
            self.run: FakeExecution = FakeWorker.on(self._url).begin()
            (worker,) = self.server.descendants()
            look = ViewerSpec(self.server.address, f"/api/v1/executions/{self.run.id}/progress/ws")
            self.ours = Side(worker, look, fleet, self._report)
            if self._other:
                broadcast = stack.enter_context(Broadcast())
                look = ViewerSpec(broadcast.address, f"/{self.run.id}")
                self.theirs = Side(
                    psutil.Process(broadcast.pid),
                    look,
                    stack.enter_context(LoadClients()),
                    self._same(broadcast),
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _report(self, messages: int) -> None:
        pause = threading.Event()
        for _ in range(messages):
            self._said += 1
            self.run.report(self._said, 10_000, "a report of usual length, as a task would make it")
            pause.wait(PAUSE)

    def _same(self, broadcast: Broadcast) -> Callable[[int], None]:
        """Frames as long as ours, to the byte."""
        with closing(
            create_connection(
                f"{self.server.ws_url}/api/v1/executions/{self.run.id}/progress/ws", timeout=30
            )
        ) as viewer:
            viewer.recv()
            self.run.report(0.5, 10_000, "a report of usual length, as a task would make it")
            body = json.loads(viewer.recv())
        said = 0

        def tell(messages: int) -> None:
            nonlocal said
            bodies = []
            for _ in range(messages):
                said += 1
                body["progress"]["current"] = said
                bodies.append(json.dumps(body, separators=(",", ":")))
            broadcast.tell(bodies)

        tell(0)
        broadcast.tell([json.dumps(body | {"type": "status"}, separators=(",", ":"))])
        return tell


def delivery(url: str, *, quick: bool) -> dict[str, list[float]]:
    """Seconds of the server's processor for one frame that reached one viewer, per round and side."""
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    with Stage(url, seats=VIEWERS[quick]) as stage:
        sides = {"ours": stage.ours, "theirs": stage.theirs}
        for side in sides.values():
            side.come(VIEWERS[quick])
            side.tell(MESSAGES)
        for number in range(ROUNDS[quick]):
            for name in sorted(sides, reverse=bool(number % 2)):
                side = sides[name]
                before = side.cpu
                frames = side.tell(MESSAGES)
                taken[name].append((side.cpu - before) / frames)
    return taken


def handshake(url: str, *, quick: bool) -> dict[str, list[float]]:
    """Seconds of the server's processor until a viewer has been told its first frame, per round and
    side.
    """
    taken: dict[str, list[float]] = {"ours": [], "theirs": []}
    count = VIEWERS[quick] // 4
    with Stage(url, seats=VIEWERS[quick]) as stage:
        sides = {"ours": stage.ours, "theirs": stage.theirs}
        for number in range(ROUNDS[quick] // 2 + 2):
            for name in sorted(sides, reverse=bool(number % 2)):
                side = sides[name]
                before = side.cpu
                side.come(count)
                if number:  # the first is to warm up
                    taken[name].append((side.cpu - before) / count)
                side.go()
    return taken


def memory(url: str, *, quick: bool) -> dict[str, float]:
    """Bytes of the server for one viewer that looks on and has been told some reports."""
    count, taken = VIEWERS[quick], {}
    for kind in ("gevent", "gthread"):
        with Stage(url, kind, seats=count + 50, other=kind == "gevent") as stage:
            taken[kind] = _held(stage.ours, count)
            if kind == "gevent":
                taken["theirs"] = _held(stage.theirs, count)
    return taken


def _held(side: Side, count: int) -> float:
    side.come(20)  # what is made on first use is no viewer's
    side.tell(2)
    before = side.memory
    side.come(count)
    side.tell(5)
    return (side.memory - before) / count


def commands(url: str, *, quick: bool) -> dict[int, float]:
    """Commands that the server of the backend has answered for each of ten reports a second, by the
    number of viewers.

    For a report, not in a second: a busy machine makes fewer of both.
    """
    taken: dict[int, float] = {}
    reports = 30 if quick else 150
    with (
        Stage(url, seats=VIEWERS[quick], other=False) as stage,
        closing(redis.Redis.from_url(url)) as client,
    ):
        pause = threading.Event()
        for count in (1, VIEWERS[quick]):
            stage.ours.come(count - len(taken))
            before = client.info("stats")["total_commands_processed"]
            for _ in range(reports):
                stage.ours.tell(1)
                pause.wait(0.1 - PAUSE)
            asked = client.info("stats")["total_commands_processed"] - before - 1
            taken[count] = asked / reports
    return taken


def rest(url: str, *, quick: bool) -> dict[str, list[float]]:
    """Seconds of one GET of an execution: beside the largest crowd with two reports a second, and
    at a server without any.

    Raises ``AssertionError`` where one of the crowd wasn't told the end.
    """
    taken: dict[str, list[float]] = {"ours": [], "empty": []}
    count = MOST[quick]
    with (
        Stage(url, seats=count, other=False) as stage,
        WebServer("gevent", APP, {"BENCH_URL": url}) as empty,
        requests.Session() as session,
    ):
        stage.ours.come(count)
        path = f"/api/v1/executions/{stage.run.id}"
        with reporting(stage.run):
            until_then = time.monotonic() + (4 if quick else 20)
            while time.monotonic() < until_then:
                for name, server in (("ours", stage.server), ("empty", empty)):
                    begin = time.perf_counter()
                    assert session.get(server.url + path, timeout=60).status_code == 200
                    taken[name].append(time.perf_counter() - begin)
        stage.run.succeed()
        until(lambda: stage.ours.ends == count, within=PATIENCE, what="all to be told the end")
    return taken


@contextmanager
def reporting(run: FakeExecution) -> Iterator[None]:
    """Two reports a second, for the block."""
    over = threading.Event()

    def report() -> None:
        number = 0
        while not over.wait(0.5):
            number += 1
            run.report(number, 10_000, "a report of usual length, as a task would make it")

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def percentile(taken: list[float], percent: int) -> float:
    """Of samples."""
    return statistics.quantiles(taken, n=100)[percent - 1]
