"""A thousand live executions in the dashboard's list: what a frame costs doesn't grow with them."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.stage import open_page, row, staged
from tests.support.wait import until

COUNT = 1000

#: Counts frames, and the writes to rows of the page that happen outside of one: each of those could
#: cost a layout of its own.
METER = """
window.meter = { frames: 0, outside: 0, inside: 0 };
const ask = window.requestAnimationFrame.bind(window);
let within = false;
window.requestAnimationFrame = (call) => ask((now) => { within = true; try { call(now); } finally { within = false; } });
const count = (node) => {
  if (node.isConnected && node.parentElement?.closest(".row")) meter[within ? "inside" : "outside"] += 1;
};
const text = Object.getOwnPropertyDescriptor(Node.prototype, "textContent");
Object.defineProperty(Node.prototype, "textContent", { ...text, set(value) { count(this); text.set.call(this, value); } });
const attribute = Element.prototype.setAttribute;
Element.prototype.setAttribute = function (...all) { count(this); return attribute.apply(this, all); };
const tick = () => { meter.frames += 1; ask(tick); };
ask(tick);
"""


def layouts(page: Page) -> int:
    """How often the page was laid out so far."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    metrics: list[dict[str, Any]] = session.send("Performance.getMetrics")["metrics"]
    session.detach()
    return next(int(metric["value"]) for metric in metrics if metric["name"] == "LayoutCount")


def test_a_thousand_that_move(page: Page) -> None:
    """However many move: only what is on the screen is watched and rendered, all writes of a frame
    are one batch, and each frame lays the page out once at most."""
    page.add_init_script(METER)
    ids = [f"e{n:04}" for n in range(COUNT)]
    with staged() as stage:
        for each in ids:
            stage.publish(each)
            stage.begin(each)
        open_page(page, stage)
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
        rendered = "all => all.filter((row) => row.firstElementChild.checkVisibility({ contentVisibilityAuto: true })).length"
        until(
            lambda: page.locator(".row").evaluate_all(rendered) < 100,
            within=60,
            what="all else to be left out",
        )
        until(
            lambda: len(stage.server.headway.hub._watched) < 100,
            within=60,
            what="only what is on the screen to be watched",
        )

        frames, laid_out = page.evaluate("meter.frames"), layouts(page)
        page.evaluate("meter.inside = meter.outside = 0")
        name = middle.get_attribute("data-id")
        assert name is not None
        for wave in range(1, 11):
            for each in ids:
                stage.server.report(each, wave * 10, 100, f"wave {wave}")
            stage.server.clock.tick(1)
            expect(row(page, name).get_by_role("progressbar")).to_have_attribute(
                "aria-valuenow", str(wave * 10)
            )
        laid_out = (
            layouts(page) - laid_out
        )  # first: what is laid out from now on has frames of its own
        meter = page.evaluate("meter")
        assert meter["inside"] > 10
        assert meter["outside"] == 0
        assert laid_out <= meter["frames"] - frames + 1

        # What was out of sight meanwhile is right as soon as it is seen.
        page.evaluate("scrollTo(0, 0)")
        expect(row(page, ids[-1]).locator(".message")).to_have_text("wave 10")
