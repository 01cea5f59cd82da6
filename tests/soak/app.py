"""The web process of the soak test: the extension, and a route that counts its objects."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter

from celery import Celery
from flask import Flask
from gevent import Greenlet
from simple_websocket import Server
from wsproto import WSConnection

from headway.server import Headway
from headway.server.streams import hub
from headway.server.streams.changes import Frame
from headway.server.streams.connection import ViewerConnection
from headway.server.streams.sse import EventViewer
from headway.server.streams.websocket import SocketViewer

celery = Celery("soak", broker="memory://", backend=os.environ["SOAK_BACKEND"])

#: Classes with one or more objects for each viewer. An object that is left is a leak.
CLASSES_PER_VIEWER = (
    Greenlet,
    EventViewer,
    SocketViewer,
    ViewerConnection,
    Frame,
    Server,
    WSConnection,
    hub._Watched,
)


def create_app() -> Flask:
    """The app, for gunicorn."""
    app = Flask(__name__)
    Headway(app, celery=celery)

    @app.get("/resources")
    def resources() -> dict[str, dict[str, int]]:
        gc.collect()
        classes = Counter(type(each) for each in gc.get_objects())
        threads = Counter(
            thread.name.rpartition("-")[0] or thread.name for thread in threading.enumerate()
        )
        return {
            "objects": {each.__name__: classes[each] for each in CLASSES_PER_VIEWER},
            "threads": dict(threads),
        }

    return app
