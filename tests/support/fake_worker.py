"""Executions without a worker: the test writes to the store what a worker would write."""

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
from tests.support.stores import slow_tolerant


class FakeWorker:
    """Makes executions in one store. ``encode`` turns Celery's meta into the backend's bytes."""

    def __init__(self, store: Store, encode: Callable[[Mapping[str, Any]], bytes]) -> None:
        self.store = store
        self.encode = encode

    @classmethod
    def on(cls, backend: str) -> FakeWorker:
        """A worker of a real result backend, given by its URL."""
        app = Celery("fake-worker", broker="memory://", backend=backend)
        return cls(slow_tolerant(store_for(app)), ResultBackend(app).encode)

    def publish(self) -> FakeExecution:
        """A queued task."""
        execution = FakeExecution(self)
        self.store.register([Registration(execution.id, "tasks.fake", _now())])
        return execution

    def begin(self) -> FakeExecution:
        """A running task."""
        return self.publish().open()


class FakeExecution:
    """One task. Each method makes the next write of its worker, and returns the execution."""

    def __init__(self, worker: FakeWorker) -> None:
        self.id = uuid.uuid4().hex
        self._worker = worker
        self.attempt = 0

    def open(self) -> FakeExecution:
        """Start an attempt."""
        raw = self._worker.encode({"status": "STARTED", "result": None, "task_id": self.id})
        self.attempt = self._worker.store.start_attempt(
            AttemptStart(self.id, "tasks.fake", _now(), result=raw)
        ).attempt
        return self

    def report(
        self,
        current: float,
        total: float,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> FakeExecution:
        """Report progress."""
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
        """Return ``result``."""
        return self.write("SUCCESS", result)

    def fail(self, kind: str = "ValueError", message: str = "no") -> FakeExecution:
        """Raise an exception of the type ``kind``."""
        return self.write(
            "FAILURE", {"exc_type": kind, "exc_message": [message], "exc_module": "builtins"}
        )

    def write(self, state: str, result: Any, meta: Any = None) -> FakeExecution:
        """Write any state."""
        record = {
            "status": state,
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": None,
            "task_id": self.id,
        }
        raw = self._worker.encode(record)
        write = StateWrite(
            self.id,
            state,
            _now(),
            attempt=self.attempt or None,
            result=raw,
            meta=meta,
            expires=3600,
        )
        assert self._worker.store.write(write), f"{state} was refused"
        return self


def _now() -> datetime:
    return datetime.now(UTC)
