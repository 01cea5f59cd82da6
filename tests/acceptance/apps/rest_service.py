"""A user's Flask app without the tasks: it knows them by name. Configured by the environment."""

from __future__ import annotations

import os

from celery import Celery
from flask import Flask

from headway.server import Headway


def create_app() -> Flask:
    """For gunicorn and ``flask run``."""
    celery = Celery("rest", broker=os.environ["REST_BROKER"], backend=os.environ["REST_BACKEND"])
    celery.conf.task_default_queue = "puppet"
    app = Flask(__name__)
    app.add_url_rule("/", "page", lambda: "mine")
    Headway(app, celery=celery, startable_tasks=["puppet.play"], root_endpoints=True)
    return app
