"""The web process of the soak test: the extension, and a route that counts its objects."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter

from celery import Celery
from flask import Flask

from headway.server import Headway

celery = Celery("soak", broker="memory://", backend=os.environ["SOAK_BACKEND"])

#: Classes with one or more objects for each viewer. An object that is left is a leak.
CLASSES_PER_VIEWER = frozenset(
    {
        "Greenlet",
        "SocketViewer",
        "EventViewer",
        "ViewerConnection",
        "Frame",
        "Server",
        "WSConnection",
        "_Watched",
    }
)


def create_app() -> Flask:
    """The app, for gunicorn."""
    app = Flask(__name__)
    Headway(app, celery=celery)

    @app.get("/resources")
    def resources() -> dict[str, dict[str, int]]:
        gc.collect()
        classes = Counter(type(each).__name__ for each in gc.get_objects())
        threads = Counter(
            thread.name.rpartition("-")[0] or thread.name for thread in threading.enumerate()
        )
        return {
            "objects": {name: classes[name] for name in sorted(CLASSES_PER_VIEWER)},
            "threads": dict(threads),
        }

    return app
