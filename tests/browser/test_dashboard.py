"""The dashboard's list in a real browser, over the fakes: what it shows and filters, and what it
says when something is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from headway.server.auth import Action, Identity
from tests.browser.stage import PLACE, Stage, open_page, row, staged
from tests.support.wait import until


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged() as made:
        yield made


@pytest.fixture(autouse=True)
def policy_kept(page: Page) -> Iterator[None]:
    """A test fails where the browser had to block something of the page's own."""
    blocked: list[str] = []
    page.on(
        "console",
        lambda said: blocked.append(said.text) if "Security Policy" in said.text else None,
    )
    yield
    assert not blocked


def shown(page: Page) -> list[str]:
    """The ids in the list, from the top."""
    ids: list[str] = page.locator(".row").evaluate_all("all => all.map((row) => row.dataset.id)")
    return ids


# --- what is seen ---


def test_a_row_says_what_is_known(page: Page, stage: Stage) -> None:
    """The newest first; each with its state, task, message, bar, numbers, worker, attempt and age."""
    stage.run("first", 10, 40)
    stage.end("first", "RETRY")
    stage.begin("first", worker="celery@south-2")
    stage.report("first", 30, 40, "Again")
    stage.publish("second", task="mail.newsletter")
    open_page(page, stage)
    assert shown(page) == ["second", "first"]
    first = row(page, "first")
    expect(first.locator(".state")).to_have_text("Running")
    expect(first.locator(".name span")).to_have_text("shop.import_orders")
    expect(first.locator(".message")).to_have_text("Again")
    expect(first.locator(".numbers")).to_contain_text("75.0\u00a0% · 30\u00a0of\u00a040")
    expect(first.locator(".worker")).to_have_text("celery@south-2")
    expect(first.locator(".attempt")).to_have_text("Attempt 2")
    expect(first.locator("time")).to_have_text(re.compile("just now|ago"))
    bar = first.get_by_role("progressbar", name="shop.import_orders")
    expect(bar).to_have_attribute("aria-valuenow", "75")
    expect(bar).to_have_attribute("aria-valuetext", "75.0 %, Running, Again")
    waiting = row(page, "second")
    expect(waiting.locator(".state")).to_have_text("Waiting")
    expect(waiting.locator(".message")).to_have_text("Waiting for a worker")
    expect(waiting.get_by_role("progressbar")).not_to_have_attribute(
        "aria-valuenow", re.compile(".*")
    )


def test_it_moves_by_itself(page: Page, stage: Stage) -> None:
    """A report moves the bar, an end leaves it where it was and gives the reason, all without a
    reload and over one socket.
    """
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    for name in ("one", "two"):
        stage.run(name, 10, 100)
    open_page(page, stage)
    expect(row(page, "one")).to_have_attribute("data-status", "running")
    stage.report("one", 31, 100, "Packing")
    expect(row(page, "one").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "31")
    stage.fail("one")
    stage.end("two")
    expect(row(page, "one").locator(".state")).to_have_text("Failed")
    expect(row(page, "one").locator(".message")).to_have_text(
        "DamagedArchiveError: Member 14 can't be read"
    )
    expect(row(page, "one").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "31")
    expect(row(page, "two").locator(".state")).to_have_text("Done")
    assert len(sockets) == 1


def test_states_between(page: Page, stage: Stage) -> None:
    """Stalled, retrying and cancelling are told apart in words; no time left is promised for what
    stands still.
    """
    for name in ("stalled", "retrying", "cancelling"):
        stage.run(name, 40, 100)
    stage.server.store.heartbeat(["stalled"], "celery@north-1", 5.0)
    open_page(page, stage)
    stage.end("retrying", "RETRY")
    stage.server.store.request_cancel("cancelling", stage.server.clock())
    stage.server.clock.tick(60)
    for name, word in (
        ("stalled", "No sign of life"),
        ("retrying", "Retrying"),
        ("cancelling", "Cancelling"),
    ):
        expect(row(page, name).locator(".state")).to_have_text(word)
        expect(row(page, name)).to_have_attribute("data-phase", name)
        expect(row(page, name).locator(".numbers")).not_to_contain_text("left")
    stage.server.store.heartbeat(["stalled"], "celery@north-1", 5.0)
    expect(row(page, "stalled").locator(".state")).to_have_text("Running")


def test_of_unknown_length(page: Page, stage: Stage) -> None:
    """While nobody knows the total the bar has no value, and what is done is counted."""
    stage.run("open", 12, None)
    open_page(page, stage)
    bar = row(page, "open").locator(".bar")
    expect(bar).to_have_attribute("data-kind", "moving")
    assert bar.get_attribute("aria-valuenow") is None
    expect(row(page, "open").locator(".numbers")).to_contain_text("12\u00a0done")


def test_new_ones_come_in(page: Page, stage: Stage) -> None:
    """What is published meanwhile appears at the top by itself."""
    stage.publish("old")
    open_page(page, stage)
    stage.publish("new")
    expect(row(page, "new")).to_be_visible()
    assert shown(page) == ["new", "old"]


def test_nothing_jumps_under_a_reader(page: Page, stage: Stage) -> None:
    """While the focus or the pointer is on the list, or it is scrolled, new ones wait behind a
    button that counts them.
    """
    stage.publish("old")
    open_page(page, stage)
    row(page, "old").get_by_role("link").focus()
    stage.publish(
        "second", "third"
    )  # at once: a look in between would tell of one, and then of two without a word
    expect(page.locator("#pill")).to_have_text("2 new")
    expect(page.locator("#announcer")).to_contain_text("2 new, at the top of the list")
    assert shown(page) == ["old"]
    page.locator("#pill").press("Enter")
    expect(page.locator(".row")).to_have_count(3)
    assert shown(page) == ["third", "second", "old"]
    expect(row(page, "third").get_by_role("link")).to_be_focused()
    expect(page.locator("#pill")).to_be_hidden()


def test_the_button_stays_under_the_hand(page: Page, stage: Stage) -> None:
    """Who has got to the button of the new ones finds it there, however long it takes to press it."""
    stage.publish("old")
    open_page(page, stage)
    row(page, "old").get_by_role("link").focus()
    stage.publish("new")
    expect(page.locator("#pill")).to_be_visible()
    page.locator("#pill").focus()
    for _ in range(
        2
    ):  # the second answer has been taken in by the time that is asked for a third one
        page.wait_for_event("requestfinished", lambda asked: "/executions?" in asked.url)
    expect(page.locator("#pill")).to_be_focused()
    assert shown(page) == ["old"]
    page.keyboard.press("Enter")
    expect(row(page, "new").get_by_role("link")).to_be_focused()


def test_what_a_task_says_is_text(page: Page, stage: Stage) -> None:
    """Markup in a name, a message, an id or an error is shown as it was written."""
    evil = "<img src=x onerror=alert(1)>"
    stage.run(f"id{evil}".replace("/", ""), 1, 2, message=evil, task=evil)
    stage.fail(f"id{evil}", text=evil)
    open_page(page, stage)
    expect(page.locator(".name span")).to_have_text(evil)
    expect(page.locator(".row .message")).to_contain_text(evil)
    page.locator(".name").click()
    expect(page.locator("#failure-message")).to_have_text(evil)
    expect(page.locator("#said")).to_contain_text(evil)
    expect(page.locator("#id")).to_have_text(f"id{evil}")
    assert page.locator("main img").count() == 0


# --- filters ---


def test_by_status(page: Page, stage: Stage) -> None:
    """A chip for each status narrows the list down, says how many there are, and stands in the URL;
    the back button undoes it.
    """
    stage.run("good", 1, 2)
    stage.end("good")
    stage.run("bad", 1, 2)
    stage.fail("bad")
    stage.publish("queued")
    open_page(page, stage)
    chips = page.get_by_role("navigation", name="By status")
    expect(chips.get_by_role("link")).to_have_text(
        ["All 3", "Waiting 1", "Running 0", "Done 1", "Failed 1", "Cancelled 0"]
    )
    chips.get_by_role("link", name="Failed").click()
    expect(page.locator(".row")).to_have_count(1)
    assert shown(page) == ["bad"]
    assert page.url.endswith("/jobs/?status=failed")
    expect(chips.locator("[aria-current]")).to_contain_text("Failed")
    page.reload()
    expect(row(page, "bad")).to_be_visible()
    assert shown(page) == ["bad"]
    page.go_back()
    expect(page.locator(".row")).to_have_count(3)
    expect(chips.locator("[aria-current]")).to_contain_text("All")


def test_by_task_and_text(page: Page, stage: Stage) -> None:
    """A task and a part of a name or an id, together with what stands in the URL; one press shows
    all again.
    """
    stage.publish("a1", task="shop.import_orders")
    stage.publish("a2", task="shop.import_orders")
    stage.publish("b1", task="mail.newsletter")
    open_page(page, stage)
    page.get_by_label("Task", exact=True).select_option("shop.import_orders")
    expect(page.locator(".row")).to_have_count(2)
    page.get_by_role("searchbox").fill("A2")
    expect(page.locator(".row")).to_have_count(1)
    assert re.search(r"\?task=shop.import_orders&q=A2$", page.url)
    page.get_by_role("searchbox").fill("nothing")
    expect(page.get_by_role("heading", name="Nothing like that")).to_be_visible()
    page.get_by_role("link", name="Show all").first.click()
    expect(page.locator(".row")).to_have_count(3)
    assert shown(page) == ["b1", "a2", "a1"]


def test_pages_follow_by_scrolling(page: Page, stage: Stage) -> None:
    """Older ones come as the end of the list comes near; each is there once, and in order."""
    for n in range(420):
        stage.publish(f"e{n:03}")
    open_page(page, stage)
    rows = page.locator(".row")
    until(
        lambda: rows.last.scroll_into_view_if_needed() or rows.count() == 420,
        within=60,
        what="all of them",
    )
    expect(page.locator("#more")).to_be_hidden()
    assert shown(page) == [f"e{n:03}" for n in reversed(range(420))]


def test_there_and_back(page: Page, stage: Stage) -> None:
    """A row leads to the execution's own page, and the way back to the very row, with the filters
    as they were.
    """
    for n in range(40):
        stage.publish(f"e{n:02}")
    open_page(page, stage, "?status=pending")
    target = row(page, "e03").get_by_role("link")
    page.evaluate(
        "addEventListener('click', () => { window.left = scrollY }, { capture: true, once: true })"
    )
    target.click()
    expect(page.locator("#detail-title")).to_be_focused()
    assert page.url.endswith("?status=pending#/e03")
    page.get_by_role("link", name="All executions").click()
    expect(target).to_be_focused()
    assert page.url.endswith("?status=pending#/")
    assert page.evaluate("left") > 0
    until(
        lambda: page.evaluate("Math.abs(scrollY - left) < 2"),
        what="the list to be where it was left",
    )


# --- when something is wrong ---


def test_nothing_yet(page: Page, stage: Stage) -> None:
    """An empty list says what to do, and fills by itself."""
    open_page(page, stage)
    expect(page.get_by_role("heading", name="No executions yet")).to_be_visible()
    expect(page.locator("#none pre")).to_have_text("import headway\nheadway.install(celery_app)")
    stage.publish("first")
    expect(row(page, "first")).to_be_visible()
    expect(page.locator("#none")).to_be_hidden()


def test_the_connection_is_lost(page: Page, stage: Stage) -> None:
    """Without the server nothing seems to go on; when it is back, what was missed is there, and
    what is new.
    """
    stage.run("mine", 10, 100)
    open_page(page, stage)
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    stage.serving.stop()
    expect(page.locator("#banner")).to_contain_text("The connection is lost")
    expect(page.locator("#link")).to_have_text("Connection lost")
    assert (
        row(page, "mine").locator(".fill").evaluate("it => getComputedStyle(it).animationPlayState")
        == "paused"
    )
    stage.report("mine", 70, 100)
    stage.end("mine")
    stage.publish("later")
    stage.serving.start()
    expect(page.locator("#banner")).to_be_hidden()
    expect(row(page, "mine").locator(".state")).to_have_text("Done")
    expect(row(page, "mine").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "70")
    expect(row(page, "later")).to_be_visible()


def test_the_backend_is_away(page: Page, stage: Stage) -> None:
    """A server that can't reach its backend is another thing than none; the rows stay, and it goes
    on by itself.
    """
    stage.publish("mine")
    open_page(page, stage)
    detail = {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The result backend can't be reached",
    }
    page.route("**/api/v1/executions?*", lambda route: route.fulfill(status=503, json=detail))
    expect(page.locator("#banner")).to_contain_text("can’t reach its result backend")
    expect(row(page, "mine")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="The result backend is away")).to_be_visible()
    page.unroute("**/api/v1/executions?*")
    expect(row(page, "mine")).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()


def test_a_backend_that_cannot_list(page: Page, stage: Stage) -> None:
    """Where there is no listing the page says so, and how one execution is seen all the same."""
    detail = {"title": "Not Implemented", "status": 501, "detail": "This result backend can't list"}
    page.route("**/api/v1/executions?*", lambda route: route.fulfill(status=501, json=detail))
    stage.publish("mine")
    open_page(page, stage)
    expect(page.locator("#none")).to_contain_text("can’t be listed")
    open_page(page, stage, "#/mine")
    expect(page.locator("#detail-title")).to_have_text("shop.import_orders")


def test_a_token_is_asked_for(page: Page) -> None:
    """Asked once; a wrong one is told as wrong; the right one opens list and stream, stays in this
    tab, and is in no URL.
    """
    urls: list[str] = []
    page.on("request", lambda asked: urls.append(asked.url))
    page.on("websocket", lambda socket: urls.append(socket.url))
    with staged(tokens="open-sesame") as stage:
        stage.run("mine", 10, 100)
        page.goto(stage.url)
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text("didn’t take that token")).to_be_hidden()
        for token in ("wrong", "open-sesame"):
            dialog.get_by_label("Token").fill(token)
            dialog.get_by_role("button", name="Continue").click()
            if token == "wrong":
                expect(dialog.get_by_text("didn’t take that token")).to_be_visible()
        expect(row(page, "mine")).to_be_visible()
        stage.report("mine", 20, 100)
        expect(row(page, "mine").get_by_role("progressbar")).to_have_attribute(
            "aria-valuenow", "20"
        )
        page.reload()  # the tab remembers it
        expect(row(page, "mine")).to_be_visible()
        assert page.evaluate("localStorage.length") == 0
        assert not [url for url in urls if "open-sesame" in url]
        page.get_by_role("button", name="Forget the token").click()
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Not now").click()
        expect(page.get_by_role("heading", name="A token is wanted").last).to_be_visible()
        expect(row(page, "mine")).to_have_count(0)
        page.get_by_role("button", name="Give a token").click()
        dialog.get_by_label("Token").fill("open-sesame")
        dialog.get_by_label("Token").press("Enter")
        expect(row(page, "mine")).to_be_visible()


def test_only_what_one_may_see(page: Page) -> None:
    """The app's own rule decides what is listed and opened here too; a refusal is told in the
    server's words.
    """

    def rule(who: Identity, action: Action, execution_id: str | None) -> bool:
        return execution_id is None or execution_id.startswith("mine")

    with staged(authorize=rule) as stage:
        stage.publish("mine")
        stage.publish("theirs")
        open_page(page, stage)
        assert shown(page) == ["mine"]
        open_page(page, stage, "#/theirs")
        page.reload()
        expect(page.locator("#missing")).to_contain_text("You may not read execution 'theirs'")


def test_not_for_you(page: Page) -> None:
    """Who may not list at all is told so, and not shown an empty list."""
    with staged(authorize=lambda *_: False) as stage:
        open_page(page, stage)
        expect(page.get_by_role("heading", name="Not for you to see")).to_be_visible()
        expect(page.locator("#none")).to_contain_text("You may not list")


def test_what_is_newer_stays(page: Page, stage: Stage) -> None:
    """An answer that the stream has overtaken gives what frames don't tell, and takes nothing back."""
    open_page(page, stage)
    script = """async (place) => {
        const { overtaken } = await import(`${place}/assets/words.js`);
        const line = { status: "running", phase: "running", progress: 1, attempt: 2, worker: "w" };
        return overtaken(line, { ...line, status: "failed", phase: "failed", progress: 9, attempt: 1, worker: null });
    }"""
    seen = page.evaluate(script, PLACE)
    assert (seen["status"], seen["phase"], seen["progress"]) == ("failed", "failed", 9)
    assert (seen["attempt"], seen["worker"]) == (2, "w")


def test_a_hidden_page_rests(page: Page, stage: Stage) -> None:
    """Nobody sees it: nothing is asked, however long; seen again, it is brought up to date at once."""
    asked: list[str] = []
    page.on(
        "request",
        lambda request: asked.append(request.url) if "/executions?" in request.url else None,
    )
    page.clock.install()
    stage.publish("mine")
    open_page(page, stage)
    hide = "hidden => { Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });"
    page.evaluate(f"{hide} document.dispatchEvent(new Event('visibilitychange')); }}", True)
    page.evaluate("fetch('/api/v1/healthz')")  # what was asked before it has been told by now
    asked.clear()
    page.clock.fast_forward(60_000)
    page.evaluate("fetch('/api/v1/healthz')")
    assert asked == []
    stage.publish("later")
    page.evaluate(f"{hide} document.dispatchEvent(new Event('visibilitychange')); }}", False)
    expect(row(page, "later")).to_be_visible()
