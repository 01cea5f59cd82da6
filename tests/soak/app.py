"""The web process of the soak test: nothing but the extension, and a look at what is in its memory."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter

from celery import Celery
from flask import Flask

from headway.server import Headway

celery = Celery("soak", broker="memory://", backend=os.environ["SOAK_BACKEND"])

#: What belongs to a viewer, by class name. One that is left is a leak, and tells which.
OF_VIEWERS = frozenset(
    {
        "Greenlet",
        "SocketViewer",
        "EventViewer",
        "Line",
        "Frame",
        "Server",
        "WSConnection",
        "_Watched",
    }
)


def create_app() -> Flask:
    """For gunicorn."""
    app = Flask(__name__)
    Headway(app, celery=celery)

    @app.get("/room")
    def room() -> dict[str, dict[str, int]]:
        gc.collect()
        kinds = Counter(type(each).__name__ for each in gc.get_objects())
        threads = Counter(
            thread.name.rpartition("-")[0] or thread.name for thread in threading.enumerate()
        )
        return {
            "objects": {name: kinds[name] for name in sorted(OF_VIEWERS)},
            "threads": dict(threads),
        }

    return app
