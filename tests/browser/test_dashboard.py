"""The dashboard's list: rows, filters, errors, tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from headway.server.auth import Action, Identity
from tests.browser.dashboard_page import PREFIX, Dashboard, open_dashboard, row, serve_dashboard
from tests.support.wait import until

pytestmark = pytest.mark.usefixtures("no_policy_violations")


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with serve_dashboard() as running:
        yield running


def shown(page: Page) -> list[str]:
    """The ids in the list, from the top."""
    ids: list[str] = page.locator(".row").evaluate_all("all => all.map((row) => row.dataset.id)")
    return ids


# --- rows ---


def test_row_shows_state_task_message_numbers_worker_attempt_and_age(
    page: Page, dashboard: Dashboard
) -> None:
    """Newest first; each row has state, task, message, bar, numbers, worker, attempt, age."""
    dashboard.add_running("first", 10, 40)
    dashboard.end("first", "RETRY")
    dashboard.start_attempt("first", worker="celery@south-2")
    dashboard.report("first", 30, 40, "Again")
    dashboard.publish("second", task="mail.newsletter")
    open_dashboard(page, dashboard)
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


def test_rows_update_live_over_one_socket(page: Page, dashboard: Dashboard) -> None:
    """A report moves the bar, and an end keeps it and shows the error, without a reload."""
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    for name in ("one", "two"):
        dashboard.add_running(name, 10, 100)
    open_dashboard(page, dashboard)
    expect(row(page, "one")).to_have_attribute("data-status", "running")
    dashboard.report("one", 31, 100, "Packing")
    expect(row(page, "one").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "31")
    dashboard.fail("one")
    dashboard.end("two")
    expect(row(page, "one").locator(".state")).to_have_text("Failed")
    expect(row(page, "one").locator(".message")).to_have_text(
        "DamagedArchiveError: Member 14 can't be read"
    )
    expect(row(page, "one").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "31")
    expect(row(page, "two").locator(".state")).to_have_text("Done")
    assert len(sockets) == 1


def test_stalled_retrying_and_cancelling_have_their_own_texts(
    page: Page, dashboard: Dashboard
) -> None:
    """Stalled, retrying and cancelling rows have different texts, and none shows a time left."""
    for name in ("stalled", "retrying", "cancelling"):
        dashboard.add_running(name, 40, 100)
    dashboard.server.store.heartbeat(["stalled"], "celery@north-1", 5.0)
    open_dashboard(page, dashboard)
    dashboard.end("retrying", "RETRY")
    dashboard.server.store.request_cancel("cancelling", dashboard.server.clock())
    dashboard.server.clock.tick(60)
    for name, word in (
        ("stalled", "Stalled"),
        ("retrying", "Retrying"),
        ("cancelling", "Cancelling"),
    ):
        expect(row(page, name).locator(".state")).to_have_text(word)
        expect(row(page, name)).to_have_attribute("data-phase", name)
        expect(row(page, name).locator(".numbers")).not_to_contain_text("left")
    dashboard.server.store.heartbeat(["stalled"], "celery@north-1", 5.0)
    expect(row(page, "stalled").locator(".state")).to_have_text("Running")


def test_row_with_unknown_total_has_no_value_and_a_count(page: Page, dashboard: Dashboard) -> None:
    """If the total is unknown, the bar has no value, and the row shows a count."""
    dashboard.add_running("open", 12, None)
    open_dashboard(page, dashboard)
    bar = row(page, "open").locator(".bar")
    expect(bar).to_have_attribute("data-kind", "moving")
    assert bar.get_attribute("aria-valuenow") is None
    expect(row(page, "open").locator(".numbers")).to_contain_text("12\u00a0done")


def test_new_execution_appears_at_the_top(page: Page, dashboard: Dashboard) -> None:
    """An execution that is published meanwhile appears at the top without a reload."""
    dashboard.publish("old")
    open_dashboard(page, dashboard)
    dashboard.publish("new")
    expect(row(page, "new")).to_be_visible()
    assert shown(page) == ["new", "old"]


def test_new_rows_wait_for_a_button_while_the_list_is_in_use(
    page: Page, dashboard: Dashboard
) -> None:
    """While the list has the focus, new rows wait behind a button that shows their number."""
    dashboard.publish("old")
    open_dashboard(page, dashboard)
    row(page, "old").get_by_role("link").focus()
    dashboard.publish("second", "third")  # in one call: a poll in between would announce only one
    expect(page.locator("#new-rows")).to_have_text("2 new")
    expect(page.locator("#announcer")).to_contain_text("2 new at the top of the list")
    assert shown(page) == ["old"]
    page.locator("#new-rows").press("Enter")
    expect(page.locator(".row")).to_have_count(3)
    assert shown(page) == ["third", "second", "old"]
    expect(row(page, "third").get_by_role("link")).to_be_focused()
    expect(page.locator("#new-rows")).to_be_hidden()


def test_button_for_new_rows_stays_while_it_has_the_focus(page: Page, dashboard: Dashboard) -> None:
    """The button keeps its place and focus over further polls until it is pressed."""
    dashboard.publish("old")
    open_dashboard(page, dashboard)
    row(page, "old").get_by_role("link").focus()
    dashboard.publish("new")
    expect(page.locator("#new-rows")).to_be_visible()
    page.locator("#new-rows").focus()
    for _ in range(2):  # the second finished request proves that the first response was applied
        page.wait_for_event("requestfinished", lambda request: "/executions?" in request.url)
    expect(page.locator("#new-rows")).to_be_focused()
    assert shown(page) == ["old"]
    page.keyboard.press("Enter")
    expect(row(page, "new").get_by_role("link")).to_be_focused()


def test_markup_from_tasks_is_shown_as_text(page: Page, dashboard: Dashboard) -> None:
    """Markup in a name, a message, an id or an error is shown as text."""
    evil = "<img src=x onerror=alert(1)>"
    dashboard.add_running(f"id{evil}".replace("/", ""), 1, 2, message=evil, task=evil)
    dashboard.fail(f"id{evil}", text=evil)
    open_dashboard(page, dashboard)
    expect(page.locator(".name span")).to_have_text(evil)
    expect(page.locator(".row .message")).to_contain_text(evil)
    page.locator(".name").click()
    expect(page.locator("#failure-message")).to_have_text(evil)
    expect(page.locator("#messages")).to_contain_text(evil)
    expect(page.locator("#id")).to_have_text(f"id{evil}")
    assert page.locator("main img").count() == 0


# --- filters ---


def test_status_chips_filter_the_list_and_show_counts(page: Page, dashboard: Dashboard) -> None:
    """A chip filters by status, shows its count, and is in the URL; the back button undoes it."""
    dashboard.add_running("good", 1, 2)
    dashboard.end("good")
    dashboard.add_running("bad", 1, 2)
    dashboard.fail("bad")
    dashboard.publish("queued")
    open_dashboard(page, dashboard)
    chips = page.get_by_role("navigation", name="Filter by status")
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


def test_task_and_text_filters_combine(page: Page, dashboard: Dashboard) -> None:
    """Task, part of a name or id, and the URL filter together; one link shows all again."""
    dashboard.publish("a1", task="shop.import_orders")
    dashboard.publish("a2", task="shop.import_orders")
    dashboard.publish("b1", task="mail.newsletter")
    open_dashboard(page, dashboard)
    page.get_by_label("Task", exact=True).select_option("shop.import_orders")
    expect(page.locator(".row")).to_have_count(2)
    page.get_by_role("searchbox").fill("A2")
    expect(page.locator(".row")).to_have_count(1)
    assert re.search(r"\?task=shop.import_orders&q=A2$", page.url)
    page.get_by_role("searchbox").fill("nothing")
    expect(page.get_by_role("heading", name="No matches")).to_be_visible()
    page.get_by_role("link", name="Show all").first.click()
    expect(page.locator(".row")).to_have_count(3)
    assert shown(page) == ["b1", "a2", "a1"]


def test_scrolling_loads_older_pages(page: Page, dashboard: Dashboard) -> None:
    """Older rows load near the end of the list; each appears once, in order."""
    for n in range(420):
        dashboard.publish(f"e{n:03}")
    open_dashboard(page, dashboard)
    rows = page.locator(".row")
    until(
        lambda: rows.last.scroll_into_view_if_needed() or rows.count() == 420,
        within=60,
        what="all rows",
    )
    expect(page.locator("#more")).to_be_hidden()
    assert shown(page) == [f"e{n:03}" for n in reversed(range(420))]


def test_back_link_returns_to_the_same_row_and_filters(page: Page, dashboard: Dashboard) -> None:
    """The link back from an execution restores filters, scroll position and focus."""
    for n in range(40):
        dashboard.publish(f"e{n:02}")
    open_dashboard(page, dashboard, "?status=pending")
    target = row(page, "e03").get_by_role("link")
    page.evaluate(
        """() => addEventListener(
            "click", () => { window.scrolled = scrollY; }, { capture: true, once: true },
        )"""
    )
    target.click()
    expect(page.locator("#detail-title")).to_be_focused()
    assert page.url.endswith("?status=pending#/e03")
    page.get_by_role("link", name="All executions").click()
    expect(target).to_be_focused()
    assert page.url.endswith("?status=pending#/")
    assert page.evaluate("scrolled") > 0
    until(
        lambda: page.evaluate("Math.abs(scrollY - scrolled) < 2"),
        what="the list to restore its scroll position",
    )


# --- errors and access ---


def test_empty_list_explains_how_to_start(page: Page, dashboard: Dashboard) -> None:
    """An empty list explains what to do, and the first execution appears without a reload."""
    open_dashboard(page, dashboard)
    expect(page.get_by_role("heading", name="No executions yet")).to_be_visible()
    expect(page.locator("#empty pre")).to_have_text("import headway\nheadway.install(celery_app)")
    dashboard.publish("first")
    expect(row(page, "first")).to_be_visible()
    expect(page.locator("#empty")).to_be_hidden()


def test_lost_connection_shows_a_banner_and_recovers(page: Page, dashboard: Dashboard) -> None:
    """Without the server, bars pause; afterwards missed and new executions appear."""
    dashboard.add_running("mine", 10, 100)
    open_dashboard(page, dashboard)
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    dashboard.wsgi_server.stop()
    expect(page.locator("#banner")).to_contain_text("Connection lost")
    expect(page.locator("#connection")).to_have_text("Connection lost")
    assert (
        row(page, "mine").locator(".fill").evaluate("it => getComputedStyle(it).animationPlayState")
        == "paused"
    )
    dashboard.report("mine", 70, 100)
    dashboard.end("mine")
    dashboard.publish("later")
    dashboard.wsgi_server.start()
    expect(page.locator("#banner")).to_be_hidden()
    expect(row(page, "mine").locator(".state")).to_have_text("Done")
    expect(row(page, "mine").get_by_role("progressbar")).to_have_attribute("aria-valuenow", "70")
    expect(row(page, "later")).to_be_visible()


def test_unavailable_backend_shows_a_banner_and_recovers(page: Page, dashboard: Dashboard) -> None:
    """An unavailable backend has its own text; the rows stay, and polling continues."""
    dashboard.publish("mine")
    open_dashboard(page, dashboard)
    detail = {
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The result backend can't be reached",
    }
    page.route("**/api/v1/executions?*", lambda route: route.fulfill(status=503, json=detail))
    expect(page.locator("#banner")).to_contain_text("can’t reach its result backend")
    expect(row(page, "mine")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Result backend unavailable")).to_be_visible()
    page.unroute("**/api/v1/executions?*")
    expect(row(page, "mine")).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()


def test_backend_without_listing_still_shows_one_execution(
    page: Page, dashboard: Dashboard
) -> None:
    """If the backend cannot list, the page explains how to open one execution."""
    detail = {"title": "Not Implemented", "status": 501, "detail": "This result backend can't list"}
    page.route("**/api/v1/executions?*", lambda route: route.fulfill(status=501, json=detail))
    dashboard.publish("mine")
    open_dashboard(page, dashboard)
    expect(page.locator("#empty")).to_contain_text("cannot list executions")
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#detail-title")).to_have_text("shop.import_orders")


def test_token_dialog_unlocks_the_list_and_the_stream(page: Page) -> None:
    """One dialog; a wrong token is reported; the right one is kept in the tab, and in no URL."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.on("websocket", lambda socket: urls.append(socket.url))
    with serve_dashboard(tokens="open-sesame") as dashboard:
        dashboard.add_running("mine", 10, 100)
        page.goto(dashboard.url)
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text("rejected this token")).to_be_hidden()
        for token in ("wrong", "open-sesame"):
            dialog.get_by_label("Token").fill(token)
            dialog.get_by_role("button", name="Continue").click()
            if token == "wrong":
                expect(dialog.get_by_text("rejected this token")).to_be_visible()
        expect(row(page, "mine")).to_be_visible()
        dashboard.report("mine", 20, 100)
        expect(row(page, "mine").get_by_role("progressbar")).to_have_attribute(
            "aria-valuenow", "20"
        )
        page.reload()  # the tab keeps the token
        expect(row(page, "mine")).to_be_visible()
        assert page.evaluate("localStorage.length") == 0
        assert not [url for url in urls if "open-sesame" in url]
        page.get_by_role("button", name="Forget token").click()
        expect(dialog).to_be_visible()
        dialog.get_by_role("button", name="Not now").click()
        expect(page.get_by_role("heading", name="Token required").last).to_be_visible()
        expect(row(page, "mine")).to_have_count(0)
        page.get_by_role("button", name="Enter a token").click()
        dialog.get_by_label("Token").fill("open-sesame")
        dialog.get_by_label("Token").press("Enter")
        expect(row(page, "mine")).to_be_visible()


def test_authorize_rule_limits_list_and_detail(page: Page) -> None:
    """The app's `authorize` rule limits list and detail; the server's message is shown."""

    def rule(who: Identity, action: Action, execution_id: str | None) -> bool:
        return execution_id is None or execution_id.startswith("mine")

    with serve_dashboard(authorize=rule) as dashboard:
        dashboard.publish("mine")
        dashboard.publish("theirs")
        open_dashboard(page, dashboard)
        assert shown(page) == ["mine"]
        open_dashboard(page, dashboard, "#/theirs")
        page.reload()
        expect(page.locator("#load-error")).to_contain_text(
            "Not allowed to read execution 'theirs'"
        )


def test_refused_listing_shows_access_denied(page: Page) -> None:
    """If listing is refused, the page shows the refusal instead of an empty list."""
    with serve_dashboard(authorize=lambda *_: False) as dashboard:
        open_dashboard(page, dashboard)
        expect(page.get_by_role("heading", name="Access denied")).to_be_visible()
        expect(page.locator("#empty")).to_contain_text("Not allowed to list")


def test_stale_response_does_not_overwrite_newer_frames(page: Page, dashboard: Dashboard) -> None:
    """A response that is older than the stream adds only what frames do not carry."""
    open_dashboard(page, dashboard)
    script = """async (prefix) => {
        const { mergeStaleRow } = await import(`${prefix}/assets/format.js`);
        const row = { status: "running", phase: "running", progress: 1, attempt: 2, worker: "w" };
        const shown = { status: "failed", phase: "failed", progress: 9, attempt: 1, worker: null };
        return mergeStaleRow(row, { ...row, ...shown });
    }"""
    seen = page.evaluate(script, PREFIX)
    assert (seen["status"], seen["phase"], seen["progress"]) == ("failed", "failed", 9)
    assert (seen["attempt"], seen["worker"]) == (2, "w")


def test_hidden_page_sends_no_requests_and_updates_when_shown(
    page: Page, dashboard: Dashboard
) -> None:
    """A hidden page sends no requests; once visible, it updates immediately."""
    polls: list[str] = []
    page.on(
        "request",
        lambda request: polls.append(request.url) if "/executions?" in request.url else None,
    )
    page.clock.install()
    dashboard.publish("mine")
    open_dashboard(page, dashboard)
    set_hidden = """(hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(set_hidden, True)
    page.evaluate("fetch('/api/v1/healthz')")  # earlier requests have been recorded by now
    polls.clear()
    page.clock.fast_forward(60_000)
    page.evaluate("fetch('/api/v1/healthz')")
    assert polls == []
    dashboard.publish("later")
    page.evaluate(set_hidden, False)
    expect(row(page, "later")).to_be_visible()
