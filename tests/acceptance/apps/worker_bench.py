"""One worker of the jobs, and what a test asks of it."""

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
from tests.acceptance.apps.worker_jobs import STORE_PATIENCE, Wire, make_app
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

    def look(self, task_id: str) -> Execution:
        """What the execution is now."""
        return resolve(self.store.read([task_id])[0], datetime.now(UTC))

    def record(self, task_id: str) -> TaskRecord:
        """What the registry knows."""
        record = self.store.read([task_id])[0].record
        assert record is not None
        return record

    def meta(self, task_id: str) -> dict[str, Any]:
        """Celery's own record, as any existing reader gets it."""
        return dict(self.app.backend._get_task_meta_for(task_id))

    def ended(self, task_id: str, *, within: float = 60.0) -> Execution:
        """The execution, once it has ended."""

        def look() -> Execution | None:
            try:
                known = (
                    self.store.read([task_id])[0].record is not None
                )  # it isn't, where its publisher has no Headway
                execution = self.look(task_id) if known else None
            except Unavailable:  # SQLite blocks readers while a slow disk writes: read again
                return None
            return execution if execution is not None and execution.status.terminal else None

        return until(look, within=within, what=f"{task_id} to end")


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
    """A worker of the jobs while the block runs. ``jobs``: the module that has them. ``env``: their
    settings (``TRACK_STARTED="0"``).
    """
    told = {"JOBS_BROKER": broker, "JOBS_BACKEND": backend or broker} | {
        f"JOBS_{name}": value for name, value in env.items()
    }
    app = make_app(told | {"JOBS_TIMEOUT": str(STORE_PATIENCE)})
    with Worker(
        f"tests.acceptance.apps.{jobs}",
        env=told,
        pool=pool,
        concurrency=concurrency,
        queues=["jobs"],
    ) as worker:
        try:
            yield Bench(app, worker)
        finally:
            store_for(app).close()
            app.close()
