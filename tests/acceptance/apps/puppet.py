"""A task that does what a test commands, so that no test waits for a time."""

from __future__ import annotations

import json
import os
from typing import Any

import redis
from celery import Celery

import headway

#: Seconds that the task waits for a command before it returns.
PATIENCE = 60

#: The total number of steps.
TOTAL = 40


def make_app(url: str, backend: str | None = None, **conf: Any) -> Celery:
    """The app. Redis at ``url`` is the broker, and the result backend unless ``backend`` is given.

    Tests publish with it; the worker below runs it.
    """
    app = Celery(
        "puppet", broker=url, backend=url if backend is None else backend, set_as_current=False
    )
    app.conf.update(task_track_started=True, task_default_queue="puppet", **conf)
    headway.install(app)

    @app.task(name="puppet.play", bind=True)
    def play(self) -> dict[str, int]:
        """One step per command; "end" returns, "fail" raises."""
        progress = headway.RequestContext.get().progress
        step = 0
        with redis.Redis.from_url(url, socket_timeout=None) as client:
            while True:
                command = client.blpop(f"puppet:{self.request.id}", timeout=PATIENCE)
                if command is None or command[1] == b"end":
                    return {"steps": step}
                if command[1] == b"fail":
                    raise ValueError("the disk is full")
                step += 1
                progress.update(step, TOTAL, f"step {step}")

    return app


if "PUPPET_URL" in os.environ:
    conf = json.loads(os.environ.get("PUPPET_CONF", "{}"))
    app = make_app(os.environ["PUPPET_URL"], os.environ.get("PUPPET_BACKEND"), **conf)
