"""``python -m app.demo``: the whole service in one command, without anything left afterwards.

Starts a worker, the web server and an embedded Valkey (unless CELERY_BROKER_URL or
CELERY_RESULT_BACKEND names a server). Waits until they are ready and prints the address. Ctrl-C
stops everything in order, a second Ctrl-C at once. Uses ``HOST`` and ``PORT``.
"""

from __future__ import annotations

import errno
import http.client
import os
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

import celeryconfig
from app.processes import Child, Interrupts
from headway.backends import store_for
from headway.embedded import EmbeddedServer
from headway.errors import ConfigurationError, Unavailable
from headway.server.auth import check_bind

ROOT = Path(__file__).resolve().parents[1]
#: Seconds until everything must be ready, even with a cold disk on a busy machine.
STARTUP_TIMEOUT = 90.0
#: Seconds to connect to a broker or result backend, and to get its reply.
SERVER_TIMEOUT = 3.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing is bound here)

WEB_SIGNALS = ((signal.SIGTERM, 8.0),)
# SIGTERM lets a running job finish, SIGQUIT cancels it.
WORKER_SIGNALS = ((signal.SIGTERM, 4.0), (signal.SIGQUIT, 4.0))


class DemoError(Exception):
    """The demo can't start or continue. The message says why, and what to do."""


def say(text: str = "") -> None:
    """One line for the person at the terminal."""
    print(text, flush=True)  # noqa: T201 (the demo's output)


class Demo:
    """The server, the worker and the web process, and their address."""

    def __init__(self, host: str, port: int, interrupts: Interrupts) -> None:
        self._host, self._port = host, port
        self._interrupts = interrupts
        self._children: list[Child] = []
        self._server: EmbeddedServer | None = None

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = ANY_ADDRESS.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def run(self) -> None:
        """Start everything, print the address, and return on a signal. Raises ``DemoError``."""
        with ExitStack() as stack:
            self._start(stack)
            if self._interrupts.wait_for(self._ready, STARTUP_TIMEOUT, max_interrupts=0):
                say("\nHeadway is ready. Open this address, start a job and watch it:")
                say(f"\n    {self.url}\n")
                logs = ", ".join(str(child.log.relative_to(ROOT)) for child in self._children)
                say(f"Logs: {logs}. Press Ctrl-C to stop everything.")
            elif not self._interrupts.count:
                raise DemoError(f"Not ready after {STARTUP_TIMEOUT:.0f} s.\n{self._tails()}")
            while not self._interrupts.count:
                self._check()
                self._interrupts.wait(0.5)
            say("\nStopping. Running jobs have a few seconds. Press Ctrl-C again to stop at once.")

    def _start(self, stack: ExitStack) -> None:
        self._check_port()
        broker, backend = celeryconfig.urls("")
        check_servers(broker, backend)
        if not broker or not backend:
            self._server = stack.enter_context(EmbeddedServer())
        embedded = self._server.url if self._server is not None else ""
        say(f"Broker:         {_describe(broker, 'CELERY_BROKER_URL')}")
        say(f"Result backend: {_describe(backend, 'CELERY_RESULT_BACKEND')}")
        folder = ROOT / ".headway"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise DemoError(f"Cannot create the log folder {folder}: {exc.strerror}") from exc
        env = os.environ | {
            "CELERY_BROKER_URL": broker or embedded,
            "CELERY_RESULT_BACKEND": backend or embedded,
            "HOST": self._host,
            "PORT": str(self._port),
            "PYTHONUNBUFFERED": "1",
        }
        worker = [
            "celery",
            "-A",
            "app",
            "worker",
            "--loglevel",
            "INFO",
            "--hostname",
            f"headway-{self._port}@%h",
        ]
        # As in the Procfile. The settings are in gunicorn.conf.py.
        web = ["gunicorn", "web:create_app()"]
        for name, command, signals in (
            ("worker", worker, WORKER_SIGNALS),
            ("web", web, WEB_SIGNALS),
        ):
            argv = [sys.executable, "-m", *command]
            child = Child(name, argv, env=env, folder=ROOT, log=folder / f"{name}-{self._port}.log")
            stack.callback(child.stop, self._interrupts, signals)
            self._children.append(child)

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            # Like gunicorn, so that the port of a demo that has just stopped is available.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, self._port))
            except OSError as exc:
                raise DemoError(_cannot_bind(self._host, self._port, exc)) from exc

    def _ready(self) -> bool:
        """Whether the web server reaches its backend, and the worker accepts jobs."""
        self._check()
        connection = http.client.HTTPConnection(
            ANY_ADDRESS.get(self._host, self._host), self._port, timeout=5
        )
        try:
            # A loopback name is allowed for every address that the server listens on.
            connection.request("GET", "/readyz", headers={"Host": f"localhost:{self._port}"})
            web_ready = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return web_ready and " ready." in self._children[0].log.read_text(errors="replace")

    def _check(self) -> None:
        """Raise ``DemoError`` if a process has ended."""
        if self._server is not None and not self._server.running:
            raise DemoError("The embedded Valkey server has ended.")
        for child in self._children:
            if child.code is not None:
                raise DemoError(
                    f"The {child.name} process has ended with exit code {child.code}. "
                    f"The end of its log:\n\n{child.tail()}\n"
                )

    def _tails(self) -> str:
        return "\n".join(
            f"\nThe end of {child.log.relative_to(ROOT)}:\n\n{child.tail()}"
            for child in self._children
        )


def check_servers(broker: str, backend: str) -> None:
    """Raise ``DemoError`` if a server in the environment isn't reachable. Skips empty URLs.

    Otherwise worker and web server would wait for it, and only their logs would show it.
    """
    celery = Celery("headway_demo", broker=broker, backend=backend, set_as_current=False)
    if broker:
        limits = dict.fromkeys(
            ("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout"),
            SERVER_TIMEOUT,
        )
        with celery.connection_for_write(
            connect_timeout=SERVER_TIMEOUT, transport_options=limits
        ) as connection:
            try:
                connection.ensure_connection(
                    max_retries=1, interval_start=0, interval_step=0, timeout=2 * SERVER_TIMEOUT
                )
            except (
                OperationalError,
                OSError,
                *connection.connection_errors,
                *connection.channel_errors,
            ) as exc:
                raise _unreachable("broker", "CELERY_BROKER_URL", broker) from exc
    if backend:
        store = store_for(celery)
        try:
            store.ping()
        except Unavailable as exc:
            raise _unreachable("result backend", "CELERY_RESULT_BACKEND", backend) from exc
        finally:
            store.close()


def _unreachable(what: str, variable: str, url: str) -> DemoError:
    return DemoError(
        f"The {what} at {maybe_sanitize_url(url)} is not reachable. "
        f"Start it, or set {variable} to a running server. "
        "If neither CELERY_BROKER_URL nor CELERY_RESULT_BACKEND is set, the demo starts a server."
    )


def _cannot_bind(host: str, port: int, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        reason = f"Port {port} is already in use"
    else:
        reason = f"Cannot listen on port {port} of {host} ({exc.strerror})"
    return f"{reason}. Choose another one: PORT={port + 1} make demo"


def _describe(url: str, variable: str) -> str:
    if not url:
        return "an embedded Valkey server"
    source = variable if os.environ.get(variable) else f"{variable} is not set: the same server"
    return f"{maybe_sanitize_url(url)} ({source})"


def main() -> int:
    """The exit code: 0 after a signal, 1 after an error."""
    interrupts = Interrupts()
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
    try:
        check_bind(host, os.environ.get("HEADWAY_TOKENS"))
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise DemoError(f"PORT must be a number from 1 to 65535, not {port!r}")
        Demo(host, int(port), interrupts).run()
    except (DemoError, ConfigurationError) as exc:
        print(f"headway: {exc}", file=sys.stderr, flush=True)  # noqa: T201
        return 1
    say("Everything stopped.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
