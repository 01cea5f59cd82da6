"""A web server for any Celery project: dashboard and API of one app, and nothing else. What
``celery -A proj headway web`` runs.

gunicorn loads `create_app` in a process of its own, whose gevent has patched the standard library
before anything of Celery or Redis was imported. In the process of the command it would be too late:
there the project is loaded already (web fact 23).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from celery.app.utils import find_app
from flask import Flask

from headway.server.auth import check_bind
from headway.server.extension import Headway

#: In the environment: the app's name, as ``celery -A`` takes it.
APP = "HEADWAY_APP"
TOKENS = "HEADWAY_TOKENS"

#: Named, so that gunicorn reads no ``gunicorn.conf.py`` of the project's, which is for another
#: server.
SETTINGS = Path(__file__).with_name("gunicorn_settings.py")


def create_app() -> Flask:
    """The Flask app of the Celery app that the environment names."""
    flask_app = Flask("headway.standalone", static_folder=None)
    Headway(flask_app, celery=find_app(os.environ[APP]), dashboard="/", operations_at_root=True)
    return flask_app


def serve(app_name: str, host: str, port: int, tokens: str | None) -> NoReturn:
    """Become the server: this process is replaced, and signals go where they belong.

    Raises ``ConfigurationError`` where it would be open to everybody.
    """
    environ = dict(os.environ) | {APP: app_name}
    if tokens is not None:
        environ[TOKENS] = (
            tokens  # and not on the command line, which every user of the machine can read
        )
    check_bind(host, environ.get(TOKENS))
    os.execve(sys.executable, [sys.executable, *command(host, port)], environ)  # noqa: S606  (no shell is wanted)


def command(host: str, port: int) -> list[str]:
    """The arguments of Python."""
    address = f"{f'[{host}]' if ':' in host else host}:{port}"
    return [
        "-m",
        "gunicorn",
        "--config",
        str(SETTINGS),
        "--bind",
        address,
        "headway.server.standalone:create_app()",
    ]
