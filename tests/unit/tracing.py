"""Runs tasks like a worker's pool, with Celery's own tracer, in the calling thread."""

from __future__ import annotations

import uuid
from types import TracebackType
from typing import Any, Self

from celery import Celery
from celery.app.trace import build_tracer

import headway
from headway.core.registry import TaskRecord
from headway.models import Progress
from headway.stores.memory import MemoryStore
from headway.worker.app_state import app_state_of
from headway.worker.scheduler import shared


class Lab:
    """An installed app with a store in memory. A context manager: ends the scheduler's thread."""

    def __init__(self, *, app: Celery | None = None, install: bool = True) -> None:
        self.store = MemoryStore()
        self.app = (
            app
            if app is not None
            else Celery("lab", broker="memory://", backend="cache+memory://", set_as_current=False)
        )
        self.app.conf.update(task_track_started=True)
        if install and app is None:
            headway.install(self.app, store=self.store)

    def use(self, store: MemoryStore) -> None:
        """Use another store for the app."""
        app_state = app_state_of(self.app)
        assert app_state is not None
        app_state.store = self.store = store

    def task(self, **options: Any) -> Any:
        """``app.task`` for this app only: by default Celery adds a task to all apps."""
        return self.app.task(shared=False, **options)

    def run(self, task: Any, task_id: str | None = None, *args: Any, **request: Any) -> Any:
        """Run a task as a worker does; returns its result, or raises its exception."""
        made = self.trace(task, task_id, *args, **request)
        failed = made.info is not None and made.info.state == "FAILURE"
        if failed:
            raise made.info.retval
        return made.retval

    def trace(self, task: Any, task_id: str | None = None, *args: Any, **request: Any) -> Any:
        """Run a task as a worker does; returns what the tracer returns."""
        self.app.finalize()
        task = self.app.tasks[task.name]
        task_id = task_id or str(uuid.uuid4())
        message = {
            "id": task_id,
            "task": task.name,
            "hostname": "w1@lab",
            "delivery_info": {},
            "is_eager": False,
            "retries": 0,
        }
        return build_tracer(task.name, task, app=self.app)(task_id, args, {}, message | request)

    def record(self, task_id: str) -> TaskRecord:
        """The record in the registry."""
        record = self.store.read([task_id])[0].record
        assert record is not None
        return record

    def meta(self, task_id: str) -> Any:
        """Celery's record."""
        return self.store.read([task_id])[0].meta

    def progress(self, task_id: str) -> Progress:
        """The last progress."""
        progress = self.record(task_id).progress
        assert progress is not None
        return progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shared.close()
