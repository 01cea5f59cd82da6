"""The browser's own ``EventSource``, which reconnects automatically."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page

from headway.server.streams import sse
from tests.support.inprocess_server import inprocess_server
from tests.support.wait import until

#: Seconds that anything may take on a busy machine.
TIMEOUT = 60

#: Records the events; `source.readyState` is 0 connecting, 1 open, 2 closed.
FOLLOW_SCRIPT = """(path) => {
  window.events = [];
  const source = window.source = new EventSource(path);
  for (const kind of ["status", "started", "progress", "completed", "error"])
    source.addEventListener(kind, (event) => {
      if (event.data) events.push([kind, JSON.parse(event.data).progress?.current ?? null]);
    });
}"""


def test_event_source_resumes_after_cuts_and_stops_after_the_end(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After cuts and an outage it gets everything once; after the end it stays closed."""
    monkeypatch.setattr(sse, "RETRY", (20, 50))
    with inprocess_server() as home:
        web = home.webs[0]
        app: Flask = web.headway.app
        app.add_url_rule("/page", view_func=lambda: "<!doctype html><title>A page</title>")
        run = home.worker.publish()
        page.goto(f"{web.url}/page")
        page.evaluate(FOLLOW_SCRIPT, f"/api/v1/executions/{run.id}/progress/events")

        def events() -> Any:
            return page.evaluate("events")

        until(lambda: events() == [["status", None]], within=TIMEOUT)
        web.drop_connections()
        run.open()
        until(lambda: events()[1:] == [["started", None]], within=TIMEOUT)
        run.report(1, 3)
        until(lambda: events()[2:] == [["progress", 1]], within=TIMEOUT)
        web.drop_connections()
        until(lambda: page.evaluate("source.readyState") == 1 and web.viewers == 1, within=TIMEOUT)
        run.report(2, 3)
        until(lambda: events()[3:] == [["progress", 2]], within=TIMEOUT)
        home.disconnect()
        until(lambda: events()[4:] == [["error", None]], within=TIMEOUT)
        web.drop_connections()  # it reconnects during the outage, and must not be refused
        until(lambda: events()[5:] == [["error", None]], within=TIMEOUT)
        home.reconnect(lambda: run.report(3, 3))
        until(lambda: events()[-1][1] == 3, within=TIMEOUT)
        # The server may have read the store before the report was written.
        assert events()[6:] in ([["status", 3]], [["status", 2], ["progress", 3]])
        run.succeed()
        until(
            lambda: page.evaluate("source.readyState") == 2,
            within=TIMEOUT,
            what="the browser to close the stream",
        )
        assert events()[-2:] in (
            [["status", 3], ["completed", 3]],
            [["progress", 3], ["completed", 3]],
        )
