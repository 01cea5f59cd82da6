"""Jobs of every kind, with every end and fault, for the tests of the worker side.

A job sends its position to the test (`send`) and waits for it (`gate`), with lists on the broker's
server. No test waits for a fixed time.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

import redis
from celery import Celery, Task, shared_task
from celery.exceptions import Ignore, Reject

import headway
from headway.backends import store_for

#: Seconds that a job waits for the test.
WAIT_TIMEOUT = 60

#: Seconds that Headway waits for its store here. With the default of half a second, a busy machine
#: would look like an outage, and reports would be lost. A test of an outage sets ``TIMEOUT``.
STORE_TIMEOUT = 30.0


class Wire:
    """How a job and its test communicate."""

    def __init__(self, url: str) -> None:
        self.url = url

    def gate(self, name: str, timeout: int = WAIT_TIMEOUT) -> str:
        """Wait for the test's message, and return it."""
        with self._client() as client:
            message = client.blpop([f"gate:{name}"], timeout=timeout)
        assert message is not None, f"{name} was not opened"
        return message[1].decode()

    def send(self, name: str, value: Any = "") -> None:
        """Send a message to the test."""
        with self._client() as client:
            client.rpush(f"sent:{name}", str(value))

    def open(self, name: str, message: str = "go") -> None:
        """The test's side of `gate`."""
        with self._client() as client:
            client.rpush(f"gate:{name}", message)

    def receive(self, name: str, timeout: int = WAIT_TIMEOUT) -> str:
        """The test's side of `send`."""
        with self._client() as client:
            message = client.blpop([f"sent:{name}"], timeout=timeout)
        assert message is not None, f"the job did not send {name}"
        return message[1].decode()

    def _client(self) -> redis.Redis:
        """A client without the default timeout of redis-py 8: five seconds, also for a command that
        waits for sixty.
        """
        return redis.Redis.from_url(self.url, socket_timeout=None)


class OwnBase(Task):
    """A deployment's own base class, which does not know Headway."""

    abstract = True

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.app.wire.send("on_success", task_id)


class OwnCall(Task):
    """A base class with its own `__call__`."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]


class ClassTask(Task):
    """A task that is a class."""

    name = "jobs.class_task"

    def run(self, steps: int) -> int:
        return _count(steps)


@shared_task(name="jobs.shared")
def shared(steps: int) -> int:
    """A shared task: it belongs to every app."""
    return _count(steps)


def _count(steps: int) -> int:
    progress = headway.RequestContext.get().progress
    for step in range(steps):
        progress.update(step + 1, steps, f"step {step + 1}")
    return steps


def make_app(env: Mapping[str, str] = os.environ) -> Celery:
    """The app, for the worker and for the test."""
    app = Celery("jobs", broker=env["JOBS_BROKER"], backend=env["JOBS_BACKEND"])
    app.conf.update(
        task_track_started=env.get("JOBS_TRACK_STARTED", "1") == "1",
        task_default_queue="jobs",
        result_extended=env.get("JOBS_EXTENDED", "0") == "1",
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    app.wire = Wire(env["JOBS_BROKER"])

    @app.task(name="jobs.before", bind=True)
    def before(self: Task, steps: int) -> int:
        """Made before install."""
        return _count(steps)

    if env.get("JOBS_INSTALL", "1") == "1":
        headway.install(app, interval=float(env.get("JOBS_INTERVAL", "0.25")))
    store_for(app)._timeout = float(env.get("JOBS_TIMEOUT", STORE_TIMEOUT))
    _kinds(app)
    _contexts(app)
    _ends(app)
    _faults(app)

    @app.on_after_finalize.connect(weak=False)
    def late(**_: Any) -> None:
        app.register_task(ClassTask())

        @app.task(name="jobs.late")
        def made_late(steps: int) -> int:
            return _count(steps)

    return app


def _kinds(app: Celery) -> None:
    """Tasks of all kinds; each counts and returns."""

    @app.task(name="jobs.plain")
    def plain(steps: int) -> int:
        return _count(steps)

    @app.task(name="jobs.own_base", base=OwnBase)
    def own_base(steps: int) -> int:
        return _count(steps)

    @app.task(name="jobs.by_base", base=headway.ProgressTask)
    def by_base(steps: int) -> int:
        return _count(steps)

    @app.task(name="jobs.own_call", base=OwnCall)
    def own_call(steps: int) -> int:
        return _count(steps)


def _contexts(app: Celery) -> None:
    """Jobs that use their context in different places."""
    wire = app.wire

    @app.task(name="jobs.whoami", bind=True)
    def whoami(self: Task) -> dict[str, Any]:
        ctx = headway.RequestContext.get()
        return {
            "request_id": ctx.request_id,
            "execution_id": ctx.execution_id,
            "attempt": ctx.attempt,
            "headers": dict(ctx.headers),
            "id": self.request.id,
        }

    @app.task(name="jobs.gated")
    def gated(name: str) -> str:
        ctx = headway.RequestContext.get()
        ctx.progress.update(30, 100, "waiting", {"name": name})
        wire.send(name)
        message = wire.gate(name)
        ctx.progress.update(60, 100, "done")
        return message

    @app.task(name="jobs.coroutines")
    def coroutines() -> int:
        async def part(number: int) -> None:
            await asyncio.to_thread(
                lambda: headway.RequestContext.get().progress.update(
                    number, 3, "in a thread of asyncio"
                )
            )

        async def whole() -> None:
            headway.RequestContext.get().progress.update(0, 3)
            await asyncio.gather(part(1), part(2), part(3))
            headway.RequestContext.get().progress.update(3, 3, "gathered")

        asyncio.run(whole())
        return 3

    @app.task(name="jobs.threads")
    def threads() -> str:
        ctx = headway.RequestContext.get()
        errors = []

        def bare() -> None:
            try:
                headway.RequestContext.get()
            except headway.UsageError as exc:
                errors.append(str(exc))
            ctx.progress.update(5, 5, "from a thread")

        thread = threading.Thread(target=bare)
        thread.start()
        thread.join()
        return errors[0]

    @app.task(name="jobs.child")
    def child() -> str:
        ctx = headway.RequestContext.get()
        ctx.progress.update(1, 2, "mine")
        reader, writer = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if not pid:
            try:
                ctx.progress.update(2, 2, "the child's")
                headway.RequestContext.get()
            except headway.UsageError as exc:
                writer.send(str(exc))
            finally:
                os._exit(0)
        error: str = reader.recv()
        os.waitpid(pid, 0)
        return error

    @app.task(name="jobs.calls_others", bind=True)
    def calls_others(self: Task, deep: bool = False) -> list[Any]:
        progress = headway.RequestContext.get().progress
        progress.update(1, 4, "mine")
        if deep:
            return [headway.RequestContext.get().request_id]
        other = app.tasks["jobs.whoami"]()
        again = self(deep=True)
        eager = app.tasks["jobs.whoami"].apply().get(disable_sync_subtasks=False)
        progress.update(2, 4, "still mine")
        return [other["request_id"], *again, eager["request_id"], eager["id"]]


def _ends(app: Celery) -> None:
    """Jobs with every kind of end."""
    wire = app.wire

    @app.task(name="jobs.fails")
    def fails() -> None:
        headway.RequestContext.get().progress.update(3, 10, "before the error")
        raise ValueError("three of ten")

    @app.task(name="jobs.retries", bind=True, max_retries=1)
    def retries(self: Task) -> int:
        ctx = headway.RequestContext.get()
        ctx.progress.update(ctx.attempt, 2, f"attempt {ctx.attempt}")
        if ctx.attempt == 1:
            raise self.retry(countdown=0)
        wire.gate("retries")
        return ctx.attempt

    @app.task(name="jobs.quiet", ignore_result=True)
    def quiet(report: bool = True, how: str = "well") -> None:
        if report:
            headway.RequestContext.get().progress.update(1, 2, "quiet")
        if how == "badly":
            raise ValueError("quietly")

    @app.task(name="jobs.ignores")
    def ignores() -> None:
        headway.RequestContext.get().progress.update(1, 2, "never mind")
        raise Ignore

    @app.task(name="jobs.rejects")
    def rejects() -> None:
        headway.RequestContext.get().progress.update(1, 2, "not mine")
        raise Reject("not mine", requeue=False)

    @app.task(name="jobs.exits")
    def exits() -> None:
        headway.RequestContext.get().progress.update(1, 2, "leaving")
        sys.exit(3)

    @app.task(name="jobs.killed")
    def killed() -> None:
        headway.RequestContext.get().progress.update(1, 2, "about to die")
        os.kill(os.getpid(), signal.SIGKILL)

    class Slow(Task):
        abstract = True
        seen = False

        def update_state(self, *args: Any, **kwargs: Any) -> None:
            first, self.seen = not self.seen, True
            if first:
                threading.Event().wait(WAIT_TIMEOUT)

    @app.task(name="jobs.soft_limit", soft_time_limit=1, base=Slow)
    def soft_limit() -> None:
        headway.RequestContext.get().progress.update(1, 2)

    @app.task(name="jobs.replaces", bind=True)
    def replaces(self: Task) -> None:
        headway.RequestContext.get().progress.update(1, 2, "replaced")
        raise self.replace(app.tasks["jobs.gated"].si("replaced"))

    @app.task(name="jobs.terminated")
    def terminated() -> None:
        progress = headway.RequestContext.get().progress
        progress.update(1, 10, "running")
        wire.send("terminated")
        try:
            threading.Event().wait(WAIT_TIMEOUT)
        finally:
            for step in range(1000):
                progress.update(step, 1000, "in finally")

    @app.task(name="jobs.hard_limit", time_limit=1)
    def hard_limit() -> None:
        progress = headway.RequestContext.get().progress
        step = 0
        while True:
            step += 1
            progress.update(step, 0, "tight loop")

    @app.task(name="jobs.hard_limit_by_hand", time_limit=1, bind=True)
    def hard_limit_by_hand(self: Task) -> None:
        while True:
            self.update_state(state="PROGRESS", meta={"current": 1, "total": 2})


def _faults(app: Celery) -> None:
    """Jobs with faults of their backend or of their own."""
    wire = app.wire

    @app.task(name="jobs.outage")
    def outage() -> str:
        progress = headway.RequestContext.get().progress
        progress.update(1, 3, "before")
        wire.send("outage", "started")
        wire.gate("outage")
        for _ in range(100_000):
            progress.update(2, 3, "during the outage")
        wire.send("outage", "continued")
        wire.gate("outage")
        progress.update(3, 3, "after")
        wire.gate("outage")
        return "done"

    @app.task(name="jobs.hot")
    def hot(steps: int) -> int:
        progress = headway.RequestContext.get().progress
        for step in progress.track(range(steps), message="hot"):
            assert step < steps
        return steps

    class Broken(Task):
        abstract = True

        def update_state(self, *args: Any, **kwargs: Any) -> None:
            raise RuntimeError("update_state always fails")

    @app.task(name="jobs.broken_override", base=Broken)
    def broken_override() -> str:
        headway.RequestContext.get().progress.update(1, 2)
        return "continued"

    @app.task(name="jobs.wrong")
    def wrong() -> str:
        progress = headway.RequestContext.get().progress
        try:
            progress.update(1, -1)
        except headway.UsageError as exc:
            return str(exc)
        return "accepted"

    @app.task(name="jobs.big_arguments")
    def big_arguments(text: str) -> int:
        headway.RequestContext.get().progress.update(1, 2)
        wire.gate("big")
        return len(text)


if "JOBS_BROKER" in os.environ:
    app = make_app()
