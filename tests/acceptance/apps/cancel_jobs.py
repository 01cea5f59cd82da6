"""Jobs that are cancelled: each notices it in another way, or not at all."""

from __future__ import annotations

import threading

from celery import Task

import headway
from tests.acceptance.apps.worker_jobs import WAIT_TIMEOUT, app

wire = app.wire


@app.task(name="cancel.update")
def update() -> None:
    """Reports often, and cleans up."""
    progress = headway.RequestContext.get().progress
    progress.update(1, 10, "running")
    wire.send("running")
    pause = threading.Event()
    try:
        for _ in range(WAIT_TIMEOUT * 100):
            pause.wait(0.01)
            progress.update(2, 10, "still running")
    finally:
        progress.update(9, 10, "cleaned up")
        wire.send("cleaned up")


@app.task(name="cancel.track")
def track() -> None:
    """Reports with `track`."""
    pause = threading.Event()
    for step in headway.RequestContext.get().progress.track(range(WAIT_TIMEOUT * 100)):
        if not step:
            wire.send("running")
        pause.wait(0.01)


@app.task(name="cancel.check")
def check() -> None:
    """Never reports, but checks."""
    ctx = headway.RequestContext.get()
    wire.send("running")
    pause = threading.Event()
    for _ in range(WAIT_TIMEOUT * 100):
        pause.wait(0.01)
        ctx.raise_if_cancelled()


@app.task(name="cancel.never_checks")
def never_checks(name: str) -> str:
    """Neither reports nor checks."""
    wire.send(name)
    return str(wire.gate(name))


@app.task(name="cancel.retry", bind=True, max_retries=1)
def retry(self: Task, seconds: int) -> None:
    """Waits for its second attempt."""
    wire.send("retry", self.request.retries)
    raise self.retry(countdown=seconds)
