"""What the web process holds, measured from inside and from outside."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import requests

from headway.stores.redis import CONNECTIONS
from tests.support.processes import WebServer
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.valkey import ValkeyServer


@dataclass(frozen=True)
class Resources:
    """One measurement of the web process."""

    #: Open streams and watched executions, from ``/metrics``.
    viewers: int
    watched: int
    #: Objects by class, from the process itself.
    objects: dict[str, int]
    #: Threads by name (greenlets under gevent), and threads of the system.
    threads: dict[str, int]
    system_threads: int
    #: Open files and sockets, without connections to the backend.
    files: int
    #: Subscribed channels at the result backend.
    channels: int
    #: Connections to the backend beyond those that the process may keep: the store's pool and the
    #: feed's one.
    connections: int

    def growth_since(self, before: Resources) -> dict[str, str]:
        """What has grown since ``before``. Empty: all was released."""
        grown: dict[str, str] = {}
        for name, was in vars(before).items():
            now = getattr(self, name)
            if isinstance(now, dict):
                grown |= {
                    f"{name}: {each}": f"{was.get(each, 0)} -> {count}"
                    for each, count in now.items()
                    if count > was.get(each, 0)
                }
            elif now > was:
                grown[name] = f"{was} -> {now}"
        return grown


def process_of(server: WebServer) -> psutil.Process:
    """gunicorn's only worker."""
    (worker,) = server.descendants()
    return worker


def measure(server: WebServer, backend: ValkeyServer) -> Resources:
    """Measure the process now."""
    process = process_of(server)
    response = requests.get(f"{server.url}/resources", timeout=RESPONSE_TIMEOUT)
    inside, numbers = response.json(), metrics(server)
    to_backend = sum(
        each.raddr.port == backend.port for each in process.net_connections() if each.raddr
    )
    with backend.client() as client:
        return Resources(
            viewers=open_streams(numbers),
            watched=int(numbers["headway_watched_executions"]),
            objects=inside["objects"],
            threads=inside["threads"],
            system_threads=process.num_threads(),
            files=process.num_fds() - to_backend,
            channels=len(client.pubsub_channels()),
            connections=max(0, to_backend - CONNECTIONS - 1),
        )


def metrics(server: WebServer) -> dict[str, float]:
    """``/metrics`` of the process."""
    text = requests.get(f"{server.url}/api/v1/metrics", timeout=RESPONSE_TIMEOUT).text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def open_streams(numbers: dict[str, float]) -> int:
    """The number of open streams, over all transports."""
    return int(sum(value for name, value in numbers.items() if name.startswith("headway_viewers{")))
