"""Signs of life: the worker's main process says of each task that it runs, every few seconds, that
it does.

When they stop (the process was killed, the machine has gone, or it is cut off from the backend) the
execution is shown as stalled, and as running again when they come back. They come from the main
process whatever the pool: a prefork child that is busy in C code for a minute couldn't give any
(celery-facts#heartbeats-under-each-pool), and its silence means nothing. Outside prefork the tasks
share that process, and one that holds the interpreter for longer than a sign lasts reads as
stalled: then nothing there moves indeed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps

from headway.worker import celery_internals
from headway.worker.app_state import AppState, app_state_of
from headway.worker.scheduler import Scheduler, shared


class Heartbeat:
    """The signs of one worker, for all that it runs; one round trip for all of them."""

    def __init__(
        self,
        installation: AppState,
        worker: str,
        *,
        running: Callable[[], list[str]] = celery_internals.running_tasks,
        scheduler: Scheduler = shared,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._installation, self._worker = installation, worker
        self._running, self._scheduler, self._clock = running, scheduler, clock
        self._ending = False

    def start(self) -> None:
        """Begin. The timer's thread is made now, after a pool has patched what it patches."""
        self._ending = False
        self._scheduler.call_at(self._clock(), self._look)

    def stop(self) -> None:
        """The worker takes no more tasks; the signs go on until the last one has ended."""
        self._ending = True

    def _look(self, now: float) -> None:
        """The timer went off."""
        task_ids = self._running()
        if self._ending and not task_ids:
            return
        try:
            self._give(task_ids)
        finally:
            # A backend that is away is asked again as soon as it may be: the signs shall be back
            # when it is.
            retry_at = self._installation.breaker.retry_at
            later = self._clock() + self._installation.heartbeat_interval
            self._scheduler.call_at(min(later, retry_at) if retry_at > now else later, self._look)

    def _give(self, task_ids: list[str]) -> None:
        installation = self._installation
        store = installation.store
        if not task_ids or store is None or not installation.asks_now():
            return
        with installation.faults():
            # The answer (whose cancel is asked for) is left: under prefork the tasks run elsewhere,
            # and they ask themselves.
            store.heartbeat(task_ids, self._worker, installation.heartbeat_ttl)


class HeartbeatStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Gives a worker its signs of life. In the worker's blueprint and not in the consumer's: that
    one is taken down when the broker goes away, and the tasks go on.
    """

    def create(self, parent: Any) -> Heartbeat | None:
        """Before the pool forks, so that its children know that signs will be given."""
        installation = app_state_of(parent.app)
        if installation is None:
            return None
        installation.sends_heartbeats = True
        return Heartbeat(installation, parent.hostname)
