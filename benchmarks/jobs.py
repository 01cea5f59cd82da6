"""What runs inside a real Celery worker, and measures there: ``celery -A benchmarks.jobs``.

One process has both sides: an app with Headway installed, and a plain one beside it that stores in
the same server.
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
from benchmarks.measure import alternate
from headway.core.registry import StateWrite

URL = os.environ.get("BENCH_URL", "redis://127.0.0.1:6379/0")
EXPIRES = 3600
#: Calls of a hot loop in one round: enough for what is done once (a tqdm, a generator) not to
#: count. Usually, and with --quick.
CALLS = {False: 100_000, True: 50_000}
#: Among how many executions the reports of `stored` are shared out, and among how many keys what
#: stands beside them.
EXECUTIONS = 1_000

celery = Celery("benchmarks", broker=URL, backend=URL)
celery.conf.update(
    result_expires=EXPIRES, task_ignore_result=False, broker_connection_retry_on_startup=True
)
#: A short interval, where a viewer's latency is measured: the updates come slower than that, and
#: each is written at once.
headway.install(celery, interval=float(os.environ.get("BENCH_INTERVAL", "0.25")))

#: The same without Headway.
plain = Celery("plain", broker=URL, backend=URL, set_as_current=False)
plain.conf.update(result_expires=EXPIRES)

#: Sends the jobs. It has no result backend: Celery subscribes to the result of whatever it sends.
courier = Celery("courier", broker=URL, set_as_current=False)

Taken = dict[str, list[float]]

P = ParamSpec("P")


def job(measure: Callable[P, Any]) -> Callable[P, None]:
    """A task that leaves what it measured in the list ``<its id>-measured``.

    Not as its result: whoever waits for that with ``get`` is woken by every report, and takes the
    machine's time from what is measured.
    """

    @celery.task(name=f"benchmarks.{measure.__name__}", bind=True)
    @functools.wraps(measure)
    def leaving(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        measured = measure(self, *args, **kwargs)
        with closing(redis.Redis.from_url(URL)) as client:
            client.rpush(f"{self.request.id}-measured", json.dumps(measured))

    return leaving


def sent(name: str, *args: object, task_id: str | None = None) -> Callable[..., Any]:
    """Send a job to the worker; the answer waits for what it measured, ``timeout`` seconds at most."""
    task_id = task_id or uuid.uuid4().hex
    courier.send_task(f"benchmarks.{name}", args, task_id=task_id)

    def measured(timeout: int) -> Any:
        with closing(
            redis.Redis.from_url(URL, socket_timeout=None)
        ) as client:  # redis-py 8's default is less than a job takes
            found = client.blpop([f"{task_id}-measured"], timeout=timeout)
        if found is None:
            raise TimeoutError(f"the job {name} measured nothing within {timeout} s")
        return json.loads(found[1])

    return measured


@celery.task(name="benchmarks.nothing", ignore_result=True)
def nothing() -> None:
    """A task to be published."""


@plain.task(name="plain.nothing", ignore_result=True)
def plain_nothing() -> None:
    """The same task of the plain app."""


@plain.task(name="plain.reporting", bind=True)
def plain_reporting(self: Any) -> None:
    """A task to report with as one does without Headway."""


@job
def update(self: Any, quick: bool) -> Taken:
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
        with open(os.devnull, "w") as nowhere, tqdm(total=count, file=nowhere) as bar:
            step = bar.update
            for _ in range(count):
                step(1)

    ways = {"ours": ours, "message": with_message, "attributes": with_attributes, "tqdm": theirs}
    return alternate(ways, quick=quick, count=CALLS[quick])


@job
def track(self: Any, quick: bool) -> Taken:
    """``progress.track(rows)`` beside ``tqdm(rows)``, with a body that does nothing."""
    from tqdm import tqdm

    progress = headway.RequestContext.get().progress

    def ours(count: int) -> None:
        for _ in progress.track(range(count)):
            pass

    def theirs(count: int) -> None:
        with open(os.devnull, "w") as nowhere:
            for _ in tqdm(range(count), file=nowhere):
                pass

    return alternate({"ours": ours, "tqdm": theirs}, quick=quick, count=CALLS[quick])


@job
def stored(self: Any, quick: bool, size: int) -> Taken:
    """One report on its way to the server, ``size`` bytes of text in it, in as many ways as people
    do it.

    ``store``: the guarded write alone, of bytes that are there; ``ours``: the whole way of an
    update that is due, encoding included; ``set``: a plain SET of the same bytes; ``celery``:
    ``update_state`` of a plain app; ``celery-progress``: its recorder on a task of that app (it
    stores a description, no attributes).
    """
    attempt = self.request._headway
    reporter = headway.RequestContext.get().progress
    reporter.update(0, 1)  # the attempt's number is known from now on
    message = "x" * min(size, 2000)
    attributes = {"more": "y" * (size - 2000)} if size > 2000 else None
    meta = {"current": 1, "total": 10, "message": message, "attributes": attributes}
    meta |= {"timestamp": int(time.time() * 1000), "rate": None, "attempt": attempt.number}
    raw = self.backend.headway_record(self.request.id, meta, "PROGRESS", None, None)
    write = StateWrite(
        self.request.id,
        "PROGRESS",
        datetime.now(UTC),
        attempt=attempt.number,
        meta=meta,
        result=raw,
        expires=EXPIRES,
    )
    store = attempt.installation.store
    # Each report is a new one of one of many executions: of a single one most would be thinned out
    # of its history, and cost less.
    writes = itertools.cycle(
        replace(write, task_id=f"{self.request.id}-{n}", attempt=1) for n in range(EXECUTIONS)
    )
    names = itertools.cycle(f"bench-set-{n}" for n in range(EXECUTIONS))
    client = redis.Redis.from_url(URL)
    plain_reporting.push_request(id=f"plain-{self.request.id}", called_directly=False, retries=0)
    for _ in range(EXECUTIONS):
        store.write(next(writes))
    try:
        return alternate(
            {
                "store": _times(lambda: store.write(next(writes))),
                "ours": _times(lambda: attempt._store(meta)),
                "set": _times(lambda: client.set(next(names), raw, ex=EXPIRES)),
                "celery": _times(lambda: plain_reporting.update_state(state="PROGRESS", meta=meta)),
            }
            | _celery_progress(size),
            quick=quick,
        )
    finally:
        plain_reporting.pop_request()
        client.close()


def _celery_progress(size: int) -> dict[str, Callable[[int], None]]:
    try:
        from celery_progress.backend import ProgressRecorder
    except ImportError:
        return {}
    recorder = ProgressRecorder(plain_reporting)
    return {"celery-progress": _times(lambda: recorder.set_progress(1, 10, "x" * size))}


def _times(call: Callable[[], object]) -> Callable[[int], None]:
    def repeated(count: int) -> None:
        for _ in range(count):
            call()

    return repeated


@job
def spoken(self: Any, rounds: int, each: int, pause: float, key: str) -> None:
    """Tell the time to whoever watches: by ``progress.update``, and by a plain PUBLISH on ``key``
    and on ``key-raw``, in turns.

    Says in the list ``key-ready`` that it runs, and begins when there is something in ``key``;
    "end" is the last word on both channels.
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
