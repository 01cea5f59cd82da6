"""What the workers of the fault matrix run: jobs that count upwards, and that a row can hold, kill
or let go on.
"""

from __future__ import annotations

import os

if "FAULTS_CLOCK" in os.environ:  # before anything else asks for the time
    from tests.faults.clock import bend

    bend(os.environ["FAULTS_CLOCK"])

import sys
from collections.abc import Mapping

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

import headway
from tests.faults.sync_channel import Wire

QUEUE = "faults"


def make_app(env: Mapping[str, str] = os.environ) -> Celery:
    """The application, for the workers and for the row that publishes."""
    app = Celery(
        "faults", broker=env["FAULTS_BROKER"], backend=env["FAULTS_BACKEND"], set_as_current=False
    )
    app.conf.update(
        task_default_queue=QUEUE,
        task_track_started=env.get("FAULTS_TRACK_STARTED", "1") == "1",
        task_acks_late=env.get("FAULTS_ACKS_LATE", "0") == "1",
        task_reject_on_worker_lost=env.get("FAULTS_ACKS_LATE", "0") == "1",
        result_expires=float(env.get("FAULTS_EXPIRES", "86400")),
        task_store_eager_result=env.get("FAULTS_STORE_EAGER", "0") == "1",
        broker_connection_retry_on_startup=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_prefetch_multiplier=int(env.get("FAULTS_PREFETCH", "4")),
    )
    app.wire = Wire(env["FAULTS_WIRE"])
    headway.install(app, interval=float(env.get("FAULTS_INTERVAL", "0.05")))
    _counts(app)
    _limits(app)
    _repeats(app)
    _ends(app)
    return app


def _count(task: Task, first: int, last: int, total: int = 10) -> None:
    progress = headway.RequestContext.get().progress
    for step in range(first, last + 1):
        progress.update(step, total, f"step {step}")


def _counts(app: Celery) -> None:
    wire = app.wire

    @app.task(name="faults.count", bind=True)
    def count(self: Task) -> int:
        """1 to 10, and the end."""
        _count(self, 1, 10)
        return 10

    @app.task(name="faults.held", bind=True)
    def held(self: Task) -> str:
        """1 to 5, then the row's word, then 6 to 10."""
        _count(self, 1, 5)
        wire.tell(self.request.id, os.getpid())
        word = wire.gate(self.request.id)
        _count(self, 6, 10)
        return word

    @app.task(name="faults.hot", bind=True)
    def hot(self: Task) -> None:
        """Upwards for as long as it lives."""
        progress, step = headway.RequestContext.get().progress, 0
        wire.tell(self.request.id, os.getpid())
        while True:
            step += 1
            progress.update(step, 0, "hot")

    @app.task(name="faults.stubborn", bind=True)
    def stubborn(self: Task) -> None:
        """Held, and when it is terminated it counts on in its ``finally:``."""
        try:
            held.run.__func__(self)
        finally:
            for step in range(6, 1000):
                headway.RequestContext.get().progress.update(step, 1000, "in finally")

    @app.task(name="faults.goes_on", bind=True)
    def goes_on(self: Task) -> None:
        """1 to 5, then the row's word, then upwards for as long as it lives."""
        held.run.__func__(self)
        _count(self, 11, sys.maxsize, 0)

    @app.task(name="faults.deaf", bind=True)
    def deaf(self: Task) -> str:
        """1 to 5, then the row's word, and the end without another report."""
        _count(self, 1, 5)
        wire.tell(self.request.id, os.getpid())
        return wire.gate(self.request.id)

    @app.task(name="faults.races", bind=True)
    def races(self: Task) -> str:
        """A short one, that says when its code has run to the end."""
        wire.tell(self.request.id, os.getpid())
        _count(self, 1, 2000, 2000)
        wire.tell(f"{self.request.id}-done")
        return "done"


def _limits(app: Celery) -> None:
    wire = app.wire

    @app.task(name="faults.hard", bind=True, time_limit=1)
    def hard(self: Task) -> None:
        """Into its hard time limit, reporting without pause."""
        app.tasks["faults.hot"].run.__func__(self)

    @app.task(name="faults.hard_by_hand", bind=True, time_limit=1)
    def hard_by_hand(self: Task) -> None:
        """The same, by Celery's own means."""
        step = 0
        while True:
            step += 1
            self.update_state(state="PROGRESS", meta={"current": step, "total": 0})

    @app.task(name="faults.soft", bind=True, soft_time_limit=1)
    def soft(self: Task, catches: bool) -> str:
        """Into its soft time limit, reporting without pause."""
        try:
            app.tasks["faults.hot"].run.__func__(self)
        except SoftTimeLimitExceeded:
            if not catches:
                raise
            wire.tell(f"{self.request.id}-caught")
        return "in time"

    @app.task(name="faults.limited", bind=True, time_limit=3)
    def limited(self: Task) -> None:
        """Terminated long before its time limit, whose timer goes on (fact 42)."""
        _count(self, 1, 5)
        wire.tell(self.request.id, os.getpid())
        wire.gate(self.request.id)


def _repeats(app: Celery) -> None:
    wire = app.wire

    @app.task(name="faults.retries", bind=True, max_retries=None)
    def retries(self: Task, times: int, countdown: float) -> int:
        """Count to 10 ``times`` over, each time as a new attempt; every one but the last ends in a
        retry.
        """
        _count(self, 1, 10)
        if self.request.retries < times - 1:
            raise self.retry(countdown=countdown)
        return int(self.request.retries) + 1

    @app.task(name="faults.gives_up", bind=True, max_retries=2, default_retry_delay=0)
    def gives_up(self: Task) -> None:
        """Retries until Celery lets it fail."""
        _count(self, 1, 5)
        raise self.retry(exc=ValueError("no more"))

    @app.task(name="faults.picks_up", bind=True, acks_late=True, reject_on_worker_lost=True)
    def picks_up(self: Task) -> int:
        """Held in its first delivery; a second one counts to the end."""
        if (
            self.request.delivery_info.get("redelivered")
            or headway.RequestContext.get().attempt > 1
        ):
            _count(self, 1, 10)
            return 10
        _count(self, 1, 5)
        wire.tell(self.request.id, os.getpid())
        wire.gate(self.request.id)
        return -1

    @app.task(name="faults.twice", bind=True)
    def twice(self: Task, run: str, way: str = "well") -> str:
        """One of two runs of one id: held under its own name."""
        _count(self, 1, 5)
        wire.tell(f"{self.request.id}-{run}", os.getpid())
        wire.gate(f"{self.request.id}-{run}")
        _count(self, 6, 10)
        if way == "badly":
            raise ValueError(run)
        return run


def _ends(app: Celery) -> None:
    wire = app.wire

    @app.task(name="faults.quiet", bind=True, ignore_result=True)
    def quiet(self: Task, way: str) -> None:
        """A result that nobody wants."""
        _count(self, 1, 5)
        if way == "badly":
            raise ValueError("quietly")

    @app.task(name="faults.fails", bind=True)
    def fails(self: Task) -> None:
        """Half way."""
        _count(self, 1, 5)
        raise ValueError("half way")

    @app.task(name="faults.ignores", bind=True)
    def ignores(self: Task) -> None:
        """``raise Ignore``."""
        _count(self, 1, 5)
        raise Ignore

    @app.task(name="faults.rejects", bind=True, acks_late=True)
    def rejects(self: Task, requeue: bool) -> str:
        """``raise Reject``; one that is put back runs well the second time."""
        _count(self, 1, 5)
        if requeue and headway.RequestContext.get().attempt > 1:
            _count(self, 6, 10)
            return "again"
        raise Reject("not mine", requeue=requeue)

    @app.task(name="faults.exits", bind=True)
    def exits(self: Task) -> None:
        """``sys.exit``."""
        _count(self, 1, 5)
        sys.exit(3)

    @app.task(name="faults.replaced", bind=True)
    def replaced(self: Task) -> None:
        """Another one goes on under its id."""
        _count(self, 1, 5)
        wire.tell(self.request.id, os.getpid())
        raise self.replace(app.tasks["faults.count"].si())


if "FAULTS_BROKER" in os.environ:
    app = make_app()
