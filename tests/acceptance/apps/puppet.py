"""A job that does what a test tells it, word by word, so that no test waits for time."""

from __future__ import annotations

import os

import redis
from celery import Celery

import headway

#: Seconds that the job waits for the next word before it gives up.
PATIENCE = 60

#: The steps that it has in all.
TOTAL = 40


def make_app(url: str) -> Celery:
    """The application, on one server for everything. Tests publish with it, the worker below runs it."""
    app = Celery("puppet", broker=url, backend=url, set_as_current=False)
    app.conf.update(task_track_started=True, task_default_queue="puppet")
    headway.install(app)

    @app.task(name="puppet.play", bind=True)
    def play(self) -> dict[str, int]:
        """One step a word; "end" returns, "fail" raises."""
        progress = headway.RequestContext.get().progress
        step = 0
        with redis.Redis.from_url(url, socket_timeout=None) as client:
            while True:
                word = client.blpop(f"puppet:{self.request.id}", timeout=PATIENCE)
                if word is None or word[1] == b"end":
                    return {"steps": step}
                if word[1] == b"fail":
                    raise ValueError("the disk is full")
                step += 1
                progress.update(step, TOTAL, f"step {step}")

    return app


if "PUPPET_URL" in os.environ:
    app = make_app(os.environ["PUPPET_URL"])
