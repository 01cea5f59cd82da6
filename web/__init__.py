"""The Flask application of the service: ``web:create_app()``.

Headway provides the API and the dashboard, `web.pages` the start page and the upload.
"""

from __future__ import annotations

from typing import Any

from flask import Flask

import tasks  # noqa: F401 (registers the tasks: the API checks arguments against them)
from app import celery
from headway.server import Headway
from web import pages
from web.jobs import JOBS


def create_app(**settings: Any) -> Flask:
    """Create the application. ``settings`` are Headway's and override ``HEADWAY_*`` variables."""
    app = Flask(__name__)
    defaults: dict[str, Any] = {
        "root_endpoints": True,
        "startable_tasks": [job.task for job in JOBS],
        "dashboard": "/dashboard",  # fixed, because the start page links to it
    }
    headway = Headway(app, celery=celery, **(defaults | settings))
    pages.register(app, headway)
    return app
