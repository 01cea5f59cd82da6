"""Jobs that live, fall silent and come again; with the others, for a worker alone."""

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
from tests.acceptance.apps.worker_jobs import PATIENCE, app

installation = app_state_of(app)
assert installation is not None
installation.heartbeat_interval = float(
    os.environ.get("JOBS_SIGN_INTERVAL", installation.heartbeat_interval)
)
installation.heartbeat_ttl = float(os.environ.get("JOBS_SIGN_LIFETIME", installation.heartbeat_ttl))


@app.task(name="life.hog")
def hog(fifo: str) -> str:
    """C code that holds the interpreter and lets no other thread in (`PyDLL`, unlike `CDLL`, keeps
    the lock), until the test writes a byte.
    """
    headway.RequestContext.get().progress.update(1, 2, "in C")
    pipe = os.open(fifo, os.O_RDWR)  # for both, so that to open it is no wait
    app.wire.tell("hog")
    while ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1) < 1:
        pass  # a signal came
    os.close(pipe)
    return "out again"


def _wait() -> None:
    threading.Event().wait(PATIENCE)


def _count() -> None:
    while True:
        sum(range(1000))


def _repeat() -> None:
    progress = headway.RequestContext.get().progress
    while True:
        progress.update(1, 2, "the same", {"again": "and again"})
        threading.Event().wait(0.05)


def _swallow() -> None:
    tries = 0
    while tries < 2:
        try:
            _wait()
        except SoftTimeLimitExceeded:
            tries += 1
    raise ValueError("struck twice")


WAYS = {"wait": _wait, "count": _count, "repeat": _repeat, "swallow": _swallow}


@app.task(name="life.silent", progress_timeout=1)
def silent(way: str) -> None:
    headway.RequestContext.get().progress.update(1, 2, "and then nothing")
    WAYS[way]()


@app.task(name="life.speaks", progress_timeout=2)
def speaks(words: int) -> str:
    """Begins anew where it was held up for so long that it was silent indeed."""
    progress = headway.RequestContext.get().progress
    word = 0
    while word < words:
        begin = time.monotonic()
        try:
            progress.update(word, 0, f"word {word}")
            word += 1
            threading.Event().wait(0.25)
        except headway.ProgressTimeout:
            if time.monotonic() - begin < 1.5:
                raise
            word = 0
    return "all said"


@app.task(name="life.limited", progress_timeout=30, soft_time_limit=1)
def limited() -> None:
    _wait()


def _seen(ctx: headway.RequestContext) -> Any:
    before = ctx.progress.previous
    return (
        None
        if before is None
        else [ctx.attempt, before.current, before.message, dict(before.attributes or {})]
    )


@app.task(name="life.retries", bind=True, max_retries=2)
def retries(self: Task) -> Any:
    """Goes on where the attempt before got to."""
    ctx = headway.RequestContext.get()
    seen = _seen(ctx)
    ctx.progress.update(ctx.attempt * 10, 30, f"attempt {ctx.attempt}", {"seen": str(seen)})
    if ctx.attempt < 3:
        raise self.retry(countdown=0)
    return seen


@app.task(name="life.redelivered", acks_late=True, reject_on_worker_lost=True)
def redelivered() -> Any:
    """Its process dies in the first attempt, and the broker delivers the message again."""
    ctx = headway.RequestContext.get()
    seen = _seen(ctx)
    if seen is None:
        ctx.progress.update(4, 10, "about to die")
        os.kill(os.getpid(), signal.SIGKILL)
    return seen
