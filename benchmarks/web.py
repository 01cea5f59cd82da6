"""The web app of the benchmarks: Headway and nothing else."""

from __future__ import annotations

from flask import Flask

from benchmarks.jobs import celery
from headway.server import Headway


def create_app() -> Flask:
    """A Flask application with Headway mounted."""
    app = Flask(__name__)
    Headway(app, celery=celery)
    return app
