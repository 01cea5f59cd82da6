"""A Flask app with only Headway, and one with a rule. Configured by the environment."""

from __future__ import annotations

import os

from celery import Celery
from flask import Flask
from flask_sock import Sock

from headway.backends import store_for
from headway.server import Headway

celery = Celery("streams", broker="memory://", backend=os.environ["STREAMS_BACKEND"])
# A backend that a busy machine holds up is not an outage: the tests make those themselves.
store_for(celery)._timeout = 30.0


def create_app() -> Flask:
    """For gunicorn and ``flask run``. Its own socket has options that must not affect Headway's."""
    app = Flask(__name__)
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 1}
    sock = Sock(app)

    @sock.route("/echo")
    def echo(ws):  # type: ignore[no-untyped-def]  # flask-sock has no types
        while True:
            ws.send(ws.receive())

    Headway(app, celery=celery)
    return app


def create_restricted_app() -> Flask:
    """An app whose rule allows the execution ``STREAMS_ALLOWED`` only."""
    app = Flask(__name__)
    allowed = (None, os.environ["STREAMS_ALLOWED"])
    Headway(
        app, celery=celery, authorize=lambda _who, _action, execution_id: execution_id in allowed
    )
    return app
