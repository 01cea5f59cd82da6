"""The tasks of the fault matrix: they count upwards, and wait where a scenario can kill or release
them.
"""

from __future__ import annotations

import os

if "FAULTS_CLOCK" in os.environ:  # before any other import that uses the clock
    from tests.faults.clock_offset import apply_offset

    apply_offset(os.environ["FAULTS_CLOCK"])

import sys
from collections.abc import Mapping

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

import headway
from tests.faults.sync_channel import SyncChannel

QUEUE = "faults"


def make_app(env: Mapping[str, str] = os.environ) -> Celery:
    """The application of the workers, and of the scenario that publishes."""
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
    app.channel = SyncChannel(env["FAULTS_CHANNEL"])
    headway.install(app, interval=float(env.get("FAULTS_INTERVAL", "0.05")))
    _declare_counting(app)
    _declare_limits(app)
    _declare_repeats(app)
    _declare_ends(app)
    return app


def _count(task: Task, first: int, last: int, total: int = 10) -> None:
    progress = headway.RequestContext.get().progress
    for step in range(first, last + 1):
        progress.update(step, total, f"step {step}")


def _declare_counting(app: Celery) -> None:
    channel = app.channel

    @app.task(name="faults.count", bind=True)
    def count(self: Task) -> int:
        """Count to 10."""
        _count(self, 1, 10)
        return 10

    @app.task(name="faults.held", bind=True)
    def held(self: Task) -> str:
        """Count to 5, wait for the release, count to 10. Returns the word of the release."""
        _count(self, 1, 5)
        channel.notify(self.request.id, os.getpid())
        word = channel.wait_for_release(self.request.id)
        _count(self, 6, 10)
        return word

    @app.task(name="faults.busy", bind=True)
    def busy(self: Task) -> None:
        """Report without a pause until the process ends."""
        progress, step = headway.RequestContext.get().progress, 0
        channel.notify(self.request.id, os.getpid())
        while True:
            step += 1
            progress.update(step, 0, "busy")

    @app.task(name="faults.stubborn", bind=True)
    def stubborn(self: Task) -> None:
        """Wait for the release, and make 1000 reports in ``finally``, also when terminated."""
        try:
            held.run.__func__(self)
        finally:
            for step in range(6, 1000):
                headway.RequestContext.get().progress.update(step, 1000, "in finally")

    @app.task(name="faults.held_then_busy", bind=True)
    def held_then_busy(self: Task) -> None:
        """Count to 5, wait for the release, and report until the process ends."""
        held.run.__func__(self)
        _count(self, 11, sys.maxsize, 0)

    @app.task(name="faults.ignores_cancel", bind=True)
    def ignores_cancel(self: Task) -> str:
        """Count to 5, wait for the release, and return without another report."""
        _count(self, 1, 5)
        channel.notify(self.request.id, os.getpid())
        return channel.wait_for_release(self.request.id)

    @app.task(name="faults.notifies_end", bind=True)
    def notifies_end(self: Task) -> str:
        """Make 2000 reports, and notify the scenario at the end of the code."""
        channel.notify(self.request.id, os.getpid())
        _count(self, 1, 2000, 2000)
        channel.notify(f"{self.request.id}-done")
        return "done"


def _declare_limits(app: Celery) -> None:
    channel = app.channel

    @app.task(name="faults.hard", bind=True, time_limit=1)
    def hard(self: Task) -> None:
        """Report until the hard time limit."""
        app.tasks["faults.busy"].run.__func__(self)

    @app.task(name="faults.hard_update_state", bind=True, time_limit=1)
    def hard_update_state(self: Task) -> None:
        """Call Celery's own update_state until the hard time limit."""
        step = 0
        while True:
            step += 1
            self.update_state(state="PROGRESS", meta={"current": step, "total": 0})

    @app.task(name="faults.soft", bind=True, soft_time_limit=1)
    def soft(self: Task, catches: bool) -> str:
        """Report until the soft time limit."""
        try:
            app.tasks["faults.busy"].run.__func__(self)
        except SoftTimeLimitExceeded:
            if not catches:
                raise
            channel.notify(f"{self.request.id}-caught")
        return "in time"

    @app.task(name="faults.limited", bind=True, time_limit=3)
    def limited(self: Task) -> None:
        """Wait to be terminated. The timer of the time limit continues
        (celery-facts#celery-undoes-its-own-ends).
        """
        _count(self, 1, 5)
        channel.notify(self.request.id, os.getpid())
        channel.wait_for_release(self.request.id)


def _declare_repeats(app: Celery) -> None:
    channel = app.channel

    @app.task(name="faults.retries", bind=True, max_retries=None)
    def retries(self: Task, times: int, countdown: float) -> int:
        """Count to 10 in each of ``times`` attempts. All but the last end in a retry."""
        _count(self, 1, 10)
        if self.request.retries < times - 1:
            raise self.retry(countdown=countdown)
        return int(self.request.retries) + 1

    @app.task(name="faults.gives_up", bind=True, max_retries=2, default_retry_delay=0)
    def gives_up(self: Task) -> None:
        """Retry until Celery raises the error."""
        _count(self, 1, 5)
        raise self.retry(exc=ValueError("no more"))

    @app.task(
        name="faults.ends_when_redelivered", bind=True, acks_late=True, reject_on_worker_lost=True
    )
    def ends_when_redelivered(self: Task) -> int:
        """Wait in the first delivery; count to 10 in the second."""
        if (
            self.request.delivery_info.get("redelivered")
            or headway.RequestContext.get().attempt > 1
        ):
            _count(self, 1, 10)
            return 10
        _count(self, 1, 5)
        channel.notify(self.request.id, os.getpid())
        channel.wait_for_release(self.request.id)
        return -1

    @app.task(name="faults.duplicate", bind=True)
    def duplicate(self: Task, run: str, fails: bool = False) -> str:
        """One of two runs with the same id, each released by its own name."""
        _count(self, 1, 5)
        channel.notify(f"{self.request.id}-{run}", os.getpid())
        channel.wait_for_release(f"{self.request.id}-{run}")
        _count(self, 6, 10)
        if fails:
            raise ValueError(run)
        return run


def _declare_ends(app: Celery) -> None:
    channel = app.channel

    @app.task(name="faults.quiet", bind=True, ignore_result=True)
    def quiet(self: Task, fails: bool) -> None:
        """A task with ``ignore_result``."""
        _count(self, 1, 5)
        if fails:
            raise ValueError("no result")

    @app.task(name="faults.fails", bind=True)
    def fails(self: Task) -> None:
        """Raise an exception halfway."""
        _count(self, 1, 5)
        raise ValueError("halfway")

    @app.task(name="faults.ignores", bind=True)
    def ignores(self: Task) -> None:
        """Raise ``Ignore``."""
        _count(self, 1, 5)
        raise Ignore

    @app.task(name="faults.rejects", bind=True, acks_late=True)
    def rejects(self: Task, requeue: bool) -> str:
        """Raise ``Reject``. A requeued one completes in its second attempt."""
        _count(self, 1, 5)
        if requeue and headway.RequestContext.get().attempt > 1:
            _count(self, 6, 10)
            return "again"
        raise Reject("not mine", requeue=requeue)

    @app.task(name="faults.exits", bind=True)
    def exits(self: Task) -> None:
        """Call ``sys.exit``."""
        _count(self, 1, 5)
        sys.exit(3)

    @app.task(name="faults.replaced", bind=True)
    def replaced(self: Task) -> None:
        """Replace itself with a task of the same id."""
        _count(self, 1, 5)
        channel.notify(self.request.id, os.getpid())
        raise self.replace(app.tasks["faults.count"].si())


if "FAULTS_BROKER" in os.environ:
    app = make_app()
