"""Jobs for heartbeats, retries and progress timeouts, beside those of `worker_jobs`."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from typing import Any

from celery import Task
from celery.exceptions import SoftTimeLimitExceeded

import headway
from headway.worker.app_state import app_state_of
from tests.acceptance.apps.worker_jobs import WAIT_TIMEOUT, app

app_state = app_state_of(app)
assert app_state is not None
app_state.heartbeat_interval = float(
    os.environ.get("JOBS_HEARTBEAT_INTERVAL", app_state.heartbeat_interval)
)
app_state.heartbeat_ttl = float(os.environ.get("JOBS_HEARTBEAT_TTL", app_state.heartbeat_ttl))


@app.task(name="heartbeat.hog")
def hog(fifo: str) -> str:
    """Run C code that blocks all other threads until the test writes a byte (`PyDLL`, unlike
    `CDLL`, keeps the interpreter's lock).
    """
    headway.RequestContext.get().progress.update(1, 2, "in C")
    pipe = os.open(fifo, os.O_RDWR)  # for reading and writing, so that opening does not block
    app.wire.send("hog")
    while ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1) < 1:
        pass  # interrupted by a signal
    os.close(pipe)
    return "returned"


def _wait() -> None:
    threading.Event().wait(WAIT_TIMEOUT)


def _count() -> None:
    while True:
        sum(range(1000))


def _repeat() -> None:
    progress = headway.RequestContext.get().progress
    while True:
        progress.update(1, 2, "the same", {"same": "too"})
        threading.Event().wait(0.05)


def _swallow() -> None:
    tries = 0
    while tries < 2:
        try:
            _wait()
        except SoftTimeLimitExceeded:
            tries += 1
    raise ValueError("interrupted twice")


WAYS = {"wait": _wait, "count": _count, "repeat": _repeat, "swallow": _swallow}


@app.task(name="heartbeat.silent", progress_timeout=1)
def silent(way: str) -> None:
    headway.RequestContext.get().progress.update(1, 2, "and then nothing")
    WAYS[way]()


@app.task(name="heartbeat.reports", progress_timeout=2)
def reports(count: int) -> str:
    """Report often. Start again if the machine was too slow for the timeout."""
    progress = headway.RequestContext.get().progress
    number = 0
    while number < count:
        start = time.monotonic()
        try:
            progress.update(number, 0, f"report {number}")
            number += 1
            threading.Event().wait(0.25)
        except headway.ProgressTimeout:
            if time.monotonic() - start < 1.5:
                raise
            number = 0
    return "completed"


@app.task(name="heartbeat.limited", progress_timeout=30, soft_time_limit=1)
def limited() -> None:
    _wait()


def _seen(ctx: headway.RequestContext) -> Any:
    before = ctx.progress.previous
    return (
        None
        if before is None
        else [ctx.attempt, before.current, before.message, dict(before.attributes or {})]
    )


@app.task(name="heartbeat.retries", bind=True, max_retries=2)
def retries(self: Task) -> Any:
    """Return the progress of the previous attempt."""
    ctx = headway.RequestContext.get()
    seen = _seen(ctx)
    ctx.progress.update(ctx.attempt * 10, 30, f"attempt {ctx.attempt}", {"seen": str(seen)})
    if ctx.attempt < 3:
        raise self.retry(countdown=0)
    return seen


@app.task(name="heartbeat.redelivered", acks_late=True, reject_on_worker_lost=True)
def redelivered() -> Any:
    """Its process dies in the first attempt, and the broker delivers the message again."""
    ctx = headway.RequestContext.get()
    seen = _seen(ctx)
    if seen is None:
        ctx.progress.update(4, 10, "about to die")
        os.kill(os.getpid(), signal.SIGKILL)
    return seen
