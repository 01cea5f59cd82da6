"""A web server for any Celery project: dashboard and API of one app.

``celery -A proj headway web`` runs it. gunicorn calls `create_app` in a process of its own, where
gevent has patched the standard library before Celery or Redis were imported. In the command's
process that would be too late: it has imported the project already
(web-facts#gunicorn-gevent-extra).
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

#: The environment variable with the app's name, as for ``celery -A``.
APP = "HEADWAY_APP"
TOKENS = "HEADWAY_TOKENS"

#: Passed to gunicorn, so that it does not read the project's ``gunicorn.conf.py``, which is for
#: another server.
SETTINGS = Path(__file__).with_name("gunicorn_settings.py")


def create_app() -> Flask:
    """The Flask app for the Celery app that the environment names."""
    flask_app = Flask("headway.standalone", static_folder=None)
    Headway(flask_app, celery=find_app(os.environ[APP]), dashboard="/", root_endpoints=True)
    return flask_app


def serve(app_name: str, host: str, port: int, tokens: str | None) -> NoReturn:
    """Replace this process with the server, so that signals reach it.

    Raises ``ConfigurationError`` if it would be open to the network without tokens.
    """
    environ = dict(os.environ) | {APP: app_name}
    if tokens is not None:
        # Not on the command line: every user of the machine can read that.
        environ[TOKENS] = tokens
    check_bind(host, environ.get(TOKENS))
    os.execve(sys.executable, [sys.executable, *command(host, port)], environ)  # noqa: S606 - no shell needed


def command(host: str, port: int) -> list[str]:
    """The arguments for Python."""
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
