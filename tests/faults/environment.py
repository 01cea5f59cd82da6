"""What one row stands in: servers, workers, the two observers, and the judgement when all is over."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
from celery import Celery

from headway.backends import feed_for, store_for
from headway.core.states import resolve
from headway.errors import ExecutionExpired, ExecutionNotFound, HeadwayError
from headway.models import Execution, Phase
from headway.server.streams.hub import Hub
from tests.faults.clock import Clock
from tests.faults.jobs import QUEUE, make_app
from tests.faults.sync_channel import Wire
from tests.faults.watching import Eye, Poller, Truth, at_the_end, faults
from tests.support.processes import Worker, running
from tests.support.rabbitmq import RabbitMQ
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

#: Seconds that anything here may take before the row counts as wrong.
PATIENCE = 40.0


@dataclass
class Judged:
    """What came of a row."""

    runs: int = 0
    #: Execution id -> what was wrong with it.
    wrong: dict[str, list[str]] = field(default_factory=dict)


class Room:
    """A context manager. ``settings``: ``broker`` = own | rabbitmq and ``backend`` = own (a server
    of its own, to be stopped), ``clock`` = own; whatever is in capitals goes to the jobs
    (``INTERVAL="0.001"``).
    """

    def __init__(self, settings: Mapping[str, str], *, scale: float = 1.0) -> None:
        self.settings = settings
        self.scale = scale
        self.truths: dict[str, Truth] = {}
        self.judged = Judged()
        self._things = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            home = stack.enter_context(ValkeyServer(durable=True))
            self.backend = (
                stack.enter_context(ValkeyServer(durable=True))
                if "backend" in self.settings
                else home
            )
            self.broker: ValkeyServer | RabbitMQ = home
            broker_url = home.url.replace("/0", "/1")
            if self.settings.get("broker") == "own":
                self.broker = stack.enter_context(ValkeyServer(durable=True))
                broker_url = self.broker.url
            elif self.settings.get("broker") == "rabbitmq":
                self.broker = stack.enter_context(RabbitMQ())
                broker_url = self.broker.url
            self.env = {
                "FAULTS_BROKER": broker_url,
                "FAULTS_BACKEND": self.backend.url,
                "FAULTS_WIRE": home.url.replace("/0", "/2"),
            }
            self.env |= {
                f"FAULTS_{name}": value for name, value in self.settings.items() if name.isupper()
            }
            if "clock" in self.settings:
                place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "clock"
                self.clock = Clock(place)
                self.env["FAULTS_CLOCK"] = str(place)
            self.app: Celery = make_app(
                {name: value for name, value in self.env.items() if name != "FAULTS_CLOCK"}
            )
            self.wire: Wire = self.app.wire
            self.store = store_for(self.app)
            stack.callback(self.app.close)
            stack.callback(self.store.close)
            self.hub = Hub(self.store, feed_for(self.app, self.store))
            stack.callback(self.hub.close)
            self.poller = Poller(self.store)
            stack.callback(self.poller.close)
            self._things = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._things.close()

    # -- making it happen

    def times(self, number: int) -> range:
        """How often: fewer in a quick run, never none."""
        return range(max(1, round(number * self.scale)))

    def worker(
        self, concurrency: int = 4, *, pool: str = "prefork", queues: Sequence[str] = (QUEUE,)
    ) -> Worker:
        """A worker that runs; it is stopped at the end, if it isn't before."""
        made = Worker(
            "tests.faults.jobs", env=self.env, pool=pool, concurrency=concurrency, queues=queues
        )
        return self._things.enter_context(made)

    def send(self, name: str, *args: Any, truth: Truth | None = None, **options: Any) -> str:
        """Publish a job, with both observers on it; ``truth`` may be told later (`expect`)."""
        task_id = options.pop("task_id", None) or os.urandom(8).hex()
        if truth is not None:
            self.expect(task_id, truth)
        self.app.tasks[f"faults.{name}"].apply_async(args, task_id=task_id, **options)
        self.watch(task_id)
        return task_id

    def watch(self, task_id: str) -> None:
        """Put both observers on it."""
        if task_id not in self.poller.eyes:
            eye = self.poller.eyes[task_id] = Eye(task_id)
            self.hub.attach(task_id, eye)

    def expect(self, task_id: str, truth: Truth) -> None:
        """What really happens to it."""
        self.truths[task_id] = truth

    def begun(self, name: str) -> int:
        """Wait until a held job holds, and its reports are written; its process's id."""
        return int(self.wire.heard(name))

    def go_on(self, name: str, word: str = "on") -> None:
        """Let a held job go on."""
        self.wire.open(name, word)

    def revoke(self, worker: Worker, task_id: str, **options: Any) -> None:
        """Celery's own revoke, and wait until the worker has heard it."""
        self.app.control.revoke(task_id, **options)
        if options.get("terminate"):
            worker.wait_log(f"Terminating {task_id}|Tasks flagged as revoked: {task_id}")
        else:
            worker.wait_log(
                f"Tasks flagged as revoked: {task_id}|Discarding revoked task: .*{task_id}"
            )

    def kill_outright(self, worker: Worker) -> None:
        """SIGKILL to the worker and all its children at once, as a machine that loses its power."""
        family = worker.descendants()
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        until(lambda: not running(family), within=10, what="the worker's children to be gone")

    # -- looking

    def look(self, task_id: str) -> Execution | HeadwayError:
        """What it is now."""
        try:
            return resolve(self.store.read([task_id])[0], datetime.now(UTC))
        except (ExecutionNotFound, ExecutionExpired) as error:
            return error

    def seen(
        self,
        task_id: str,
        condition: Callable[[Execution], object],
        what: str,
        within: float = PATIENCE,
    ) -> Execution:
        """The execution, once the condition holds."""

        def found() -> Execution | None:
            now = self.look(task_id)
            return now if isinstance(now, Execution) and condition(now) else None

        return until(found, within=within, what=f"{task_id} to be {what}")

    def at(self, task_id: str, phase: Phase, within: float = PATIENCE) -> Execution:
        """The execution, once it is in that phase."""
        return self.seen(task_id, lambda now: now.phase is phase, phase.value, within)

    def shown(self, task_id: str, phase: Phase) -> None:
        """Return when both observers have been shown that phase."""
        eye = self.poller.eyes[task_id]
        for seen in (eye.told, eye.polled):
            until(
                lambda seen=seen: phase in {each.phase for each in seen},
                within=PATIENCE,
                what=f"observers to see {phase}",
            )

    def ended(self, *task_ids: str, within: float = PATIENCE) -> None:
        """Return when they all have ended."""
        for task_id in task_ids:
            self.seen(task_id, lambda now: now.status.terminal, "over", within)

    def expired(self, task_id: str) -> None:
        """Return when its end is known to have expired."""
        until(
            lambda: isinstance(self.look(task_id), ExecutionExpired),
            within=PATIENCE,
            what=f"{task_id} to be expired",
        )

    # -- judging

    def check(self, task_id: str, truth: Truth) -> None:
        """What it is just now, in mid-run; judged with the rest."""
        wrong = [f"in mid-run: {fault}" for fault in at_the_end(truth, self.look(task_id))]
        if wrong:
            self.judged.wrong.setdefault(task_id, []).extend(wrong)

    def judge(self, *, patience: float = 20.0) -> Judged:
        """When all workers are gone, so that nothing can come late any more: what was wrong.

        ``patience``: seconds that the viewer may lag behind.
        """
        for task_id, truth in self.truths.items():
            self.judged.runs += 1
            eye = self.poller.eyes.get(task_id, Eye(task_id))
            self._let_catch_up(eye, truth, patience)
            meta = self.app.backend._get_task_meta_for(task_id)
            wrong = faults(truth, eye, self.look(task_id), meta)
            if wrong:
                self.judged.wrong.setdefault(task_id, []).extend(wrong)
        return self.judged

    def _let_catch_up(self, eye: Eye, truth: Truth, patience: float) -> None:
        """The viewer is told a moment after; what it was told is judged, not when."""
        if truth.status is None or not truth.status.terminal or truth.expired:
            return
        try:
            until(
                lambda: eye.told and eye.told[-1].status.terminal,
                within=patience,
                what="the viewer to be told",
            )
        except AssertionError:
            return  # the judge says so


def stop(worker: Worker) -> None:
    """Warm shutdown: what it has begun it ends, and all that its main process has still to say it
    says.
    """
    worker.kill(signal.SIGTERM)
    worker.wait(within=PATIENCE)


def children_of(worker: Worker) -> list[int]:
    """The pool's processes."""
    return [child.pid for child in psutil.Process(worker.pid).children(recursive=True)]
