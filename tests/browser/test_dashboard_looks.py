"""The dashboard on every screen, in both themes, by keyboard and with a screen reader.

With ``SCREENSHOTS=1`` it also writes the README's pictures of the dashboard to ``docs/``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.axe import violations
from tests.browser.dashboard_page import Dashboard, open_dashboard, row, serve_dashboard
from tests.support.processes import ROOT

SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 880}},
    "dark": {"viewport": {"width": 1280, "height": 880}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    "smallest": {"viewport": {"width": 320, "height": 568}, "color_scheme": "dark"},
    "wall": {"viewport": {"width": 3840, "height": 2160}},
}
on_each = pytest.mark.parametrize(
    ("page", "name"),
    [(options, name) for name, options in SCREENS.items()],
    indirect=["page"],
    ids=list(SCREENS),
)


VIDEO = "9c2e71aa-4f0d-4b7e-9d51-3a6be2c1f078"


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    """A dashboard with executions in every state."""
    with serve_dashboard() as running:
        add_a_day(running)
        yield running


def add_a_day(dashboard: Dashboard) -> None:
    """Add executions in each state, some of them old; `VIDEO` has two attempts."""
    now = dashboard.server.clock.now
    rest = "reports.monthly_totals", "mail.newsletter", "shop.import_orders"
    for n in range(12):
        dashboard.server.clock.now = now - timedelta(minutes=200 - n * 11)
        dashboard.add_running(f"5f0c{n:02}b7-ended", 4800, 4800, "Done", task=rest[n % 3])
        dashboard.end(f"5f0c{n:02}b7-ended", result={"rows": 4800})
    dashboard.server.clock.now = now - timedelta(minutes=31)
    dashboard.add_running(
        "c41e9a02-archive", 148, 300, "Packing 2026-03.tar", task="media.pack_archive"
    )
    dashboard.fail(
        "c41e9a02-archive", text="The archive of March is damaged: member 149 of 300 can't be read"
    )
    dashboard.server.clock.now = now - timedelta(minutes=26)
    dashboard.add_running(
        "8d15f3bb-newsletter", 1210, 5000, "Sending batch 13", task="mail.newsletter"
    )
    dashboard.end("8d15f3bb-newsletter", "REVOKED")
    dashboard.server.clock.now = now - timedelta(minutes=6)
    dashboard.add_running(
        "f7aa0c31-lost", 640, 1000, "Encoding pass 2 of 2", task="media.transcode_video"
    )
    dashboard.server.store.heartbeat(["f7aa0c31-lost"], "celery@north-1", 30.0)
    dashboard.add_running("02b9d7e4-again", 17, 60, "Fetching rates", task="shop.exchange_rates")
    dashboard.end("02b9d7e4-again", "RETRY")
    dashboard.add_running(
        "3e66a1c8-crawl", 3120, None, "Following /products", 31.4, task="search.crawl_site"
    )
    dashboard.server.store.request_cancel("3e66a1c8-crawl", dashboard.server.clock())
    add_video(dashboard)
    dashboard.add_running(
        "77d0be19-index",
        52,
        90,
        "Writing segment 53",
        1.6,
        task="search.rebuild_index",
        owner="ann",
    )
    dashboard.add_running(
        "a90c4f56-feed", 870, None, "Reading the feed", 212.0, task="shop.import_orders"
    )
    dashboard.add_running(
        "d2f8135a-orders", 61234, 81000, "Importing rows", 2381.5, task="shop.import_orders"
    )
    dashboard.publish("6b1c0d9e-queued", task="reports.monthly_totals")


def add_video(dashboard: Dashboard) -> None:
    """Add `VIDEO`: a first attempt up to 38 %, and a second one that is running."""
    messages = (
        "Reading the source",
        "Encoding pass 1 of 2",
        "Encoding pass 2 of 2",
        "Writing the index",
    )
    dashboard.publish(VIDEO, task="media.transcode_video", owner="ann@example.org")
    dashboard.server.clock.tick(14)
    dashboard.start_attempt(VIDEO)
    for n in range(26):
        dashboard.server.clock.tick(2)
        dashboard.report(VIDEO, n * n * 0.56, 1000, messages[min(1, n // 12)], frame=str(n * 310))
    dashboard.end(VIDEO, "RETRY")
    dashboard.server.clock.tick(30)
    dashboard.start_attempt(VIDEO, worker="celery@south-2")
    for n in range(70):
        dashboard.server.clock.tick(2)
        done = 690 * n / 69 + 25 * math.sin(n / 6)
        dashboard.report(
            VIDEO,
            max(0, round(done)),
            1000,
            messages[min(2, n // 22)],
            3.4,
            frame=f"{n * 310:,}",
            speed=f"{1.7 + n % 5 / 10}×",
        )


#: Locations of the dashboard, and an element that must be visible there.
LOCATIONS = {
    "": "#rows .row",
    f"#/{VIDEO}": "#plot svg",
    "#/c41e9a02-archive": "#failure",
    "#/unknown": "#load-error h1",
    "?q=nothing-like-it": "#empty h2",
}


@on_each
def test_pages_fit_every_screen_and_pass_axe(page: Page, dashboard: Dashboard, name: str) -> None:
    """From a small phone to a wall screen, light and dark: no overflow, no axe violation."""
    for location, selector in LOCATIONS.items():
        page.goto("about:blank")
        open_dashboard(page, dashboard, location)
        expect(page.locator(selector).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), location
        if name in ("light", "dark") or (name == "phone" and location in ("", f"#/{VIDEO}")):
            assert violations(page) == [], location
        if os.environ.get("SCREENSHOTS"):
            picture(page, name, location)


def picture(page: Page, name: str, location: str) -> None:
    """Write the README's pictures of list and execution to ``docs/dashboard-*.png``."""
    names = {
        ("light", ""): "light",
        ("dark", ""): "dark",
        ("light", f"#/{VIDEO}"): "execution",
        ("phone", f"#/{VIDEO}"): "phone",
    }
    if file := names.get((name, location)):
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        # With a path, Playwright would write it in threads that outlive the test.
        (ROOT / "docs" / f"dashboard-{file}.png").write_bytes(
            page.screenshot(full_page=location != "")
        )


def test_banner_and_dialogs_pass_axe(page: Page, dashboard: Dashboard) -> None:
    """The banner, the paused bars and the dialogs have no axe-core violation."""
    open_dashboard(page, dashboard, f"#/{VIDEO}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    dashboard.wsgi_server.stop()
    page.goto(f"{dashboard.url}#/")
    expect(page.locator("#banner")).to_be_visible()
    assert violations(page) == []


def test_keyboard_reaches_everything_in_reading_order(page: Page, dashboard: Dashboard) -> None:
    """The focus follows the reading order and is visible, and a skip link jumps to the content."""
    open_dashboard(page, dashboard)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for name in ("All", "Waiting", "Running", "Done", "Failed", "Cancelled"):
        page.keyboard.press("Tab")
        expect(
            page.get_by_role("navigation", name="Filter by status").get_by_role("link", name=name)
        ).to_be_focused()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    expect(page.get_by_role("searchbox", name="Part of a task name or id")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="Task")).to_be_focused()
    page.keyboard.press("Tab")
    first = page.locator(".row").first
    expect(first.get_by_role("link")).to_be_focused()
    assert first.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go back")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_focused()


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_reduced_motion_stops_animations(page: Page, dashboard: Dashboard) -> None:
    """With reduced motion, an unknown total is a striped bar and a known one has no transition."""
    open_dashboard(page, dashboard)
    moving, known = (
        row(page, each).locator(".fill") for each in ("a90c4f56-feed", "77d0be19-index")
    )
    style = moving.evaluate(
        """(it) => {
            const { animationName, backgroundImage } = getComputedStyle(it);
            return [animationName, backgroundImage.slice(0, 9)];
        }"""
    )
    assert style == ["none", "repeating"]
    assert known.evaluate("it => getComputedStyle(it).transitionDuration") == "0s"


def test_announcements_are_limited_to_phases_and_ten_points(
    page: Page, dashboard: Dashboard
) -> None:
    """Screen readers get each change of the phase once, and not every report."""
    open_dashboard(page, dashboard, "#/d2f8135a-orders")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    for done in range(62000, 81001, 1000):
        dashboard.report("d2f8135a-orders", done, 81000)
    dashboard.end("d2f8135a-orders")
    announced = page.locator("#announcer[aria-live=polite] p")
    expect(announced.last).to_have_text("shop.import_orders: Done")
    # The end, and perhaps ten-point steps: on a slow machine they may be ten seconds apart.
    assert announced.count() <= 4
