"""What the web process holds, seen from within and from without."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import requests

from headway.stores.redis import CONNECTIONS
from tests.support.processes import WebServer
from tests.support.valkey import ValkeyServer


@dataclass(frozen=True)
class Room:
    """One look."""

    #: Seats taken and executions watched, as ``/metrics`` says; objects of viewers and greenlets,
    #: as the process itself does.
    viewers: int
    watched: int
    objects: dict[str, int]
    #: Threads by name (greenlets under gevent), system threads; open files and sockets, but for
    #: connections to the backend.
    threads: dict[str, int]
    system_threads: int
    files: int
    #: Channels that somebody subscribes to at the server of the result backend.
    channels: int
    #: Connections of the process to it that are more than it may keep: the store's own few, and the
    #: feed's one.
    connections: int

    def left_since(self, before: Room) -> dict[str, str]:
        """What there is more of than ``before``: nothing, where all was given back."""
        told: dict[str, str] = {}
        for name, was in vars(before).items():
            now = getattr(self, name)
            if isinstance(now, dict):
                more = {
                    each: f"{was.get(each, 0)} -> {count}"
                    for each, count in now.items()
                    if count > was.get(each, 0)
                }
                told |= {f"{name}: {each}": text for each, text in more.items()}
            elif now > was:
                told[name] = f"{was} -> {now}"
        return told


def process_of(server: WebServer) -> psutil.Process:
    """gunicorn's one worker."""
    (worker,) = server.descendants()
    return worker


def look(server: WebServer, backend: ValkeyServer) -> Room:
    """At the process as it is now."""
    process, said = process_of(server), requests.get(f"{server.url}/room", timeout=60).json()
    numbers = metrics(server)
    to_backend = sum(
        each.raddr.port == backend.port for each in process.net_connections() if each.raddr
    )
    with backend.client() as client:
        return Room(
            viewers=int(
                sum(value for name, value in numbers.items() if name.startswith("headway_viewers{"))
            ),
            watched=int(numbers["headway_watched_executions"]),
            objects=said["objects"],
            threads=said["threads"],
            system_threads=process.num_threads(),
            files=process.num_fds() - to_backend,
            channels=len(client.pubsub_channels()),
            connections=max(0, to_backend - CONNECTIONS - 1),
        )


def metrics(server: WebServer) -> dict[str, float]:
    """``/metrics`` of the process."""
    lines = requests.get(f"{server.url}/api/v1/metrics", timeout=60).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
