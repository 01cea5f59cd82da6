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
#: Seconds between two messages: more than ``BENCH_INTERVAL``, so that each update is written at once.
PAUSE = 0.025
INTERVAL = 0.01


class Relay(Process):
    """The relay in a process of its own; ``url`` is its WebSocket."""

    def __init__(self, url: str, channel: str) -> None:
        super().__init__([sys.executable, "-m", "benchmarks.relay", url, channel], name="relay")
        self.url = ""

    def wait_ready(self) -> None:
        """It says its port."""
        port = self.wait_log(r"^port (\d+)$")[1]
        self.url = f"ws://127.0.0.1:{port}"


def measure(url: str, *, quick: bool) -> dict[str, list[float]]:
    """Seconds from the call in the task to the frame at the viewer, each sample of each way. A worker of ``jobs`` runs already.

    ``ours``; ``relay``: PUBLISH, and one process that passes it on to a WebSocket; ``pubsub``: PUBLISH to a subscriber; ``echo``:
    a word to a WebSocket server and back.
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
        with closing(create_connection(address, timeout=30)) as ours, closing(create_connection(relay.url, timeout=30)) as theirs:
            taken["echo"] = [_echo(theirs) for _ in range(rounds * each)]
            listener.subscribe(f"{key}-raw")
            listener.get_message(timeout=5)
            readers = [
                threading.Thread(target=_collect, args=(_frames(ours), taken["ours"])),
                threading.Thread(target=_collect, args=(iter(theirs.recv, "end"), taken["relay"])),
                threading.Thread(target=_collect, args=(_published(listener), taken["pubsub"])),
            ]
            for reader in readers:
                reader.start()
            client.rpush(key, "go")
            for reader in readers:
                reader.join(timeout=120)
        ended(timeout=30)
    return taken


def _collect(stamps: Iterator[str], taken: list[float]) -> None:
    """Each stamp is the monotonic clock's at the sender, which is the same for all processes of a machine (Linux, macOS)."""
    for stamp in stamps:
        taken.append((time.monotonic_ns() - int(stamp)) / 1e9)


def _frames(socket: WebSocket) -> Iterator[str]:
    while (frame := json.loads(socket.recv()))["type"] not in ("completed", "failed", "cancelled", "error"):
        if frame["type"] == "progress":
            yield frame["progress"]["message"]
    if frame["type"] != "completed":
        raise RuntimeError(f"the viewer's stream ended with {frame}")


def _published(listener: redis.client.PubSub) -> Iterator[str]:
    for message in listener.listen():
        if message["data"] == b"end":
            return
        yield message["data"].decode()


def _echo(socket: WebSocket) -> float:
    begin = time.perf_counter()
    socket.send("word")
    socket.recv()
    return time.perf_counter() - begin
