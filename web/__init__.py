"""The service's Flask application: ``web:create_app()``. API and dashboard are Headway's, page and
upload are ``web.pages``.
"""

from __future__ import annotations

from typing import Any

from flask import Flask

import tasks  # noqa: F401 (the API checks arguments against the tasks themselves)
from app import celery
from headway.server import Headway
from web import pages
from web.jobs import JOBS


def create_app(**settings: Any) -> Flask:
    """Make the application; ``settings`` are Headway's, and beat ``HEADWAY_*`` in the environment."""
    app = Flask(__name__)
    ours: dict[str, Any] = {
        "operations_at_root": True,
        "startable": [job.task for job in JOBS],
        # the start page links to it, so it isn't left to the environment
        "dashboard": "/dashboard",
    }
    headway = Headway(app, celery=celery, **(ours | settings))
    pages.register(app, headway)
    return app
