"""The extension mounted in a Flask app over the fakes: everything of the server that needs no
server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from flask import Flask
from flask.testing import FlaskClient

from headway.core.registry import AttemptStart, Registration, StateWrite
from headway.feeds.memory import MemoryFeed
from headway.server import Headway
from headway.stores.memory import MemoryStore


class Clock:
    """A clock that a test turns by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


class MountedApp:
    """An app, its client, and a hand in the store: `publish`, `begin`, `report` and `end` do what
    publisher and worker would.
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
        """Register it, as a publisher does; ``more`` of a `Registration`."""
        self.store.register([Registration(execution_id, task, self.clock(), **more)])
        return execution_id

    def begin(self, execution_id: str) -> int:
        """Open an attempt, as a worker does; returns its number."""
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
        """Report progress of the open attempt."""
        stamp = round(self.clock().timestamp() * 1000)
        said = {
            "current": current,
            "total": total,
            "message": message,
            "attributes": attributes or None,
            "timestamp": stamp,
        }
        self.write(execution_id, "PROGRESS", said)

    def end(self, execution_id: str, state: str = "SUCCESS", result: Any = None) -> None:
        """End the open attempt."""
        self.write(execution_id, state, result)

    def write(self, execution_id: str, state: str, result: Any) -> None:
        """Any state of the open attempt, with what goes with it."""
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
    """`MountedApp`, with the hub's and the feed's threads ended afterwards."""
    made = MountedApp(app, celery, **settings)
    try:
        yield made
    finally:
        made.headway.hub.close()
