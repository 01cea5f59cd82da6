"""What a scenario runs in: servers, workers, the two observers, and the final check."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from celery import Celery

from headway.backends import feed_for, store_for
from headway.core.states import resolve
from headway.errors import ExecutionExpired, ExecutionNotFound, HeadwayError
from headway.models import Execution, Phase
from headway.server.streams.hub import Hub
from tests.faults.clock_offset import ClockOffset
from tests.faults.jobs import QUEUE, make_app
from tests.faults.observers import (
    Expected,
    Observation,
    Poller,
    check_final_state,
    find_violations,
)
from tests.faults.sync_channel import SyncChannel
from tests.support.processes import Worker, running
from tests.support.rabbitmq import RabbitMQ
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

#: Seconds for one step of a scenario: a phase, an end, a shutdown. `until` scales it.
STEP_TIMEOUT = 40.0
#: Seconds for the viewer to receive an end that the store has. `until` scales it.
DELIVERY_TIMEOUT = 20.0


@dataclass
class Verdict:
    """The result of a scenario."""

    #: The number of executions that were judged.
    executions: int = 0
    #: Execution id -> violations.
    wrong: dict[str, list[str]] = field(default_factory=dict)


class Environment:
    """The environment of one scenario. A context manager.

    ``settings``: ``broker="own"`` or ``"rabbitmq"`` and ``backend="own"`` start a separate server,
    which the scenario may stop. ``clock="own"`` gives the workers a settable clock. Names in
    capitals configure the jobs (``INTERVAL="0.001"``).
    """

    def __init__(self, settings: Mapping[str, str], *, scale: float = 1.0) -> None:
        self.settings = settings
        self.scale = scale
        self.expected: dict[str, Expected] = {}
        self.verdict = Verdict()
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            server = stack.enter_context(ValkeyServer(durable=True))
            self.backend = (
                stack.enter_context(ValkeyServer(durable=True))
                if "backend" in self.settings
                else server
            )
            self.broker: ValkeyServer | RabbitMQ = server
            broker_url = server.url.replace("/0", "/1")
            if self.settings.get("broker") == "own":
                self.broker = stack.enter_context(ValkeyServer(durable=True))
                broker_url = self.broker.url
            elif self.settings.get("broker") == "rabbitmq":
                self.broker = stack.enter_context(RabbitMQ())
                broker_url = self.broker.url
            self.env = {
                "FAULTS_BROKER": broker_url,
                "FAULTS_BACKEND": self.backend.url,
                "FAULTS_CHANNEL": server.url.replace("/0", "/2"),
            }
            self.env |= {
                f"FAULTS_{name}": value for name, value in self.settings.items() if name.isupper()
            }
            if "clock" in self.settings:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "clock"
                self.clock = ClockOffset(path)
                self.env["FAULTS_CLOCK"] = str(path)
            self.app: Celery = make_app(
                {name: value for name, value in self.env.items() if name != "FAULTS_CLOCK"}
            )
            self.channel: SyncChannel = self.app.channel
            self.store = store_for(self.app)
            stack.callback(self.app.close)
            stack.callback(self.store.close)
            self.hub = Hub(self.store, feed_for(self.app, self.store))
            stack.callback(self.hub.close)
            self.poller = Poller(self.store)
            stack.callback(self.poller.close)
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        self._resources.close()

    # -- causing events

    def rounds(self, number: int) -> range:
        """The scaled number of repetitions, at least one."""
        return range(max(1, round(number * self.scale)))

    def start_worker(
        self, concurrency: int = 4, *, pool: str = "prefork", queues: Sequence[str] = (QUEUE,)
    ) -> Worker:
        """A running worker. It is stopped at the latest with the environment."""
        worker = Worker(
            "tests.faults.jobs", env=self.env, pool=pool, concurrency=concurrency, queues=queues
        )
        return self._resources.enter_context(worker)

    def send(self, name: str, *args: Any, expected: Expected | None = None, **options: Any) -> str:
        """Publish a job and observe it. Without ``expected``, call `expect` later."""
        task_id = options.pop("task_id", None) or os.urandom(8).hex()
        if expected is not None:
            self.expect(task_id, expected)
        self.app.tasks[f"faults.{name}"].apply_async(args, task_id=task_id, **options)
        self.observe(task_id)
        return task_id

    def observe(self, task_id: str) -> None:
        """Let both observers watch an execution."""
        if task_id not in self.poller.observations:
            observation = self.poller.observations[task_id] = Observation()
            self.hub.attach(task_id, observation)

    def expect(self, task_id: str, expected: Expected) -> None:
        """Set what really happens to an execution."""
        self.expected[task_id] = expected

    def wait_until_held(self, name: str) -> int:
        """Wait until a job waits for its release. Returns the id of its process."""
        return int(self.channel.wait_for(name))

    def release(self, name: str, word: str = "on") -> None:
        """Let a waiting job continue."""
        self.channel.release(name, word)

    def revoke(self, worker: Worker, task_id: str, **options: Any) -> None:
        """Use Celery's own revoke, and wait until the worker has received it."""
        self.app.control.revoke(task_id, **options)
        if options.get("terminate"):
            worker.wait_log(f"Terminating {task_id}|Tasks flagged as revoked: {task_id}")
        else:
            worker.wait_log(
                f"Tasks flagged as revoked: {task_id}|Discarding revoked task: .*{task_id}"
            )

    def kill_process_tree(self, worker: Worker) -> None:
        """Send SIGKILL to the worker and all its children at once, as in a power failure."""
        family = worker.descendants()
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        until(lambda: not running(family), within=10, what="the worker's children to end")

    # -- observing

    def get(self, task_id: str) -> Execution | HeadwayError:
        """The current state of an execution."""
        try:
            return resolve(self.store.read([task_id])[0], datetime.now(UTC))
        except (ExecutionNotFound, ExecutionExpired) as error:
            return error

    def wait_for(
        self,
        task_id: str,
        condition: Callable[[Execution], object],
        what: str,
    ) -> Execution:
        """The execution, as soon as the condition holds."""

        def found() -> Execution | None:
            now = self.get(task_id)
            return now if isinstance(now, Execution) and condition(now) else None

        return until(found, within=STEP_TIMEOUT, what=f"{task_id} to be {what}")

    def wait_for_phase(self, task_id: str, phase: Phase) -> Execution:
        """The execution, as soon as it is in the phase."""
        return self.wait_for(task_id, lambda now: now.phase is phase, phase.value)

    def wait_for_progress(self, task_id: str, current: float) -> Execution:
        """The execution, as soon as it has reported at least ``current``."""
        return self.wait_for(
            task_id,
            lambda now: now.progress is not None and (now.progress.current or 0) >= current,
            f"at {current}",
        )

    def wait_until_observed(self, task_id: str, phase: Phase) -> None:
        """Return when both observers have seen the phase."""
        observation = self.poller.observations[task_id]
        for seen in (observation.streamed, observation.polled):
            until(
                lambda seen=seen: phase in {each.phase for each in seen},
                within=STEP_TIMEOUT,
                what=f"an observer to see {phase}",
            )

    def wait_until_ended(self, *task_ids: str) -> None:
        """Return when all these executions have ended."""
        for task_id in task_ids:
            self.wait_for(task_id, lambda now: now.status.terminal, "ended")

    def wait_until_expired(self, task_id: str) -> None:
        """Return when the result of an execution has expired."""
        until(
            lambda: isinstance(self.get(task_id), ExecutionExpired),
            within=STEP_TIMEOUT,
            what=f"{task_id} to be expired",
        )

    # -- judging

    def check_now(self, task_id: str, expected: Expected) -> None:
        """Check the current state, before the end. Violations count in the verdict."""
        found = check_final_state(expected, self.get(task_id))
        self._add(task_id, [f"before the end: {violation}" for violation in found])

    def judge(self, *, within: float = DELIVERY_TIMEOUT) -> Verdict:
        """Judge all executions. Call this after all workers have ended: no late write can follow.

        ``within``: seconds for the viewers to receive the ends.
        """
        for task_id, expected in self.expected.items():
            self.verdict.executions += 1
            observation = self.poller.observations.get(task_id, Observation())
            self._wait_for_delivery(observation, expected, within)
            meta = self.app.backend._get_task_meta_for(task_id)
            self._add(task_id, find_violations(expected, observation, self.get(task_id), meta))
        return self.verdict

    def _add(self, task_id: str, violations: list[str]) -> None:
        if violations:
            self.verdict.wrong.setdefault(task_id, []).extend(violations)

    def _wait_for_delivery(
        self, observation: Observation, expected: Expected, within: float
    ) -> None:
        """The viewer receives an end a moment later. What it receives is judged, not when."""
        if expected.status is None or not expected.status.terminal or expected.expired:
            return
        with suppress(AssertionError):  # `find_violations` reports the missing end
            until(
                lambda: observation.streamed and observation.streamed[-1].status.terminal,
                within=within,
            )


def stop(worker: Worker) -> None:
    """Stop a worker with a warm shutdown: it finishes its tasks and makes its last writes."""
    worker.kill(signal.SIGTERM)
    worker.wait(within=STEP_TIMEOUT)
