"""A browser's own ``EventSource``, which comes back by itself."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page

from headway.server.streams import sse
from tests.support.inprocess_server import inprocess_server
from tests.support.wait import until

#: Seconds that anything may take on a busy machine.
PATIENCE = 60

#: Keeps what is told, and how the stream is: 0 on its way, 1 open, 2 closed for good.
FOLLOW = """(path) => {
  window.told = [];
  const source = window.source = new EventSource(path);
  for (const kind of ["status", "started", "progress", "completed", "error"])
    source.addEventListener(kind, (event) => event.data && told.push([kind, JSON.parse(event.data).progress?.current ?? null]));
}"""


def test_an_event_source_comes_back_and_stays_away(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off again and again, it is told everything once, through an outage too; after the end it
    stays away for good.
    """
    monkeypatch.setattr(sse, "RETRY", (20, 50))
    with inprocess_server() as home:
        web = home.webs[0]
        app: Flask = web.headway.app
        app.add_url_rule("/page", view_func=lambda: "<!doctype html><title>A page</title>")
        run = home.runs.publish()
        page.goto(f"{web.url}/page")
        page.evaluate(FOLLOW, f"/api/v1/executions/{run.id}/progress/events")

        def told() -> Any:
            return page.evaluate("told")

        until(lambda: told() == [["status", None]], within=PATIENCE)
        web.cut()
        run.open()
        until(lambda: told()[1:] == [["started", None]], within=PATIENCE)
        run.report(1, 3)
        until(lambda: told()[2:] == [["progress", 1]], within=PATIENCE)
        web.cut()
        until(lambda: page.evaluate("source.readyState") == 1 and web.viewers == 1, within=PATIENCE)
        run.report(2, 3)
        until(lambda: told()[3:] == [["progress", 2]], within=PATIENCE)
        home.cut()
        until(lambda: told()[4:] == [["error", None]], within=PATIENCE)
        web.cut()  # it comes back into the outage, and may not be refused
        until(lambda: told()[5:] == [["error", None]], within=PATIENCE)
        home.mend(lambda: run.report(3, 3))
        until(lambda: told()[-1][1] == 3, within=PATIENCE)
        # The server may have looked before the report was there.
        assert told()[6:] in ([["status", 3]], [["status", 2], ["progress", 3]])
        run.succeed()
        until(
            lambda: page.evaluate("source.readyState") == 2,
            within=PATIENCE,
            what="the browser to stay away",
        )
        assert told()[-2:] in (
            [["status", 3], ["completed", 3]],
            [["progress", 3], ["completed", 3]],
        )
