"""A thousand live executions in the dashboard's list: the cost per frame stays constant."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.dashboard_page import open_dashboard, row, serve_dashboard
from tests.support.wait import until

COUNT = 1000

#: Counts animation frames, and writes to rows inside and outside of them: each write outside
#: could cost a layout of its own.
METER = """
window.meter = { frames: 0, outside: 0, inside: 0 };
const request = window.requestAnimationFrame.bind(window);
let within = false;
window.requestAnimationFrame = (callback) => request((now) => {
  within = true;
  try { callback(now); } finally { within = false; }
});
const count = (node) => {
  if (!node.isConnected || !node.parentElement?.closest(".row")) return;
  meter[within ? "inside" : "outside"] += 1;
};
const text = Object.getOwnPropertyDescriptor(Node.prototype, "textContent");
Object.defineProperty(Node.prototype, "textContent", {
  ...text,
  set(value) { count(this); text.set.call(this, value); },
});
const attribute = Element.prototype.setAttribute;
Element.prototype.setAttribute = function (...args) {
  count(this);
  return attribute.apply(this, args);
};
const tick = () => { meter.frames += 1; request(tick); };
request(tick);
"""


def layouts(page: Page) -> int:
    """The number of layouts of the page so far."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    session.detach()
    return next(int(metric["value"]) for metric in metrics if metric["name"] == "LayoutCount")


def test_thousand_moving_executions_cost_one_layout_per_frame(page: Page) -> None:
    """Only visible rows are watched and rendered; each frame has one batch of writes."""
    page.add_init_script(METER)
    ids = [f"e{n:04}" for n in range(COUNT)]
    with serve_dashboard() as dashboard:
        for each in ids:
            dashboard.publish(each)
            dashboard.start_attempt(each)
        open_dashboard(page, dashboard)
        until(
            lambda: (
                page.locator(".row").last.scroll_into_view_if_needed()
                or page.locator(".row").count() == COUNT
            ),
            within=120,
        )
        page.evaluate("scrollTo(0, document.body.scrollHeight / 2)")
        middle = page.locator(".row").nth(COUNT // 2)
        expect(middle).to_be_in_viewport()
        rendered = """(rows) => rows.filter((row) =>
            row.firstElementChild.checkVisibility({ contentVisibilityAuto: true })).length"""
        until(
            lambda: page.locator(".row").evaluate_all(rendered) < 100,
            within=60,
            what="only visible rows to be rendered",
        )
        until(
            lambda: len(dashboard.server.headway.hub._watched) < 100,
            within=60,
            what="only visible rows to be watched",
        )

        frames, laid_out = page.evaluate("meter.frames"), layouts(page)
        page.evaluate("meter.inside = meter.outside = 0")
        name = middle.get_attribute("data-id")
        assert name is not None
        for wave in range(1, 11):
            for each in ids:
                dashboard.server.report(each, wave * 10, 100, f"wave {wave}")
            dashboard.server.clock.tick(1)
            expect(row(page, name).get_by_role("progressbar")).to_have_attribute(
                "aria-valuenow", str(wave * 10)
            )
        laid_out = layouts(page) - laid_out  # first: later layouts have later frames
        meter = page.evaluate("meter")
        assert meter["inside"] > 10
        assert meter["outside"] == 0
        assert laid_out <= meter["frames"] - frames + 1

        # A row that was not visible meanwhile is correct as soon as it is.
        page.evaluate("scrollTo(0, 0)")
        expect(row(page, ids[-1]).locator(".message")).to_have_text("wave 10")
