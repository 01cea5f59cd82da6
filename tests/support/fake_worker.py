"""Runs of a task, without a worker: the store is told by the test itself what a worker would have
told it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from celery import Celery

from headway.backends import store_for
from headway.core.registry import AttemptStart, Registration, StateWrite
from headway.stores.base import Store
from headway.stores.result_backend import ResultBackend

#: Seconds that a backend may take to keep what is made by hand: it may be held up by all else that
#: runs.
PATIENCE = 60.0


class FakeWorker:
    """Executions in one store; ``encode`` makes the result backend's bytes of a record."""

    def __init__(self, store: Store, encode: Callable[[Mapping[str, Any]], bytes]) -> None:
        self.store = store
        self.encode = encode

    @classmethod
    def on(cls, backend: str) -> FakeWorker:
        """In a real result backend."""
        app = Celery("by-hand", broker="memory://", backend=backend)
        store = store_for(app)
        store._timeout = PATIENCE
        return cls(store, ResultBackend(app).encode)

    def publish(self) -> FakeExecution:
        """A task that waits to be run."""
        run = FakeExecution(self)
        self.store.register([Registration(run.id, "tasks.by_hand", _now())])
        return run

    def begin(self) -> FakeExecution:
        """A task that runs."""
        return self.publish().open()


class FakeExecution:
    """One task."""

    def __init__(self, runs: FakeWorker) -> None:
        self.id = uuid.uuid4().hex
        self._runs = runs
        self.attempt = 0

    def open(self) -> FakeExecution:
        """A worker takes it."""
        raw = self._runs.encode({"status": "STARTED", "result": None, "task_id": self.id})
        self.attempt = self._runs.store.start_attempt(
            AttemptStart(self.id, "tasks.by_hand", _now(), result=raw)
        ).attempt
        return self

    def report(
        self,
        current: float,
        total: float,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> FakeExecution:
        """It says how far it is."""
        meta = {
            "current": current,
            "total": total,
            "message": message,
            "attributes": attributes,
            "attempt": self.attempt,
        }
        meta |= {"timestamp": int(time.time() * 1000), "rate": None}
        return self.write("PROGRESS", meta, meta)

    def succeed(self, result: Any = None) -> FakeExecution:
        """It returns."""
        return self.write("SUCCESS", result)

    def fail(self, kind: str = "ValueError", message: str = "no") -> FakeExecution:
        """It raises."""
        return self.write(
            "FAILURE", {"exc_type": kind, "exc_message": [message], "exc_module": "builtins"}
        )

    def write(self, state: str, result: Any, meta: Any = None) -> FakeExecution:
        """Any state."""
        record = {
            "status": state,
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": None,
            "task_id": self.id,
        }
        raw = self._runs.encode(record)
        write = StateWrite(
            self.id,
            state,
            _now(),
            attempt=self.attempt or None,
            result=raw,
            meta=meta,
            expires=3600,
        )
        assert self._runs.store.write(write), f"{state} was refused"
        return self


def _now() -> datetime:
    return datetime.now(UTC)
