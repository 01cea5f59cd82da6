"""Heartbeats: the worker's main process sends one for every task that it runs, every few seconds.

When they stop (the process was killed, the machine is down or disconnected from the backend), the
execution is shown as stalled, and as running again when they return. The main process sends them in
every pool: a prefork child that runs C code for a minute could not
(celery-facts#heartbeats-under-each-pool), and its silence means nothing. Outside prefork, tasks
share that process; a task that holds the interpreter for longer than a heartbeat is valid is shown
as stalled, and then nothing in that process makes progress.
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
    """The heartbeats of one worker for all its tasks, in one round trip."""

    def __init__(
        self,
        app_state: AppState,
        worker: str,
        *,
        running: Callable[[], list[str]] = celery_internals.running_tasks,
        scheduler: Scheduler = shared,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app_state, self._worker = app_state, worker
        self._running, self._scheduler, self._clock = running, scheduler, clock
        self._ending = False

    def start(self) -> None:
        """Start. The timer's thread is made now, after the pool has applied its monkey patches."""
        self._ending = False
        self._scheduler.call_at(self._clock(), self._on_timer)

    def stop(self) -> None:
        """The worker accepts no more tasks. Heartbeats continue until the last task has ended."""
        self._ending = True

    def _on_timer(self, now: float) -> None:
        """Called by the timer."""
        task_ids = self._running()
        if self._ending and not task_ids:
            return
        try:
            self._send(task_ids)
        finally:
            # After an outage, retry as early as allowed: heartbeats must return with the backend.
            retry_at = self._app_state.breaker.retry_at
            later = self._clock() + self._app_state.heartbeat_interval
            self._scheduler.call_at(
                min(later, retry_at) if retry_at > now else later, self._on_timer
            )

    def _send(self, task_ids: list[str]) -> None:
        app_state = self._app_state
        store = app_state.store
        if not task_ids or store is None or not app_state.store_available():
            return
        with app_state.swallow_store_errors():
            # The reply (requested cancellations) is not used: under prefork the tasks run in other
            # processes and read it themselves.
            store.heartbeat(task_ids, self._worker, app_state.heartbeat_ttl)


class HeartbeatStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the heartbeats of a worker.

    In the worker's blueprint, not in the consumer's: that one stops when the broker is unavailable,
    while tasks continue.
    """

    def create(self, parent: Any) -> Heartbeat | None:
        """Called before the pool forks, so that its children know that heartbeats are sent."""
        app_state = app_state_of(parent.app)
        if app_state is None:
            return None
        app_state.sends_heartbeats = True
        return Heartbeat(app_state, parent.hostname)
