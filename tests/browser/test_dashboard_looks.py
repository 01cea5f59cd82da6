"""The dashboard for everybody: on every screen, in both themes, by keyboard, by ear, and held to
axe-core's rules.

``SCREENSHOTS=1`` lets it write the README's pictures of the dashboard to ``docs/`` as well.
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
from tests.browser.stage import Stage, open_page, row, staged
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
def stage() -> Iterator[Stage]:
    """A day's work: something of every kind."""
    with staged() as made:
        a_day(made)
        yield made


def a_day(stage: Stage) -> None:
    """One in each state, some of them long ago; `VIDEO` has had two attempts and a course worth a
    look.
    """
    now = stage.server.clock.now
    rest = "reports.monthly_totals", "mail.newsletter", "shop.import_orders"
    for n in range(12):
        stage.server.clock.now = now - timedelta(minutes=200 - n * 11)
        stage.run(f"5f0c{n:02}b7-ended", 4800, 4800, "Done", task=rest[n % 3])
        stage.end(f"5f0c{n:02}b7-ended", result={"rows": 4800})
    stage.server.clock.now = now - timedelta(minutes=31)
    stage.run("c41e9a02-archive", 148, 300, "Packing 2026-03.tar", task="media.pack_archive")
    stage.fail(
        "c41e9a02-archive", text="The archive of March is damaged: member 149 of 300 can't be read"
    )
    stage.server.clock.now = now - timedelta(minutes=26)
    stage.run("8d15f3bb-newsletter", 1210, 5000, "Sending batch 13", task="mail.newsletter")
    stage.end("8d15f3bb-newsletter", "REVOKED")
    stage.server.clock.now = now - timedelta(minutes=6)
    stage.run("f7aa0c31-lost", 640, 1000, "Encoding pass 2 of 2", task="media.transcode_video")
    stage.server.store.heartbeat(["f7aa0c31-lost"], "celery@north-1", 30.0)
    stage.run("02b9d7e4-again", 17, 60, "Fetching rates", task="shop.exchange_rates")
    stage.end("02b9d7e4-again", "RETRY")
    stage.run("3e66a1c8-crawl", 3120, None, "Following /products", 31.4, task="search.crawl_site")
    stage.server.store.request_cancel("3e66a1c8-crawl", stage.server.clock())
    a_course(stage)
    stage.run(
        "77d0be19-index",
        52,
        90,
        "Writing segment 53",
        1.6,
        task="search.rebuild_index",
        owner="ann",
    )
    stage.run("a90c4f56-feed", 870, None, "Reading the feed", 212.0, task="shop.import_orders")
    stage.run("d2f8135a-orders", 61234, 81000, "Importing rows", 2381.5, task="shop.import_orders")
    stage.publish("6b1c0d9e-queued", task="reports.monthly_totals")


def a_course(stage: Stage) -> None:
    """`VIDEO`: an attempt that got to 38 %, and one that goes on behind it."""
    messages = (
        "Reading the source",
        "Encoding pass 1 of 2",
        "Encoding pass 2 of 2",
        "Writing the index",
    )
    stage.publish(VIDEO, task="media.transcode_video", owner="ann@example.org")
    stage.server.clock.tick(14)
    stage.begin(VIDEO)
    for n in range(26):
        stage.server.clock.tick(2)
        stage.report(VIDEO, n * n * 0.56, 1000, messages[min(1, n // 12)], frame=str(n * 310))
    stage.end(VIDEO, "RETRY")
    stage.server.clock.tick(30)
    stage.begin(VIDEO, worker="celery@south-2")
    for n in range(70):
        stage.server.clock.tick(2)
        done = 690 * n / 69 + 25 * math.sin(n / 6)
        stage.report(
            VIDEO,
            max(0, round(done)),
            1000,
            messages[min(2, n // 22)],
            3.4,
            frame=f"{n * 310:,}",
            speed=f"{1.7 + n % 5 / 10}×",
        )


#: Where there is something to see, and what must not be missing there.
PLACES = {
    "": "#rows .row",
    f"#/{VIDEO}": "#plot svg",
    "#/c41e9a02-archive": "#failure",
    "#/nobody": "#missing h1",
    "?q=nothing-like-it": "#none h2",
}


@on_each
def test_it_fits_and_breaks_no_rule(page: Page, stage: Stage, name: str) -> None:
    """From a small phone to a wall, light and dark: nothing is wider than the screen, and axe-core
    finds nothing against it.
    """
    for where, what in PLACES.items():
        page.goto("about:blank")
        open_page(page, stage, where)
        expect(page.locator(what).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where
        if name in ("light", "dark") or (name == "phone" and where in ("", f"#/{VIDEO}")):
            assert violations(page) == [], where
        if os.environ.get("SCREENSHOTS"):
            picture(page, name, where)


def picture(page: Page, name: str, where: str) -> None:
    """What the README shows: the list on each screen, and one execution, as
    ``docs/dashboard-*.png``.
    """
    called = {
        ("light", ""): "light",
        ("dark", ""): "dark",
        ("light", f"#/{VIDEO}"): "execution",
        ("phone", f"#/{VIDEO}"): "phone",
    }
    if file := called.get((name, where)):
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        # Given a path, Playwright would write it in threads that outlive the test.
        (ROOT / "docs" / f"dashboard-{file}.png").write_bytes(
            page.screenshot(full_page=where != "")
        )


def test_a_lost_connection_breaks_no_rule(page: Page, stage: Stage) -> None:
    """The banner and the paused bars can be read as well, and axe-core finds nothing; nor at the
    questions that are asked.
    """
    open_page(page, stage, f"#/{VIDEO}")
    page.get_by_role("button", name="Cancel", exact=True).click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    stage.serving.stop()
    page.goto(f"{stage.url}#/")
    expect(page.locator("#banner")).to_be_visible()
    assert violations(page) == []


def test_by_keyboard(page: Page, stage: Stage) -> None:
    """Everything is reached in the order in which it is read, what has the focus is seen, and a
    skip leads past the head.
    """
    open_page(page, stage)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for name in ("All", "Waiting", "Running", "Done", "Failed", "Cancelled"):
        page.keyboard.press("Tab")
        expect(
            page.get_by_role("navigation", name="By status").get_by_role("link", name=name)
        ).to_be_focused()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Tab")
    expect(page.get_by_role("searchbox", name="Part of a task’s name or of an id")).to_be_focused()
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
    expect(page.get_by_role("button", name="Leave it")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_focused()


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_reduced_motion(page: Page, stage: Stage) -> None:
    """Nothing moves for somebody who asked for that: a bar of unknown length is striped, a known
    one jumps.
    """
    open_page(page, stage)
    moving, known = (
        row(page, each).locator(".fill") for each in ("a90c4f56-feed", "77d0be19-index")
    )
    style = moving.evaluate(
        "it => [getComputedStyle(it).animationName, getComputedStyle(it).backgroundImage.slice(0, 9)]"
    )
    assert style == ["none", "repeating"]
    assert known.evaluate("it => getComputedStyle(it).transitionDuration") == "0s"


def test_how_far_it_is_is_said_now_and_then(page: Page, stage: Stage) -> None:
    """Who doesn't see it hears each change of state once, and not every report."""
    open_page(page, stage, "#/d2f8135a-orders")
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    for done in range(62000, 81001, 1000):
        stage.report("d2f8135a-orders", done, 81000)
    stage.end("d2f8135a-orders")
    said = page.locator("#announcer[aria-live=polite] p")
    expect(said.last).to_have_text("shop.import_orders: Done")
    assert (
        said.count() <= 4
    )  # the end, and each ten of a hundred: on a slow machine they are far enough apart
