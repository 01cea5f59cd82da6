"""The dashboard before the fakes: a test plays publisher and worker by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from playwright.sync_api import Locator, Page, expect

from headway.core.registry import AttemptStart, Registration
from tests.support.flask_app import MountedApp, mounted_app
from tests.support.wsgi_server import WsgiServer

PLACE = "/jobs"


class Stage:
    """A dashboard over the fakes, and a hand in them. ``server.clock`` is near the browser's, and
    turned by hand.
    """

    def __init__(self, server: MountedApp, serving: WsgiServer) -> None:
        self.server = server
        self.serving = serving
        server.clock.now = datetime.now(UTC)

    @property
    def url(self) -> str:
        """The dashboard's page."""
        return f"{self.serving.url}{PLACE}/"

    def publish(
        self, *ids: str, task: str = "shop.import_orders", owner: str | None = None
    ) -> None:
        """Register them in one go, each a moment after the one before."""
        registrations = []
        for execution_id in ids:
            self.server.clock.tick(0.01)
            registrations.append(Registration(execution_id, task, self.server.clock(), owner=owner))
        self.server.store.register(registrations)

    def begin(self, execution_id: str, worker: str = "celery@north-1", **more: Any) -> None:
        """Open an attempt."""
        self.server.store.start_attempt(
            AttemptStart(execution_id, None, self.server.clock(), worker=worker, **more)
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
        """Report, a second after what was before."""
        self.server.clock.tick(1)
        stamp = round(self.server.clock().timestamp() * 1000)
        said = {
            "current": current,
            "total": total,
            "message": message,
            "attributes": attributes or None,
        }
        self.server.write(execution_id, "PROGRESS", said | {"timestamp": stamp, "rate": rate})

    def run(
        self,
        execution_id: str,
        current: float,
        total: float | None,
        message: str = "Reading rows",
        rate: float | None = None,
        **more: Any,
    ) -> None:
        """Published, begun, and so far."""
        self.publish(execution_id, **more)
        self.begin(execution_id)
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
        """End the open attempt badly."""
        self.end(execution_id, "FAILURE", {"exc_type": kind, "exc_message": [text]})


@contextmanager
def staged(**settings: Any) -> Iterator[Stage]:
    """A stage, with nothing on it."""
    with (
        mounted_app(**{"dashboard": PLACE} | settings) as server,
        WsgiServer(server.app) as serving,
    ):
        yield Stage(server, serving)


def open_page(page: Page, stage: Stage, where: str = "") -> Page:
    """Go to the dashboard, and come back when it has shown something."""
    page.goto(f"{stage.url}{where}")
    expect(
        page.locator(".row:visible, #none > :visible, #whole:visible, #missing > :visible").first
    ).to_be_visible()
    return page


def row(page: Page, execution_id: str) -> Locator:
    """Its line in the list."""
    return page.locator(f".row[data-id='{execution_id}']")
