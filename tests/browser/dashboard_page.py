"""The dashboard over an in-memory store and feed: tests act as publisher and worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from playwright.sync_api import Locator, Page, expect

from headway.core.registry import AttemptStart, Registration
from tests.support.flask_app import MountedApp, mounted_app
from tests.support.wsgi_server import WsgiServer

PREFIX = "/jobs"


class Dashboard:
    """A running dashboard. ``server.clock`` starts at the browser's time; tests advance it."""

    def __init__(self, server: MountedApp, wsgi_server: WsgiServer) -> None:
        self.server = server
        self.wsgi_server = wsgi_server
        server.clock.now = datetime.now(UTC)

    @property
    def url(self) -> str:
        """The dashboard's page."""
        return f"{self.wsgi_server.url}{PREFIX}/"

    def publish(
        self, *ids: str, task: str = "shop.import_orders", owner: str | None = None
    ) -> None:
        """Register executions in one call, each published shortly after the one before."""
        registrations = []
        for execution_id in ids:
            self.server.clock.tick(0.01)
            registrations.append(Registration(execution_id, task, self.server.clock(), owner=owner))
        self.server.store.register(registrations)

    def start_attempt(self, execution_id: str, worker: str = "celery@north-1", **more: Any) -> None:
        """Start the next attempt."""
        clock = self.server.clock
        self.server.store.start_attempt(
            AttemptStart(execution_id, None, clock(), worker=worker, **more)
        )

    def report(
        self,
        execution_id: str,
        current: float | None,
        total: float | None,
        message: str | None = None,
        rate: float | None = None,
        **attributes: str,
    ) -> None:
        """Report progress, one second after the previous action."""
        self.server.clock.tick(1)
        meta = {
            "current": current,
            "total": total,
            "message": message,
            "attributes": attributes or None,
            "timestamp": round(self.server.clock().timestamp() * 1000),
            "rate": rate,
        }
        self.server.write(execution_id, "PROGRESS", meta)

    def add_running(
        self,
        execution_id: str,
        current: float,
        total: float | None,
        message: str = "Reading rows",
        rate: float | None = None,
        **more: Any,
    ) -> None:
        """Publish an execution, start it, and report progress."""
        self.publish(execution_id, **more)
        self.start_attempt(execution_id)
        self.report(execution_id, current, total, message, rate)

    def end(self, execution_id: str, state: str = "SUCCESS", result: Any = None) -> None:
        """End the open attempt."""
        self.server.end(execution_id, state, result)

    def fail(
        self,
        execution_id: str,
        kind: str = "DamagedArchiveError",
        text: str = "Member 14 can't be read",
    ) -> None:
        """End the open attempt with an error."""
        self.end(execution_id, "FAILURE", {"exc_type": kind, "exc_message": [text]})


@contextmanager
def serve_dashboard(**settings: Any) -> Iterator[Dashboard]:
    """An empty dashboard on a local port."""
    with (
        mounted_app(**{"dashboard": PREFIX} | settings) as server,
        WsgiServer(server.app) as wsgi_server,
    ):
        yield Dashboard(server, wsgi_server)


#: Any of the contents that a loaded page can have.
LOADED = ".row:visible, #empty > :visible, #execution:visible, #load-error > :visible"


def open_dashboard(page: Page, dashboard: Dashboard, location: str = "") -> Page:
    """Open the dashboard (``location``: query and fragment) and wait until it has loaded."""
    page.goto(f"{dashboard.url}{location}")
    expect(page.locator(LOADED).first).to_be_visible()
    return page


def row(page: Page, execution_id: str) -> Locator:
    """The row of an execution in the list."""
    return page.locator(f".row[data-id='{execution_id}']")
