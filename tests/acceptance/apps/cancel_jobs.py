"""Jobs that are to be cancelled: each learns of it in its own way, or not at all; for a worker
alone.
"""

from __future__ import annotations

import threading

from celery import Task

import headway
from tests.acceptance.apps.worker_jobs import PATIENCE, app

wire = app.wire


@app.task(name="cancel.update")
def update() -> None:
    """Reports often, and tidies up."""
    progress = headway.RequestContext.get().progress
    progress.update(1, 10, "running")
    wire.tell("running")
    nap = threading.Event()
    try:
        for _ in range(PATIENCE * 100):
            nap.wait(0.01)
            progress.update(2, 10, "still running")
    finally:
        progress.update(9, 10, "tidied")
        wire.tell("tidied")


@app.task(name="cancel.track")
def track() -> None:
    """A loop and nothing else."""
    nap = threading.Event()
    for step in headway.RequestContext.get().progress.track(range(PATIENCE * 100)):
        if not step:
            wire.tell("running")
        nap.wait(0.01)


@app.task(name="cancel.look")
def look() -> None:
    """Never reports."""
    ctx = headway.RequestContext.get()
    wire.tell("running")
    nap = threading.Event()
    for _ in range(PATIENCE * 100):
        nap.wait(0.01)
        ctx.raise_if_cancelled()


@app.task(name="cancel.deaf")
def deaf(name: str) -> str:
    """Neither reports nor looks."""
    wire.tell(name)
    return str(wire.gate(name))


@app.task(name="cancel.retry", bind=True, max_retries=1)
def retry(self: Task, seconds: int) -> None:
    """Waits for its second attempt."""
    wire.tell("retry", self.request.retries)
    raise self.retry(countdown=seconds)
