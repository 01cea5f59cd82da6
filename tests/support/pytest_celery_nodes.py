"""pytest-celery's nodes over local processes.

pytest-celery wraps containers, but uses few of their methods: its node and cluster classes accept
any object with these methods (celery-facts#pytest-celery-nodes-duck-type). So an unchanged test for
``celery_setup`` also runs without a container engine.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any, Self

import celery
import psutil
from pytest_celery import CeleryTestBackend, CeleryTestBroker, CeleryTestWorker

from tests.support.processes import Process, Worker
from tests.support.valkey import ValkeyServer


class LocalContainer:
    """A process with the methods of a container that pytest-celery's nodes use."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    def started(cls, process: Process) -> Self:
        """Start the process."""
        process.start()
        return cls(process)

    @property
    def id(self) -> str:
        """A node's host name is its first twelve characters."""
        return f"local-{self.process.pid}"

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.process.name

    @property
    def status(self) -> str:
        """The container status."""
        return "running" if self.process.alive else "exited"

    @property
    def celeryconfig(self) -> dict[str, str]:
        """Celery's settings for it: none, unless it is a server."""
        return {}

    def ready(self) -> bool:
        """Whether it runs: `Process.start` returns when it is ready."""
        return self.process.alive

    def logs(self) -> str:
        """Its whole output."""
        return self.process.log()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal, by name or number, and wait for its end."""
        self.process.kill(_number(signal))
        self.process.wait()

    def restart(self, timeout: float = 10) -> None:
        """Stop it if it runs, and start it again."""
        self.process.stop(within=timeout)
        self.process.start()

    def reload(self) -> None:
        """Do nothing: only a container object caches its state."""

    def teardown(self) -> None:
        """Stop it. Node, cluster and fixture each call this: a second call does nothing."""
        self.process.close()


class LocalServer(LocalContainer):
    """A Valkey."""

    process: ValkeyServer

    @property
    def celeryconfig(self) -> dict[str, str]:
        """Both addresses are the same: there is no container network."""
        return {"url": self.process.url, "host_url": self.process.url}


class LocalWorker(LocalContainer):
    """A Celery worker."""

    process: Worker

    @property
    def id(self) -> str:
        """The host of its node name: pytest-celery uses the id for that."""
        return self.process.hostname.partition("@")[2]

    def version(self) -> str:
        """Celery's version: that of this environment."""
        return str(celery.__version__)

    def log_level(self) -> str:
        """The worker's log level."""
        return "INFO"

    def worker_name(self) -> str:
        """The part of the node name before the host."""
        return self.process.hostname.partition("@")[0]

    def worker_queue(self) -> str:
        """Its queue: Celery's default."""
        return "celery"


def worker(process: Worker, app: celery.Celery) -> CeleryTestWorker:
    """A worker node over a local process."""
    return LocalWorkerNode(LocalWorker.started(process), app)


def broker(process: ValkeyServer) -> CeleryTestBroker:
    """A broker node over a local server."""
    return CeleryTestBroker(LocalServer.started(process))


def backend(process: ValkeyServer) -> CeleryTestBackend:
    """A backend node over a local server."""
    return CeleryTestBackend(LocalServer.started(process))


class LocalWorkerNode(CeleryTestWorker):  # type: ignore[misc]
    """A worker node that lists its processes without running a program in a container."""

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """The worker's processes that match ``filters``, with these attributes of psutil."""
        parent = psutil.Process(self.container.process.pid)
        found = [each.as_dict(columns) for each in (parent, *parent.children(recursive=True))]
        return [
            attributes
            for attributes in found
            if all(attributes.get(name) == value for name, value in (filters or {}).items())
        ]


def engine_runs() -> bool:
    """Whether a container engine responds. A ``docker`` on the PATH is only its client."""
    try:
        command = subprocess.run(
            ["docker", "info"], capture_output=True, timeout=20, check=False, env=dict(os.environ)
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return command.returncode == 0


def _number(name: str | int) -> int:
    return name if isinstance(name, int) else signal.Signals[name].value
