"""One worker of the jobs, and what a test needs from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from celery import Celery

from headway.backends import store_for
from headway.core.registry import TaskRecord
from headway.core.states import resolve
from headway.errors import Unavailable
from headway.models import Execution
from headway.stores.base import Store
from tests.acceptance.apps.worker_jobs import STORE_TIMEOUT, Wire, make_app
from tests.support.processes import Worker
from tests.support.wait import until


class Bench:
    """A worker, the app that publishes to it, and the store that both write."""

    def __init__(self, app: Celery, worker: Worker) -> None:
        self.app = app
        self.worker = worker
        self.wire: Wire = app.wire
        self.store: Store = store_for(app)

    def send(self, name: str, *args: Any, **options: Any) -> str:
        """Publish a job; returns its id."""
        return str(self.app.send_task(name, args, **options).id)

    def execution(self, task_id: str) -> Execution:
        """The current state of the execution."""
        return resolve(self.store.read([task_id])[0], datetime.now(UTC))

    def record(self, task_id: str) -> TaskRecord:
        """The record in the registry."""
        record = self.store.read([task_id])[0].record
        assert record is not None
        return record

    def meta(self, task_id: str) -> dict[str, Any]:
        """Celery's own record, as existing readers get it."""
        return dict(self.app.backend._get_task_meta_for(task_id))

    def ended(self, task_id: str, *, within: float = 60.0) -> Execution:
        """Wait for the end of the execution, and return it."""

        def terminal() -> Execution | None:
            try:
                # Unknown at first if its publisher has no Headway.
                known = self.store.read([task_id])[0].record is not None
                execution = self.execution(task_id) if known else None
            except Unavailable:  # SQLite blocks readers while a slow disk writes: read again
                return None
            return execution if execution is not None and execution.status.terminal else None

        return until(terminal, within=within, what=f"{task_id} to end")


@contextmanager
def bench(
    broker: str,
    backend: str | None = None,
    *,
    pool: str = "prefork",
    concurrency: int = 2,
    jobs: str = "worker_jobs",
    **env: str,
) -> Iterator[Bench]:
    """Run a worker of the jobs during the block. ``jobs``: their module. ``env``: their settings
    (``TRACK_STARTED="0"``).
    """
    settings = {"JOBS_BROKER": broker, "JOBS_BACKEND": backend or broker} | {
        f"JOBS_{name}": value for name, value in env.items()
    }
    app = make_app(settings | {"JOBS_TIMEOUT": str(STORE_TIMEOUT)})
    with Worker(
        f"tests.acceptance.apps.{jobs}",
        env=settings,
        pool=pool,
        concurrency=concurrency,
        queues=["jobs"],
    ) as worker:
        try:
            yield Bench(app, worker)
        finally:
            store_for(app).close()
            app.close()
