"""Headway's Flask extension over the fakes: all of the server that needs no sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from flask import Flask
from flask.testing import FlaskClient

from headway.core.registry import AttemptStart, Registration, StateWrite
from headway.feeds.memory import MemoryFeed
from headway.server import Headway
from headway.stores.memory import MemoryStore
from tests.support.clock import Clock


class MountedApp:
    """An app and its test client. `publish`, `begin`, `report` and `end` write to the store what
    publisher and worker would write.
    """

    def __init__(
        self, app: Flask | None = None, celery: Celery | None = None, **settings: Any
    ) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.feed = MemoryFeed()
        self.store.subscribe(self.feed.publish)
        self.app = app if app is not None else Flask("mounted")
        self.celery = (
            celery
            if celery is not None
            else Celery("mounted", broker="memory://", set_as_current=False)
        )
        self.headway = Headway(
            self.app, self.celery, store=self.store, feed=self.feed, clock=self.clock, **settings
        )
        self.client: FlaskClient = self.app.test_client()

    def publish(self, execution_id: str, task: str = "tasks.some", **more: Any) -> str:
        """Register a task, as a publisher does. ``more``: further fields of `Registration`."""
        self.store.register([Registration(execution_id, task, self.clock(), **more)])
        return execution_id

    def begin(self, execution_id: str) -> int:
        """Start an attempt, as a worker does, and return its number."""
        return self.store.start_attempt(
            AttemptStart(execution_id, "tasks.some", self.clock(), worker="w@host")
        ).attempt

    def report(
        self,
        execution_id: str,
        current: float,
        total: float,
        message: str | None = None,
        **attributes: str,
    ) -> None:
        """Report progress of the current attempt."""
        stamp = round(self.clock().timestamp() * 1000)
        meta = {
            "current": current,
            "total": total,
            "message": message,
            "attributes": attributes or None,
            "timestamp": stamp,
        }
        self.write(execution_id, "PROGRESS", meta)

    def end(self, execution_id: str, state: str = "SUCCESS", result: Any = None) -> None:
        """End the current attempt."""
        self.write(execution_id, state, result)

    def write(self, execution_id: str, state: str, result: Any) -> None:
        """Write any state of the current attempt."""
        record = self.store.read([execution_id])[0].record
        assert record is not None
        meta = {
            "task_id": execution_id,
            "status": state,
            "result": result,
            "traceback": "Traceback: /some/file.py",
            "children": [],
        }
        stored = json.dumps(meta).encode()
        write = StateWrite(
            execution_id,
            state,
            self.clock(),
            attempt=record.attempt,
            result=stored,
            meta=result,
            expires=86400.0,
        )
        assert self.store.write(write)


@contextmanager
def mounted_app(
    app: Flask | None = None, celery: Celery | None = None, **settings: Any
) -> Iterator[MountedApp]:
    """A `MountedApp`. The threads of its hub and feed end on exit."""
    made = MountedApp(app, celery, **settings)
    try:
        yield made
    finally:
        made.headway.hub.close()
