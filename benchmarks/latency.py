"""From an update in a task to a viewer's socket, beside the least that could do it by hand."""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing

import redis
from websocket import WebSocket, create_connection

from benchmarks import jobs
from tests.support.processes import Process, WebServer

#: Rounds, and messages of each way in a round: usually, and with --quick.
ROUNDS = {False: (12, 40), True: (4, 20)}
#: Seconds between two messages: more than ``BENCH_INTERVAL``, so that each update is written at
#: once.
PAUSE = 0.025
INTERVAL = 0.01


class Relay(Process):
    """The relay in a process of its own; ``url`` is its WebSocket."""

    def __init__(self, url: str, channel: str) -> None:
        super().__init__(
            [sys.executable, "-m", "benchmarks.baseline_relay", url, channel], name="relay"
        )
        self.url = ""

    def wait_ready(self) -> None:
        """It says its port."""
        port = self.wait_log(r"^port (\d+)$")[1]
        self.url = f"ws://127.0.0.1:{port}"


def measure(url: str, *, quick: bool) -> dict[str, list[float]]:
    """Seconds from the call in the task to the frame at the viewer, each sample of each way. A
    worker of ``jobs`` runs already.

    ``ours``; ``relay``: PUBLISH, and one process that passes it on to a WebSocket; ``pubsub``:
    PUBLISH to a subscriber; ``echo``: a word to a WebSocket server and back, as far apart as the
    updates: after 25 ms of rest all of it, the system included, takes three times as long as in a
    hot loop.
    """
    rounds, each = ROUNDS[quick]
    key = f"bench-{uuid.uuid4().hex}"
    taken: dict[str, list[float]] = {"ours": [], "relay": [], "pubsub": [], "echo": []}
    with (
        WebServer("gevent", "benchmarks.web:create_app()", env={"BENCH_URL": url}) as server,
        Relay(url, key) as relay,
        closing(redis.Redis.from_url(url, socket_timeout=None)) as client,
        closing(client.pubsub(ignore_subscribe_messages=True)) as listener,
    ):
        ended = jobs.sent("spoken", rounds, each, PAUSE, key, task_id=key)
        client.blpop([f"{key}-ready"], timeout=30)
        address = f"{server.url.replace('http', 'ws', 1)}/api/v1/executions/{key}/progress/ws"
        with (
            closing(create_connection(address, timeout=30)) as ours,
            closing(create_connection(relay.url, timeout=30)) as theirs,
        ):
            taken["echo"] = [_echo(theirs) for _ in range(rounds * each)]
            listener.subscribe(f"{key}-raw")
            listener.get_message(timeout=5)
            readers = [
                threading.Thread(target=_collect, args=(_frames(ours), taken["ours"])),
                threading.Thread(target=_collect, args=(_relayed(theirs), taken["relay"])),
                threading.Thread(target=_collect, args=(_published(listener), taken["pubsub"])),
            ]
            for reader in readers:
                reader.start()
            client.rpush(key, "go")
            for reader in readers:
                reader.join(timeout=120)
        ended(timeout=30)
    return taken


def _collect(arrivals: Iterator[tuple[int, str]], taken: list[float]) -> None:
    """When each came, and its stamp: the monotonic clock's at the sender, which is the same for all
    processes of a machine (Linux, macOS). What a viewer then does with it isn't counted.
    """
    for arrived, stamp in arrivals:
        taken.append((arrived - int(stamp)) / 1e9)


def _frames(socket: WebSocket) -> Iterator[tuple[int, str]]:
    while True:
        words, arrived = socket.recv(), time.monotonic_ns()
        frame = json.loads(words)
        if frame["type"] == "progress":
            yield arrived, frame["progress"]["message"]
        elif frame["type"] == "completed":
            return
        elif frame["type"] in ("failed", "cancelled", "error"):
            raise RuntimeError(f"the viewer's stream ended with {frame}")


def _relayed(socket: WebSocket) -> Iterator[tuple[int, str]]:
    while (words := socket.recv()) != "end":
        yield time.monotonic_ns(), str(words)


def _published(listener: redis.client.PubSub) -> Iterator[tuple[int, str]]:
    for message in listener.listen():
        arrived = time.monotonic_ns()
        if message["data"] == b"end":
            return
        yield arrived, message["data"].decode()


def _echo(socket: WebSocket) -> float:
    threading.Event().wait(PAUSE)
    begin = time.perf_counter()
    socket.send("word")
    socket.recv()
    return time.perf_counter() - begin
