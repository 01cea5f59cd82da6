"""The application of the tests that use pytest-celery's ``celery_setup``."""

from __future__ import annotations

import os

from celery import Celery

import headway


def make_app(broker: str, backend: str) -> Celery:
    """An application with Headway and one task."""
    app = Celery("nodes", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        imports=["pytest_celery.vendors.worker.tasks"], broker_connection_retry_on_startup=True
    )
    headway.install(app)

    @app.task(name="nodes.count")
    def count(to: int) -> int:
        progress = headway.RequestContext.get().progress
        for _ in progress.track(range(to), message="Counting"):
            pass
        return to

    return app


if "NODES_BROKER" in os.environ:
    app = make_app(os.environ["NODES_BROKER"], os.environ["NODES_BACKEND"])
