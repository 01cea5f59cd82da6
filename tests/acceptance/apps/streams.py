"""A Flask app with nothing but Headway, as small as a user's own could be. Configured by the
environment.
"""

from __future__ import annotations

import os

from celery import Celery
from flask import Flask
from flask_sock import Sock

from headway.backends import store_for
from headway.server import Headway

celery = Celery("streams", broker="memory://", backend=os.environ["STREAMS_BACKEND"])
store_for(
    celery
)._timeout = (
    30.0  # a backend that a busy machine holds up is no outage here; those are made by hand
)


def create_app() -> Flask:
    """For gunicorn and ``flask run``. It has a socket of its own, with options that must not become
    Headway's.
    """
    app = Flask(__name__)
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 1}
    sock = Sock(app)

    @sock.route("/echo")
    def echo(ws):  # type: ignore[no-untyped-def]  # flask-sock has no types
        while True:
            ws.send(ws.receive())

    Headway(app, celery=celery)
    return app


def create_choosy_app() -> Flask:
    """One with a rule of its own: of all executions, only ``STREAMS_ALLOWED`` may be looked at."""
    app = Flask(__name__)
    allowed = (None, os.environ["STREAMS_ALLOWED"])
    Headway(
        app, celery=celery, authorize=lambda _who, _action, execution_id: execution_id in allowed
    )
    return app
