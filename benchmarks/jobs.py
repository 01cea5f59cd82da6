"""The jobs that measure inside a Celery worker: ``celery -A benchmarks.jobs``.

One process has both sides: an app with Headway, and a plain app that uses the same server.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ParamSpec

import redis
from celery import Celery

import headway
from benchmarks.measure import Side, Size, alternate, repeat
from headway.backends import store_for
from headway.core.registry import StateWrite
from headway.stores.result_backend import ResultBackend

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
EXPIRES = 3600
#: Seconds between two timed writes, for jobs that write by themselves: the timer never fires.
NEVER = 3000
#: Calls of a hot loop in one round: enough to make one-time costs (a tqdm, a generator) small.
CALLS = {Size.FULL: 100_000, Size.QUICK: 50_000, Size.SMOKE: 1_000}
#: The writes of `stored` go to so many executions in turn.
EXECUTIONS = 1_000

celery = Celery("benchmarks", broker=URL, backend=URL)
celery.conf.update(
    result_expires=EXPIRES, task_ignore_result=False, broker_connection_retry_on_startup=True
)
headway.install(celery, interval=float(os.environ.get("BENCH_INTERVAL", "0.25")))

#: The same app without Headway.
plain = Celery("plain", broker=URL, backend=URL, set_as_current=False)
plain.conf.update(result_expires=EXPIRES)

#: Sends the jobs. It has no result backend: Celery subscribes to the result of each task it sends.
sender = Celery("sender", broker=URL, set_as_current=False)

Samples = dict[str, list[float]]

P = ParamSpec("P")


def job(measure: Callable[P, Any]) -> Callable[P, None]:
    """A task that appends its samples to the list ``<its id>-samples``.

    They are not its result: a caller that waits with ``get`` is woken by every report, and takes
    time from the measurement.
    """

    @celery.task(name=f"benchmarks.{measure.__name__}", bind=True)
    @functools.wraps(measure)
    def wrapper(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        samples = measure(self, *args, **kwargs)
        with closing(redis.Redis.from_url(URL)) as client:
            client.rpush(f"{self.request.id}-samples", json.dumps(samples))

    return wrapper


def send_job(name: str, *args: object, task_id: str | None = None) -> Callable[[int], Any]:
    """Send a job to the worker; the result waits ``timeout`` seconds for its samples."""
    task_id = task_id or uuid.uuid4().hex
    sender.send_task(f"benchmarks.{name}", args, task_id=task_id)

    def wait(timeout: int) -> Any:
        # redis-py 8 has a default timeout, which is shorter than a job.
        with closing(redis.Redis.from_url(URL, socket_timeout=None)) as client:
            found = client.blpop([f"{task_id}-samples"], timeout=timeout)
        if found is None:
            raise TimeoutError(f"the job {name} has not finished within {timeout} s")
        return json.loads(found[1])

    return wait


@celery.task(name="benchmarks.nothing", ignore_result=True)
def nothing() -> None:
    """A task to publish."""


@plain.task(name="plain.nothing", ignore_result=True)
def plain_nothing() -> None:
    """The same task in the plain app."""


@plain.task(name="plain.reporting", bind=True)
def plain_reporting(self: Any) -> None:
    """A task that reports without Headway."""


@job
def update(self: Any, size: str) -> Samples:
    """``progress.update`` beside ``tqdm.update``, both in a loop that only counts."""
    from tqdm import tqdm

    progress = headway.RequestContext.get().progress

    def ours(count: int) -> None:
        report = progress.update
        for number in range(count):
            report(number, count)

    def with_message(count: int) -> None:
        report = progress.update
        for number in range(count):
            report(number, count, "Importing")

    def with_attributes(count: int) -> None:
        report = progress.update
        attributes = {"errors": "0"}
        for number in range(count):
            report(number, count, "Importing", attributes)

    def theirs(count: int) -> None:
        with open(os.devnull, "w") as devnull, tqdm(total=count, file=devnull) as bar:
            step = bar.update
            for _ in range(count):
                step(1)

    sides: dict[str, Side] = {
        "ours": ours,
        "message": with_message,
        "attributes": with_attributes,
        "tqdm": theirs,
    }
    return alternate(sides, Size(size), count=CALLS[Size(size)])


@job
def track(self: Any, size: str) -> Samples:
    """``progress.track(rows)`` beside ``tqdm(rows)``, with an empty body."""
    from tqdm import tqdm

    progress = headway.RequestContext.get().progress

    def ours(count: int) -> None:
        for _ in progress.track(range(count)):
            pass

    def theirs(count: int) -> None:
        with open(os.devnull, "w") as devnull:
            for _ in tqdm(range(count), file=devnull):
                pass

    return alternate({"ours": ours, "tqdm": theirs}, Size(size), count=CALLS[Size(size)])


@job
def stored(self: Any, size: str, length: int) -> Samples:
    """One report with ``length`` bytes of text, stored in several ways. The interval is `NEVER`.

    ``store``: the guarded write of encoded bytes. ``ours``: an update that is due, with validation
    and encoding. ``set``: a plain SET of the same bytes. ``celery``: ``update_state`` in the plain
    app. ``celery-progress``: its recorder in that app (it stores a description and no attributes).
    """
    message = "x" * min(length, 2000)
    attributes = {"more": "y" * (length - 2000)} if length > 2000 else None
    progress = headway.RequestContext.get().progress
    counter = itertools.count()
    progress.update(next(counter), 1 << 60)  # the first report is written at once

    def due_update() -> None:
        progress.update(next(counter), 1 << 60, message, attributes)
        progress.tick(time.monotonic())  # what the timer does when the interval is over

    meta = {"current": 1, "total": 10, "message": message, "attributes": attributes}
    meta |= {"timestamp": int(time.time() * 1000), "rate": None, "attempt": 1}
    record = {"status": "PROGRESS", "result": meta, "traceback": None, "children": []}
    raw = ResultBackend(celery).encode(record | {"date_done": None, "task_id": self.request.id})
    write = StateWrite(
        self.request.id,
        "PROGRESS",
        datetime.now(UTC),
        attempt=1,
        meta=meta,
        result=raw,
        expires=EXPIRES,
    )
    # Many executions in turn: most reports of a single one would be thinned out of its history,
    # and cost less.
    writes = itertools.cycle(
        replace(write, task_id=f"{self.request.id}-{n}") for n in range(EXECUTIONS)
    )
    keys = itertools.cycle(f"bench-set-{n}" for n in range(EXECUTIONS))
    plain_reporting.push_request(id=f"plain-{self.request.id}", called_directly=False, retries=0)
    with closing(store_for(celery)) as store, closing(redis.Redis.from_url(URL)) as client:
        for _ in range(EXECUTIONS):
            store.write(next(writes))
        try:
            return alternate(
                {
                    "store": repeat(lambda: store.write(next(writes))),
                    "ours": repeat(due_update),
                    "set": repeat(lambda: client.set(next(keys), raw, ex=EXPIRES)),
                    "celery": repeat(
                        lambda: plain_reporting.update_state(state="PROGRESS", meta=meta)
                    ),
                }
                | _celery_progress(length),
                Size(size),
            )
        finally:
            plain_reporting.pop_request()


def _celery_progress(length: int) -> dict[str, Side]:
    try:
        from celery_progress.backend import ProgressRecorder
    except ImportError:
        return {}
    recorder = ProgressRecorder(plain_reporting)
    return {"celery-progress": repeat(lambda: recorder.set_progress(1, 10, "x" * length))}


@job
def send_timestamps(self: Any, rounds: int, each: int, pause: float, key: str) -> None:
    """Send the time by ``progress.update``, by PUBLISH on ``key``, and by PUBLISH on ``key-raw``.

    Appends to the list ``key-ready`` when it runs, and starts when ``key`` has an element. "end" is
    the last message on both channels.
    """
    progress = headway.RequestContext.get().progress
    with closing(redis.Redis.from_url(URL, socket_timeout=None)) as client:
        ways: list[Callable[[str], object]] = [
            lambda stamp: progress.update(1, 2, stamp),
            lambda stamp: client.publish(key, stamp),
            lambda stamp: client.publish(f"{key}-raw", stamp),
        ]
        clock = threading.Event()
        client.rpush(f"{key}-ready", "yes")
        client.blpop([key], timeout=30)
        for number in range(rounds):
            for way in ways[number % 3 :] + ways[: number % 3]:
                for _ in range(each):
                    clock.wait(pause)
                    way(str(time.monotonic_ns()))
        client.publish(key, "end")
        client.publish(f"{key}-raw", "end")
