"""Real processes for tests: started, waited for, and always stopped with all their children."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

import psutil

from tests.support import timing
from tests.support.wait import until

#: The repository. Every process starts here, so that it can import ``app``, ``tasks``, ``web`` and
#: ``tests``.
ROOT = Path(__file__).resolve().parents[2]

#: Ids of processes that outlive a test on purpose (session and module fixtures). The leak check
#: ignores them.
kept: set[int] = set()

#: The running processes. A failing test shows their logs.
running_now: weakref.WeakSet[Process] = weakref.WeakSet()

Address = tuple[str, int]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a test's process: this one without settings of Celery, Flask, gunicorn and
    Headway, then ``extra``.
    """
    settings = ("CELERY_", "HEADWAY_", "FLASK_", "GUNICORN_")
    env = {
        name: value
        for name, value in os.environ.items()
        if name == timing.VARIABLE or not name.startswith(settings)
    }
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return env | dict(extra or {})


def tied_to_parent(argv: Sequence[str]) -> list[str]:
    """The same command, ended by the kernel when its parent dies (Linux only): a killed test run
    leaves no processes.

    The parent is the thread that starts the process, so start processes from the test's thread.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *argv] if setpriv else list(argv)


class Process:
    """One command in its own process group, with its log.

    A context manager: it starts on entry, and the whole process tree is gone on exit.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = ROOT,
        name: str = "process",
    ) -> None:
        self.argv = list(argv)
        self.name = name
        self.env = environment(env)
        self.cwd = Path(cwd)
        self._popen: subprocess.Popen[bytes] | None = None
        self._folder: str | None = None

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        assert self._popen is not None, f"{self.name} isn't started"
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code. None while it runs, the negative number of the signal that ended it."""
        return None if self._popen is None else self._popen.poll()

    @property
    def alive(self) -> bool:
        """Whether it is running."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> Self:
        """Start it and wait until it is ready."""
        assert not self.alive, f"{self.name} is already running"
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="headway-test-")
        with self._log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                tied_to_parent(self.argv),
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        running_now.add(self)
        try:
            self.wait_ready()
        except BaseException as exc:
            exc.add_note(f"--- log of {self.name} ---\n{self.log()[-8000:]}")
            self.close()
            raise
        return self

    def wait_ready(self) -> None:
        """Return when it is ready. A plain process is ready at once."""

    def log(self) -> str:
        """Its standard output and error, since the first start."""
        if self._folder is None or not self._log_path.exists():
            return ""
        return self._log_path.read_text(errors="replace")

    def wait_log(self, pattern: str, *, within: float = 60.0) -> re.Match[str]:
        """The first match of ``pattern`` in the log. Raises at once if the process ends without
        one.
        """

        def search() -> re.Match[str] | None:
            running = self.alive  # first: the log is complete if this is False
            found = re.search(pattern, self.log(), re.MULTILINE)
            if found is None and not running:
                raise AssertionError(
                    f"{self.name} ended with {self.returncode} before it logged {pattern!r}\n"
                    f"{self.log()[-8000:]}"
                )
            return found

        return until(search, within=within, what=f"{self.name} to log {pattern!r}")

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal to the process, not to its children."""
        os.kill(self.pid, sig)

    def wait(self, *, within: float = 60.0) -> int:
        """Wait for its end and return the exit code."""
        assert self._popen is not None, f"{self.name} isn't started"
        try:
            return self._popen.wait(timeout=timing.seconds(within))
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {within:g} s\n{self.log()[-8000:]}"
            ) from None

    def descendants(self) -> list[psutil.Process]:
        """Its children and their children, as of now."""
        try:
            found: list[psutil.Process] = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    def stop(self, *, within: float = 10.0) -> None:
        """Send SIGTERM, then SIGKILL to all that is left of its process tree.

        A second call does nothing.
        """
        popen = self._popen
        if popen is None:
            return
        family = self.descendants()
        if popen.poll() is None:
            popen.send_signal(signal.SIGCONT)  # it can't handle SIGTERM while SIGSTOP is in effect
            popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(timeout=timing.seconds(within))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        for process in family:  # those that left the group
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        popen.wait()
        until(lambda: not running(family), what=f"the children of {self.name} to end")
        kept.discard(popen.pid)
        running_now.discard(self)
        self._popen = None

    def close(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def keep(self) -> Self:
        """Let it outlive the current test, for a fixture of a wider scope."""
        kept.add(self.pid)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and isinstance(error, Exception):
            error.add_note(f"--- log of {self.name} ---\n{self.log()[-8000:]}")
        self.close()

    @property
    def _log_path(self) -> Path:
        assert self._folder is not None
        return Path(self._folder) / "log"


class Worker(Process):
    """A Celery worker of ``app`` (an importable name, as for ``celery -A``)."""

    def __init__(
        self,
        app: str,
        *,
        env: Mapping[str, str] | None = None,
        pool: str = "prefork",
        concurrency: int = 2,
        queues: Iterable[str] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        #: Its node name, as in ``request.hostname`` and in events.
        self.hostname = f"w{uuid.uuid4().hex[:8]}@localhost"
        argv = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            "--pool",
            pool,
            "--concurrency",
            str(concurrency),
        ]
        argv += [
            "--hostname",
            self.hostname,
            "--loglevel",
            "INFO",
            "--without-gossip",
            "--without-mingle",
        ]
        if queues is not None:
            argv += ["--queues", ",".join(queues)]
        super().__init__([*argv, *args], env=env, name=f"worker {app} ({pool})")

    def wait_ready(self) -> None:
        """It is ready when it accepts messages: Celery logs that."""
        self.wait_log(rf"{re.escape(self.hostname)} ready\.", within=180)


class WebServer(Process):
    """A web server of ``app`` (``module:factory()`` or ``module:app``) on any free port.

    ``gevent`` and ``gthread`` are gunicorn's worker classes, ``dev`` is Flask's development server.
    """

    def __init__(
        self,
        kind: Literal["gevent", "gthread", "dev"] = "gevent",
        app: str = "web:create_app()",
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.url = ""
        if kind == "dev":
            argv = [
                sys.executable,
                "-m",
                "flask",
                "--app",
                app,
                "run",
                "--no-reload",
                "--no-debugger",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
            ]
        else:
            argv = [
                sys.executable,
                "-m",
                "gunicorn",
                "--worker-class",
                kind,
                "--bind",
                "127.0.0.1:0",
                "--no-control-socket",
            ]
            # gunicorn must not kill a worker that takes half a minute to load the app from disk.
            argv += [
                "--graceful-timeout",
                "5",
                "--timeout",
                "120",
                "--worker-tmp-dir",
                tempfile.gettempdir(),
            ]
            argv += ["--worker-connections", "2000"] if kind == "gevent" else ["--threads", "32"]
            argv += [*args, app]
            args = ()
        super().__init__([*argv, *args], env=env, name=f"{kind} server of {app}")

    @property
    def address(self) -> Address:
        """Host and port."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    @property
    def ws_url(self) -> str:
        """``url`` with the scheme ws."""
        return self.url.replace("http", "ws", 1)

    @contextlib.contextmanager
    def workers_gone(self) -> Iterator[None]:
        """Kill gunicorn's workers, and let it start new ones on exit."""
        # Stop the master first: it would replace a killed worker before a client notices.
        self.kill(signal.SIGSTOP)
        try:
            until(
                lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED,
                what=f"{self.name} to stop",
            )
            for process in self.descendants():
                process.kill()
            yield
        finally:
            self.kill(signal.SIGCONT)

    def wait_ready(self) -> None:
        """It is ready when it answers an HTTP request, with any status."""
        self.url = self.wait_log(
            r"(?:Listening at: |Running on )(http://127\.0\.0\.1:\d+)", within=180
        )[1]
        until(self._answers, within=180, what=f"{self.name} to answer at {self.url}")

    def _answers(self) -> bool:
        if not self.alive:
            raise AssertionError(f"{self.name} ended with {self.returncode}\n{self.log()[-8000:]}")
        connection = http.client.HTTPConnection(*self.address, timeout=timing.RESPONSE_TIMEOUT)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status > 0
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def children() -> set[int]:
    """The ids of this process's direct children.

    The kernel's own lists cost some microseconds. psutil reads every process of the machine (2 ms).
    """
    lists = list(Path("/proc/self/task").glob("*/children"))
    if not lists:  # no Linux, or a kernel without these lists
        return {child.pid for child in psutil.Process().children()}
    pids: set[int] = set()
    for path in lists:
        with contextlib.suppress(OSError):  # this thread has just ended
            pids.update(map(int, path.read_text().split()))
    return pids


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. A zombie has ended: in a container the init process may not reap it."""
    left = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left
