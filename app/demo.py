"""``python -m app.demo``: everything that the service needs, in one command, and nothing left of it
afterwards.

Starts an embedded Valkey (unless CELERY_BROKER_URL or CELERY_RESULT_BACKEND name a server), a
worker and the web server, waits until they are ready and prints the address. Ctrl-C ends all in
order, a second one at once. ``HOST`` and ``PORT`` are heeded.
"""

from __future__ import annotations

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
#: Seconds that all may take to be ready: a cold disk and a busy machine included.
PATIENCE = 90.0
#: Seconds that a server may take to be reached, and to answer.
ANSWER = 3.0
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (nothing is bound here)

WEB_STEPS = ((signal.SIGTERM, 8.0),)
# A running job is given a moment (TERM: finish what runs), then it is cut off (QUIT).
WORKER_STEPS = ((signal.SIGTERM, 4.0), (signal.SIGQUIT, 4.0))


class DemoError(Exception):
    """The demo can't start or go on. Says why, and what to do."""


def say(text: str = "") -> None:
    """One line for the person at the terminal."""
    print(text, flush=True)  # noqa: T201 (it talks to a person)


class Demo:
    """The three processes, and the address that they are to be found at."""

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
        """Start, tell, and return when a signal asks for the end. Raises ``DemoError`` for whatever
        goes wrong.
        """
        with ExitStack() as stack:
            self._start(stack)
            if self._interrupts.wait_for(self._ready, PATIENCE, patience=1):
                say(
                    f"\nHeadway is ready. Open this address, start a job and watch it:\n\n    {self.url}\n"
                )
                say(
                    f"Logs: {', '.join(str(child.log.relative_to(ROOT)) for child in self._children)}. Ctrl-C ends everything."
                )
            elif not self._interrupts.count:
                raise DemoError(f"It wasn't ready after {PATIENCE:.0f} s.\n{self._tails()}")
            while not self._interrupts.count:
                self._check()
                self._interrupts.wait(0.5)
            say("\nEnding. A running job is given a few seconds; Ctrl-C again ends at once.")

    def _start(self, stack: ExitStack) -> None:
        self._check_port()
        broker, backend = celeryconfig.urls("")
        check_servers(broker, backend)
        if not broker or not backend:
            self._server = stack.enter_context(EmbeddedServer())
        spare = self._server.url if self._server is not None else ""
        say(f"Broker:         {_named(broker, 'CELERY_BROKER_URL')}")
        say(f"Result backend: {_named(backend, 'CELERY_RESULT_BACKEND')}")
        folder = ROOT / ".headway"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise DemoError(
                f"The folder of the logs, {folder}, can't be made ({exc.strerror})"
            ) from exc
        env = os.environ | {
            "CELERY_BROKER_URL": broker or spare,
            "CELERY_RESULT_BACKEND": backend or spare,
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
        # As in the Procfile; the rest of it is in gunicorn.conf.py.
        web = ["gunicorn", "web:create_app()"]
        for name, command, steps in (("worker", worker, WORKER_STEPS), ("web", web, WEB_STEPS)):
            argv = [sys.executable, "-m", *command]
            child = Child(name, argv, env=env, folder=ROOT, log=folder / f"{name}-{self._port}.log")
            stack.callback(child.stop, self._interrupts, steps)
            self._children.append(child)

    def _check_port(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as gunicorn does: a demo that just ended is no hindrance
            try:
                probe.bind((self._host, self._port))
            except OSError as exc:
                another = f"Take another one: PORT={self._port + 1} make demo"
                raise DemoError(
                    f"Port {self._port} of {self._host} can't be had ({exc.strerror}). {another}"
                ) from exc

    def _ready(self) -> bool:
        """Whether the web server reaches its backend, and the worker takes jobs."""
        self._check()
        connection = http.client.HTTPConnection(
            ANY_ADDRESS.get(self._host, self._host), self._port, timeout=5
        )
        try:
            # By a loopback name, so that it is answered whatever address the server is bound to.
            connection.request("GET", "/readyz", headers={"Host": f"localhost:{self._port}"})
            answers = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return answers and " ready." in self._children[0].log.read_text(errors="replace")

    def _check(self) -> None:
        """Raise where something ended that should run."""
        if self._server is not None and not self._server.running:
            raise DemoError("The embedded Valkey server has ended.")
        for child in self._children:
            if child.code is not None:
                raise DemoError(
                    f"The {child.name} process has ended with exit code {child.code}. The end of its log:\n\n{child.tail()}\n"
                )

    def _tails(self) -> str:
        return "\n".join(
            f"\nThe end of {child.log.relative_to(ROOT)}:\n\n{child.tail()}"
            for child in self._children
        )


def check_servers(broker: str, backend: str) -> None:
    """Raise ``DemoError`` where a server that the environment names gives no answer; an empty name
    is none.

    Worker and web server would wait for it, and say so in their logs only.
    """
    celery = Celery("headway_demo", broker=broker, backend=backend, set_as_current=False)
    if broker:
        limits = dict.fromkeys(
            ("socket_timeout", "socket_connect_timeout", "read_timeout", "write_timeout"), ANSWER
        )
        with celery.connection_for_write(
            connect_timeout=ANSWER, transport_options=limits
        ) as connection:
            try:
                connection.ensure_connection(
                    max_retries=1, interval_start=0, interval_step=0, timeout=2 * ANSWER
                )
            except (
                OperationalError,
                OSError,
                *connection.connection_errors,
                *connection.channel_errors,
            ) as exc:
                raise _no_answer("broker", "CELERY_BROKER_URL", broker) from exc
    if backend:
        store = store_for(celery)
        try:
            store.ping()
        except Unavailable as exc:
            raise _no_answer("result backend", "CELERY_RESULT_BACKEND", backend) from exc
        finally:
            store.close()


def _no_answer(what: str, variable: str, url: str) -> DemoError:
    return DemoError(
        f"The {what} gives no answer at {maybe_sanitize_url(url)}. Start it, or set {variable} to one that runs; "
        "with neither that nor the other one set, the demo brings its own."
    )


def _named(url: str, variable: str) -> str:
    if not url:
        return "an embedded Valkey server of its own"
    given = bool(os.environ.get(variable))
    return f"{maybe_sanitize_url(url)} ({variable if given else f'{variable} is not set, so it is the same server'})"


def main() -> int:
    """The exit code: 0 where a signal asked for the end."""
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
    say("All ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
