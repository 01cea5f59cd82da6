"""The time from an update in a task to a viewer's socket, beside the least that does the same."""

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
from benchmarks.measure import Size
from tests.support.processes import Process, WebServer

#: Rounds, and messages of each way in a round.
ROUNDS = {Size.FULL: (12, 40), Size.QUICK: (4, 20), Size.SMOKE: (1, 4)}
#: Seconds between two messages, and the interval of updates: each update is written at once.
PAUSE = 0.025
INTERVAL = 0.01


class Relay(Process):
    """`baseline_relay` in its own process; ``url`` is its WebSocket."""

    def __init__(self, url: str, channel: str) -> None:
        super().__init__(
            [sys.executable, "-m", "benchmarks.baseline_relay", url, channel], name="relay"
        )
        self.url = ""

    def wait_ready(self) -> None:
        """Wait until it prints its port."""
        port = self.wait_log(r"^port (\d+)$")[1]
        self.url = f"ws://127.0.0.1:{port}"


def measure(url: str, size: Size) -> dict[str, list[float]]:
    """Seconds from the call in the task to the frame at the viewer, for each message of each way. A
    worker of `jobs` must run.

    ``ours``. ``relay``: PUBLISH, and a process that forwards it to a WebSocket. ``pubsub``: PUBLISH
    to a subscriber. ``echo``: a message to a WebSocket server and back, with the same pauses as the
    updates: after 25 ms of rest everything, also the system, takes three times as long as in a hot
    loop.
    """
    rounds, each = ROUNDS[size]
    key = f"bench-{uuid.uuid4().hex}"
    samples: dict[str, list[float]] = {"ours": [], "relay": [], "pubsub": [], "echo": []}
    with (
        WebServer("gevent", "benchmarks.web:create_app()", env={"BENCH_URL": url}) as server,
        Relay(url, key) as relay,
        closing(redis.Redis.from_url(url, socket_timeout=None)) as client,
        closing(client.pubsub(ignore_subscribe_messages=True)) as subscription,
    ):
        wait = jobs.send_job("send_timestamps", rounds, each, PAUSE, key, task_id=key)
        if client.blpop([f"{key}-ready"], timeout=30) is None:
            raise TimeoutError("the job has not started within 30 s")
        address = f"{server.ws_url}/api/v1/executions/{key}/progress/ws"
        with (
            closing(create_connection(address, timeout=30)) as ours,
            closing(create_connection(relay.url, timeout=30)) as theirs,
        ):
            samples["echo"] = [_echo(theirs) for _ in range(rounds * each)]
            subscription.subscribe(f"{key}-raw")
            subscription.get_message(timeout=5)
            readers = [
                threading.Thread(target=_collect, args=(_frames(ours), samples["ours"])),
                threading.Thread(target=_collect, args=(_relayed(theirs), samples["relay"])),
                threading.Thread(
                    target=_collect, args=(_published(subscription), samples["pubsub"])
                ),
            ]
            for reader in readers:
                reader.start()
            client.rpush(key, "go")
            for reader in readers:
                reader.join(timeout=120)
        wait(30)
    return samples


def _collect(arrivals: Iterator[tuple[int, str]], samples: list[float]) -> None:
    """Add the age of each message. Its stamp is the sender's monotonic clock, which is the same for
    all processes of a machine (Linux, macOS).
    """
    for arrived, stamp in arrivals:
        samples.append((arrived - int(stamp)) / 1e9)


def _frames(socket: WebSocket) -> Iterator[tuple[int, str]]:
    while True:
        text, arrived = socket.recv(), time.monotonic_ns()  # parsing is not part of the latency
        frame = json.loads(text)
        if frame["type"] == "progress":
            yield arrived, frame["progress"]["message"]
        elif frame["type"] == "completed":
            return
        elif frame["type"] in ("failed", "cancelled", "error"):
            raise RuntimeError(f"the viewer's stream ended with {frame}")


def _relayed(socket: WebSocket) -> Iterator[tuple[int, str]]:
    while (text := socket.recv()) != "end":
        yield time.monotonic_ns(), str(text)


def _published(subscription: redis.client.PubSub) -> Iterator[tuple[int, str]]:
    for message in subscription.listen():
        arrived = time.monotonic_ns()
        if message["data"] == b"end":
            return
        yield arrived, message["data"].decode()


def _echo(socket: WebSocket) -> float:
    threading.Event().wait(PAUSE)
    start = time.perf_counter()
    socket.send("message")
    socket.recv()
    return time.perf_counter() - start
