"""Real processes for tests: started, waited for, and always taken away again, with all that they
started themselves.
"""

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

from tests.support.wait import until

#: The repository: every process starts here, so that ``app``, ``tasks``, ``web`` and ``tests`` can
#: be imported.
ROOT = Path(__file__).resolve().parents[2]

#: Processes that outlive a test on purpose (session and module fixtures); the leak check leaves
#: them alone.
kept: set[int] = set()

#: The processes that run: whose logs a failing test shows.
running_now: weakref.WeakSet[Process] = weakref.WeakSet()

Address = tuple[str, int]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a test's process: this one's without what configures Celery, Flask or
    Headway, then ``extra``.
    """
    foreign = ("CELERY_", "HEADWAY_", "FLASK_", "GUNICORN_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return env | dict(extra or {})


def tied_to_parent(argv: Sequence[str]) -> list[str]:
    """The same command, told by the kernel to end when its parent dies: a killed test run leaves
    nothing behind (Linux only).

    The leash hangs on the thread that starts the process, so start processes from the test's own
    thread.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *argv] if setpriv else list(argv)


class Process:
    """One command in a process group of its own, with its log. A context manager: started on entry,
    all of it gone on exit.
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
        """The process's id, which is its group's as well."""
        assert self._popen is not None, f"{self.name} isn't started"
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs, minus the signal's number where one ended it."""
        return None if self._popen is None else self._popen.poll()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> Self:
        """Start it and wait until it serves."""
        assert not self.alive, f"{self.name} runs already"
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
        """Return when it serves. The plain process is ready at once."""

    def log(self) -> str:
        """All that it wrote to its standard output and error, over restarts too."""
        if self._folder is None or not self._log_path.exists():
            return ""
        return self._log_path.read_text(errors="replace")

    def wait_log(self, pattern: str, *, within: float = 60.0) -> re.Match[str]:
        """The first match of ``pattern`` in the log; fails at once where the process ends before it
        wrote that.
        """

        def look() -> re.Match[str] | None:
            running = self.alive
            found = re.search(pattern, self.log(), re.MULTILINE)
            if found is None and not running:
                raise AssertionError(
                    f"{self.name} ended with {self.returncode} before it said {pattern!r}\n{self.log()[-8000:]}"
                )
            return found

        return until(look, within=within, what=f"{self.name} to say {pattern!r}")

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal to the process alone (not to its children)."""
        os.kill(self.pid, sig)

    def wait(self, *, within: float = 60.0) -> int:
        """Wait for its end and return the exit code."""
        assert self._popen is not None, f"{self.name} isn't started"
        try:
            return self._popen.wait(timeout=within)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} did not end within {within:g} s\n{self.log()[-8000:]}"
            ) from None

    def descendants(self) -> list[psutil.Process]:
        """The processes below it that run now."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def stop(self, *, within: float = 10.0) -> None:
        """End it kindly (SIGTERM), then by force, then everything it started. A second call does
        nothing.
        """
        popen = self._popen
        if popen is None:
            return
        family = self.descendants()
        if popen.poll() is None:
            popen.send_signal(
                signal.SIGCONT
            )  # one that a test stopped with SIGSTOP can't hear TERM
            popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(timeout=within)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        for process in family:  # those that left the group
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        popen.wait()
        until(lambda: not running(family), within=60, what=f"the children of {self.name} to end")
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
        """Let it outlive the test that started it: its fixture is wider than a function."""
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
        #: Its node name, as Celery says it in ``request.hostname`` and in events.
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
        """It is ready when it takes messages: Celery says so itself."""
        self.wait_log(rf"{re.escape(self.hostname)} ready\.", within=180)


class WebServer(Process):
    """A web server over ``app`` (``module:factory()`` or ``module:app``) on a port of 127.0.0.1
    that the system picks.

    ``gevent`` and ``gthread`` are gunicorn's workers, ``dev`` is Flask's development server.
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
            # A worker that takes half a minute to load the app, from a cold disk, isn't one that
            # hangs.
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
        """``url`` for WebSockets."""
        return self.url.replace("http", "ws", 1)

    @contextlib.contextmanager
    def workers_gone(self) -> Iterator[None]:
        """Within it, gunicorn's workers are killed and no new ones come; behind it they do."""
        self.kill(
            signal.SIGSTOP
        )  # the master: it would start another one before anybody has seen that one is gone
        try:
            until(
                lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED,
                within=60,
                what=f"{self.name} to stop",
            )
            for process in self.descendants():
                process.kill()
            yield
        finally:
            self.kill(signal.SIGCONT)

    def wait_ready(self) -> None:
        """It is ready when it answers HTTP, with whatever status."""
        self.url = self.wait_log(
            r"(?:Listening at: |Running on )(http://127\.0\.0\.1:\d+)", within=180
        )[1]
        until(self._answers, within=180, what=f"{self.name} to answer on {self.url}")

    def _answers(self) -> bool:
        if not self.alive:
            raise AssertionError(f"{self.name} ended with {self.returncode}\n{self.log()[-8000:]}")
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status > 0
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


def children() -> set[int]:
    """The ids of this process's own children."""
    return {child.pid for child in psutil.Process().children()}


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. A zombie that a container's first process never reaps has ended all the
    same.
    """
    left = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left
