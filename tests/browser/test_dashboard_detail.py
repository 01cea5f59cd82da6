"""The dashboard's page of one execution: reports, result or error, cancel."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect

from tests.browser.dashboard_page import Dashboard, open_dashboard, serve_dashboard
from tests.browser.streams import FakeSocketServer, frame, progress
from tests.support.wait import until


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with serve_dashboard() as running:
        yield running


def test_detail_shows_earlier_and_later_reports(page: Page, dashboard: Dashboard) -> None:
    """Plot, table and messages contain earlier reports, and later ones as they arrive."""
    dashboard.add_running("mine", 10, 100, "Reading")
    for current in (20, 30):
        dashboard.report("mine", current, 100, "Parsing", files=f"{current} of 90")
    open_dashboard(page, dashboard, "#/mine")
    expect(
        page.get_by_role(
            "img", name=re.compile("Progress over time: 3 reports, the last one 30.0 %; Running")
        )
    ).to_be_visible()
    dashboard.report("mine", 45, 100, "Writing", files="45 of 90")
    expect(
        page.get_by_role("img", name=re.compile("4 reports, the last one 45.0 %"))
    ).to_be_visible()
    expect(page.locator("#messages li")).to_have_text(
        [
            re.compile("Writing.*45.0 %"),
            re.compile("Parsing.*20.0 %"),
            re.compile("Reading.*10.0 %"),
        ]
    )
    expect(page.locator("#percent")).to_have_text("45.0\u00a0%")
    expect(page.locator("#attributes")).to_have_text(re.compile(r"files\s*45 of 90"))
    expect(page).to_have_title("45 % · shop.import_orders · Headway")
    page.get_by_text("As a table").click()
    table = page.get_by_role("table")
    expect(table.locator("tbody tr")).to_have_count(4)
    dashboard.report("mine", 50, 100, "Writing")
    expect(table.locator("tbody tr")).to_have_count(5)
    expect(table.locator("tbody tr").last).to_have_text(
        re.compile(r"1\s*50\s*100\s*50.0 %\s*Writing")
    )


def test_last_update_restarts_with_each_report(page: Page, dashboard: Dashboard) -> None:
    """A new report resets the age of the last update."""
    dashboard.server.clock.tick(-3600)
    dashboard.add_running("mine", 10, 100)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last update\s*\d+ min ago"))
    dashboard.server.clock.tick(3600)
    dashboard.report("mine", 20, 100)
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last update\s*(just now|\d+ s ago)"))


def test_last_update_uses_a_report_in_the_first_frame(
    page: Page, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report between the first response and the first frame resets the age too."""
    hub, gate = dashboard.server.headway.hub, threading.Event()
    attach = hub.attach
    monkeypatch.setattr(
        hub, "attach", lambda *args, **more: [gate.wait(60), attach(*args, **more)][1]
    )
    dashboard.server.clock.tick(-3600)
    dashboard.add_running("mine", 10, 100)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last update\s*\d+ min ago"))
    dashboard.server.clock.tick(3600)
    dashboard.report("mine", 20, 100)
    gate.set()
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last update\s*(just now|\d+ s ago)"))


def test_each_attempt_has_its_own_line_in_the_plot(page: Page, dashboard: Dashboard) -> None:
    """A retry starts a new line in the plot; the line of the earlier attempt stays."""
    dashboard.add_running("mine", 10, 100)
    dashboard.report("mine", 60, 100)
    dashboard.end("mine", "RETRY")
    dashboard.start_attempt("mine")
    dashboard.report("mine", 5, 100)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#plot path.line")).to_have_count(2)
    expect(page.locator("#plot text", has_text="Attempt")).to_have_text(["Attempt 1", "Attempt 2"])
    expect(page.locator("#facts")).to_have_text(re.compile(r"Attempt\s*2"))


def test_new_attempt_updates_worker_and_plot_live(page: Page, dashboard: Dashboard) -> None:
    """A new attempt shows its worker, and its reports belong to it."""
    dashboard.add_running("mine", 60, 100)
    open_dashboard(page, dashboard, "#/mine")
    dashboard.end("mine", "RETRY")
    expect(page.locator("#state")).to_have_text("Retrying")
    dashboard.start_attempt("mine", worker="celery@south-2")
    dashboard.report("mine", 5, 100)
    expect(page.locator("#facts")).to_contain_text("celery@south-2")
    expect(page.locator("#plot path.line")).to_have_count(2)


def test_unknown_total_plots_counts_and_has_no_percentage(page: Page, dashboard: Dashboard) -> None:
    """Without a total, the plot shows counts and the bar has no value."""
    dashboard.add_running("mine", 300, None)
    dashboard.report("mine", 1700, None)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#plot .tick").first).to_have_text("0")
    expect(page.locator("#plot")).to_contain_text("2K")
    expect(page.locator("#percent")).to_be_hidden()
    expect(page.locator("#numbers")).to_have_text(re.compile("1,700\u00a0done"))
    assert page.locator("#bar").get_attribute("aria-valuenow") is None


def test_failure_shows_error_and_keeps_the_percentage(page: Page, dashboard: Dashboard) -> None:
    """Error type and message without a traceback; the bar keeps its value; nothing to cancel."""
    dashboard.add_running("mine", 31, 100)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#failure")).to_be_hidden()
    dashboard.fail("mine")
    expect(page.locator("#failure")).to_have_text(
        re.compile(r"Error\s*DamagedArchiveError\s*Member 14 can't be read")
    )
    expect(page.locator("#percent")).to_have_text("31.0\u00a0%")
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text("Took")
    expect(page.locator("#announcer")).to_contain_text(
        "shop.import_orders: Failed. DamagedArchiveError: Member 14 can't be read"
    )
    assert "Traceback" not in page.content()


def test_end_in_the_first_frame_is_announced(page: Page, dashboard: Dashboard) -> None:
    """If the first frame is terminal already, the end is announced with its error."""
    dashboard.add_running("mine", 31, 100)
    page.route(
        "**/api/v1/executions/mine/history",
        lambda route: (dashboard.fail("mine"), route.continue_()),
        times=1,
    )
    body = dashboard.server.client.get("/api/v1/executions/mine").json
    page.route("**/api/v1/executions/mine", lambda route: route.fulfill(json=body), times=1)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#announcer")).to_contain_text(
        "shop.import_orders: Failed. DamagedArchiveError: Member 14 can't be read"
    )
    expect(page.locator("#facts")).to_contain_text("Took")


def test_start_in_the_first_frame_fetches_the_worker(page: Page, dashboard: Dashboard) -> None:
    """If the first frame is running already, the page fetches the worker: no frame carries it."""
    dashboard.publish("mine")
    page.route(
        "**/api/v1/executions/mine/history",
        lambda route: (dashboard.start_attempt("mine"), route.continue_()),
        times=1,
    )
    body = dashboard.server.client.get("/api/v1/executions/mine").json
    page.route("**/api/v1/executions/mine", lambda route: route.fulfill(json=body), times=1)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#state")).to_have_text("Running")
    expect(page.locator("#facts")).to_contain_text("celery@north-1")


def test_end_read_before_its_frame_is_announced_once(page: Page, dashboard: Dashboard) -> None:
    """If a response is faster than the stream, the end is announced once."""
    dashboard.add_running("mine", 31, 100)
    server = FakeSocketServer(page, {"mine": [frame("status", "mine", progress=progress(31, 100))]})
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    dashboard.fail("mine")
    server.send(frame("status", "mine", phase="stalled", progress=progress(31, 100)))
    expect(page.locator("#state")).to_have_text("Failed")
    error = {"type": "DamagedArchiveError", "message": "Member 14 can't be read", "details": None}
    server.send(frame("failed", "mine", progress=progress(31, 100), error=error))
    announced = page.locator(
        "#announcer p", has_text="Failed. DamagedArchiveError: Member 14 can't be read"
    )
    expect(announced).to_have_count(1)


def test_stale_frames_after_a_terminal_state_are_ignored(page: Page, dashboard: Dashboard) -> None:
    """Frames from before an end that was read change nothing, and the end is announced once."""
    dashboard.add_running("mine", 31, 100)
    server = FakeSocketServer(page, {"mine": [frame("status", "mine", progress=progress(31, 100))]})
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    dashboard.fail("mine")
    server.send(frame("started", "mine"))  # makes the page fetch the execution
    expect(page.locator("#state")).to_have_text("Failed")
    with page.expect_response("**/executions/mine"):
        server.send(frame("status", "mine", phase="stalled", progress=progress(31, 100)))
    error = {"type": "DamagedArchiveError", "message": "Member 14 can't be read", "details": None}
    with page.expect_response("**/executions/mine"):
        server.send(frame("failed", "mine", progress=progress(31, 100), error=error))
    expect(page.locator("#state")).to_have_text("Failed")
    expect(page.locator("#announcer p", has_text="Stalled")).to_have_count(0)
    expect(
        page.locator(
            "#announcer p", has_text="Failed. DamagedArchiveError: Member 14 can't be read"
        )
    ).to_have_count(1)


def test_result_is_shown_after_completion(page: Page, dashboard: Dashboard) -> None:
    """The return value of the task appears when it is done."""
    dashboard.add_running("mine", 100, 100)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#outputs-panel")).to_be_hidden()
    dashboard.end("mine", result={"rows": 12})
    expect(page.locator("#outputs")).to_have_text('{\n  "rows": 12\n}')


def test_terminate_is_offered_after_an_unconfirmed_cancel(
    page: Page, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancel needs a confirmation. Terminate is a second step with a warning."""
    terminated: list[bool] = []
    monkeypatch.setattr(
        "headway.cancellation.broadcast_revoke",
        lambda app, task_id, *, terminate, timeout: terminated.append(terminate),
    )
    dashboard.add_running("mine", 31, 100)
    open_dashboard(page, dashboard, "#/mine")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Go back").click()
    expect(page.locator("#state")).to_have_text("Running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(page.locator("#state")).to_have_text("Cancelling")
    assert True not in terminated
    page.get_by_role("button", name="Terminate", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("killed")
    page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    until(lambda: True in terminated, within=60)
    dashboard.end("mine", "REVOKED")
    expect(page.locator("#state")).to_have_text("Cancelled")
    expect(page.locator("#cancel")).to_be_hidden()


def test_cancel_response_after_the_end_changes_nothing(
    page: Page, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the task confirms its cancel before the server responds, the response is ignored."""
    monkeypatch.setattr("headway.cancellation.broadcast_revoke", lambda *_, **__: None)
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/mine/cancel", lambda route: held.append((route, route.fetch())))
    page.add_init_script(  # `applied` becomes true once the page has applied the response
        """const json = Response.prototype.json;
        Response.prototype.json = async function () {
            const body = await json.call(this);
            if (this.url.endsWith("/cancel")) setTimeout(() => { window.applied = true; });
            return body;
        };"""
    )
    dashboard.add_running("mine", 31, 100)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    until(lambda: page.evaluate("1") and held, within=60)
    dashboard.end("mine", "REVOKED")
    expect(page.locator("#state")).to_have_text("Cancelled")
    expect(page.locator("#facts")).to_contain_text(
        "Took"
    )  # the request after the end has finished too
    route, answer = held[0]
    route.fulfill(response=answer)
    until(lambda: page.evaluate("window.applied"), within=60)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator("#state").text_content() == "Cancelled"
    assert page.locator("#cancel").is_hidden()


def test_stalled_execution_offers_terminate_after_cancel(
    page: Page, dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled execution stays stalled after a cancel request; terminate is offered anyway."""
    monkeypatch.setattr("headway.cancellation.broadcast_revoke", lambda *_, **__: None)
    dashboard.add_running("mine", 31, 100)
    dashboard.server.store.heartbeat(["mine"], "celery@north-1", 5.0)
    dashboard.server.clock.tick(60)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#state")).to_have_text("Stalled")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(page.get_by_role("button", name="Terminate", exact=True)).to_be_visible()


def test_refused_cancel_shows_the_message_of_the_server(page: Page, dashboard: Dashboard) -> None:
    """The page shows why the server refused the request."""
    dashboard.add_running("mine", 31, 100)
    open_dashboard(page, dashboard, "#/mine")
    problem = {"title": "Forbidden", "status": 403, "detail": "You may not cancel execution 'mine'"}
    page.route("**/mine/cancel", lambda route: route.fulfill(status=403, json=problem))
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(page.get_by_role("alert")).to_have_text(
        "Could not cancel: You may not cancel execution 'mine'"
    )


def test_unknown_id_shows_not_found_and_a_way_back(page: Page, dashboard: Dashboard) -> None:
    """An unknown id shows an error with the id as text, and a link back."""
    open_dashboard(page, dashboard, "#/no%20such%3Cid")
    expect(page.get_by_role("heading", name="Execution not found")).to_be_visible()
    expect(page.locator("#load-error code")).to_have_text("no such<id")
    page.get_by_role("link", name="All executions").click()
    expect(page.get_by_role("heading", name="No executions yet")).to_be_visible()


def test_reports_during_a_lost_connection_appear_afterwards(
    page: Page, dashboard: Dashboard
) -> None:
    """After a reconnect, the plot contains the reports of the gap."""
    dashboard.add_running("mine", 10, 100)
    open_dashboard(page, dashboard, "#/mine")
    expect(page.locator("#connection")).to_have_attribute("data-state", "live")
    dashboard.wsgi_server.stop()
    expect(page.locator("#banner")).to_contain_text("Connection lost")
    for current in (20, 30, 40):
        dashboard.report("mine", current, 100)
    dashboard.wsgi_server.start()
    expect(page.locator("#percent")).to_have_text("40.0\u00a0%")
    expect(page.get_by_role("img", name=re.compile("4 reports"))).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()


@pytest.mark.parametrize(
    "page", [{"permissions": ["clipboard-read", "clipboard-write"]}], indirect=True
)
def test_copy_button_copies_the_id(page: Page, dashboard: Dashboard) -> None:
    """One press copies the id to the clipboard and confirms it."""
    dashboard.publish("mine")
    open_dashboard(page, dashboard, "#/mine")
    page.evaluate(  # the confirmation lasts for two seconds
        """() => {
            window.texts = [];
            const button = document.getElementById("copy");
            const observer = new MutationObserver(() => texts.push(button.textContent));
            observer.observe(button, { childList: true });
        }"""
    )
    page.get_by_role("button", name="Copy id").click()
    expect(page.locator("#announcer")).to_contain_text("Id copied")
    assert page.evaluate("texts[0]") == "Copied"
    assert page.evaluate("navigator.clipboard.readText()") == "mine"
