"""pytest-celery's nodes over local processes.

pytest-celery wraps containers, but asks little of them: its own node and cluster classes work over
whatever behaves as one. So a test that is written for ``celery_setup`` runs where no container
engine does, unchanged (fact 35).
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
    """A process that behaves as far as pytest-celery's nodes look like one of its containers."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    def started(cls, process: Process) -> Self:
        """The process, started."""
        process.start()
        return cls(process)

    @property
    def id(self) -> str:
        """Of which a node's host name takes the first twelve characters."""
        return f"local-{self.process.pid}"

    @property
    def name(self) -> str:
        """For messages."""
        return self.process.name

    @property
    def status(self) -> str:
        """A container's word for it."""
        return "running" if self.process.alive else "exited"

    @property
    def celeryconfig(self) -> dict[str, str]:
        """What Celery needs to know of it: nothing, unless it serves."""
        return {}

    def ready(self) -> bool:
        """A process is started only once it serves."""
        return self.process.alive

    def logs(self) -> str:
        """All that it wrote."""
        return self.process.log()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal, by name or number, and wait until it is gone."""
        self.process.kill(_number(signal))
        self.process.wait()

    def restart(self, timeout: float = 10) -> None:
        """Stop it, if it still runs, and start it again."""
        self.process.stop(within=timeout)
        self.process.start()

    def reload(self) -> None:
        """A container object keeps a copy of its state; a process is asked each time."""

    def teardown(self) -> None:
        """Stop it for good. A second call does nothing: node, cluster and fixture each make one."""
        self.process.close()


class LocalServer(LocalContainer):
    """A Valkey."""

    process: ValkeyServer

    @property
    def celeryconfig(self) -> dict[str, str]:
        """Both addresses are the same: no network of containers lies between."""
        return {"url": self.process.url, "host_url": self.process.url}


class LocalWorker(LocalContainer):
    """A Celery worker."""

    process: Worker

    @property
    def id(self) -> str:
        """The host of its node name, as far as pytest-celery needs it."""
        return self.process.hostname.partition("@")[2]

    def version(self) -> str:
        """Celery's version, which is this environment's."""
        return celery.__version__

    def log_level(self) -> str:
        """As the worker was started."""
        return "INFO"

    def worker_name(self) -> str:
        """The part of the node name before the host."""
        return self.process.hostname.partition("@")[0]

    def worker_queue(self) -> str:
        """The queue that it listens to: Celery's default one."""
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


class LocalWorkerNode(CeleryTestWorker):
    """The node asks a container for its processes by running a program in it; here they can be
    looked at.
    """

    def get_running_processes_info(
        self, columns: list[str] | None = None, filters: dict[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """The worker's processes, each with these facts (of psutil's), those that match."""
        parent = psutil.Process(self.container.process.pid)
        told = [each.as_dict(columns) for each in (parent, *parent.children(recursive=True))]
        return [
            facts
            for facts in told
            if all(facts.get(name) == value for name, value in (filters or {}).items())
        ]


def engine_runs() -> bool:
    """Whether a container engine answers. Its client alone (a ``docker`` on the PATH) is no engine."""
    try:
        asked = subprocess.run(
            ["docker", "info"], capture_output=True, timeout=20, check=False, env=dict(os.environ)
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0


def _number(name: str | int) -> int:
    return name if isinstance(name, int) else signal.Signals[name].value
