"""One execution's own page in a real browser, over the fakes: its course, what it said, how it
ended, and cancelling it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import APIResponse, Page, Route, expect

from tests.browser.stage import Stage, open_page, staged
from tests.browser.streams import Server, frame, progress
from tests.support.wait import until


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged() as made:
        yield made


def test_late_viewers_see_the_whole_course(page: Page, stage: Stage) -> None:
    """What was reported before the page came is in plot, table and messages; what comes then goes
    on from there, by itself.
    """
    stage.run("mine", 10, 100, "Reading")
    for current in (20, 30):
        stage.report("mine", current, 100, "Parsing", files=f"{current} of 90")
    open_page(page, stage, "#/mine")
    expect(
        page.get_by_role(
            "img", name=re.compile("Progress over time: 3 reports, the last one 30.0 %; Running")
        )
    ).to_be_visible()
    stage.report("mine", 45, 100, "Writing", files="45 of 90")
    expect(
        page.get_by_role("img", name=re.compile("4 reports, the last one 45.0 %"))
    ).to_be_visible()
    expect(page.locator("#said li")).to_have_text(
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
    stage.report("mine", 50, 100, "Writing")
    expect(table.locator("tbody tr")).to_have_count(5)
    expect(table.locator("tbody tr").last).to_have_text(
        re.compile(r"1\s*50\s*100\s*50.0 %\s*Writing")
    )


def test_last_heard_is_of_the_newest_report(page: Page, stage: Stage) -> None:
    """How long ago it was last heard of begins anew with each report that comes while one looks."""
    stage.server.clock.tick(-3600)
    stage.run("mine", 10, 100)
    open_page(page, stage, "#/mine")
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last heard\s*\d+ min ago"))
    stage.server.clock.tick(3600)
    stage.report("mine", 20, 100)
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last heard\s*(just now|\d+ s ago)"))


def test_last_heard_is_of_what_the_stream_began_with(
    page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that came between the look at the execution and the stream's first word counts as
    any other.
    """
    hub, gate = stage.server.headway.hub, threading.Event()
    attach = hub.attach
    monkeypatch.setattr(
        hub, "attach", lambda *args, **more: [gate.wait(60), attach(*args, **more)][1]
    )
    stage.server.clock.tick(-3600)
    stage.run("mine", 10, 100)
    open_page(page, stage, "#/mine")
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last heard\s*\d+ min ago"))
    stage.server.clock.tick(3600)
    stage.report("mine", 20, 100)
    gate.set()
    expect(page.locator("#facts")).to_have_text(re.compile(r"Last heard\s*(just now|\d+ s ago)"))


def test_attempts_are_told_apart(page: Page, stage: Stage) -> None:
    """A retry begins a line of its own in the plot, where the attempt before it stays."""
    stage.run("mine", 10, 100)
    stage.report("mine", 60, 100)
    stage.end("mine", "RETRY")
    stage.begin("mine")
    stage.report("mine", 5, 100)
    open_page(page, stage, "#/mine")
    expect(page.locator("#plot path.line")).to_have_count(2)
    expect(page.locator("#plot text", has_text="Attempt")).to_have_text(["Attempt 1", "Attempt 2"])
    expect(page.locator("#facts")).to_have_text(re.compile(r"Attempt\s*2"))


def test_a_new_attempt_while_one_looks(page: Page, stage: Stage) -> None:
    """A new attempt is told with its number and worker, and its reports are its own."""
    stage.run("mine", 60, 100)
    open_page(page, stage, "#/mine")
    stage.end("mine", "RETRY")
    expect(page.locator("#state")).to_have_text("Retrying")
    stage.begin("mine", worker="celery@south-2")
    stage.report("mine", 5, 100)
    expect(page.locator("#facts")).to_contain_text("celery@south-2")
    expect(page.locator("#plot path.line")).to_have_count(2)


def test_of_unknown_length(page: Page, stage: Stage) -> None:
    """Without a total the plot counts over time, and the bar has no value."""
    stage.run("mine", 300, None)
    stage.report("mine", 1700, None)
    open_page(page, stage, "#/mine")
    expect(page.locator("#plot .tick").first).to_have_text("0")
    expect(page.locator("#plot")).to_contain_text("2K")
    expect(page.locator("#percent")).to_be_hidden()
    expect(page.locator("#numbers")).to_have_text(re.compile("1,700\u00a0done"))
    assert page.locator("#bar").get_attribute("aria-valuenow") is None


def test_a_failure_says_why(page: Page, stage: Stage) -> None:
    """Type and message, no traceback; the bar stays where it was, and there is nothing to cancel."""
    stage.run("mine", 31, 100)
    open_page(page, stage, "#/mine")
    expect(page.locator("#failure")).to_be_hidden()
    stage.fail("mine")
    expect(page.locator("#failure")).to_have_text(
        re.compile(r"Why it failed\s*DamagedArchiveError\s*Member 14 can't be read")
    )
    expect(page.locator("#percent")).to_have_text("31.0\u00a0%")
    expect(page.locator("#cancel")).to_be_hidden()
    expect(page.locator("#facts")).to_contain_text("Took")
    expect(page.locator("#announcer")).to_contain_text(
        "shop.import_orders: Failed. DamagedArchiveError: Member 14 can't be read"
    )
    assert "Traceback" not in page.content()


def test_an_end_that_came_while_it_opened(page: Page, stage: Stage) -> None:
    """Where the stream's first word is of an end already, that is told with its reason all the
    same.
    """
    stage.run("mine", 31, 100)
    page.route(
        "**/api/v1/executions/mine/history",
        lambda route: (stage.fail("mine"), route.continue_()),
        times=1,
    )
    body = stage.server.client.get("/api/v1/executions/mine").json
    page.route("**/api/v1/executions/mine", lambda route: route.fulfill(json=body), times=1)
    open_page(page, stage, "#/mine")
    expect(page.locator("#announcer")).to_contain_text(
        "shop.import_orders: Failed. DamagedArchiveError: Member 14 can't be read"
    )
    expect(page.locator("#facts")).to_contain_text("Took")


def test_a_begin_that_came_while_it_opened(page: Page, stage: Stage) -> None:
    """Where the stream's first word is of a run already, its worker is asked for: no frame says it."""
    stage.publish("mine")
    page.route(
        "**/api/v1/executions/mine/history",
        lambda route: (stage.begin("mine"), route.continue_()),
        times=1,
    )
    body = stage.server.client.get("/api/v1/executions/mine").json
    page.route("**/api/v1/executions/mine", lambda route: route.fulfill(json=body), times=1)
    open_page(page, stage, "#/mine")
    expect(page.locator("#state")).to_have_text("Running")
    expect(page.locator("#facts")).to_contain_text("celery@north-1")


def test_an_end_that_was_read_first(page: Page, stage: Stage) -> None:
    """Where a look at the execution is quicker than the stream, the end is announced all the same,
    and once.
    """
    stage.run("mine", 31, 100)
    server = Server(page, {"mine": [frame("status", "mine", progress=progress(31, 100))]})
    open_page(page, stage, "#/mine")
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    stage.fail("mine")
    server.tell(frame("status", "mine", phase="stalled", progress=progress(31, 100)))
    expect(page.locator("#state")).to_have_text("Failed")
    error = {"type": "DamagedArchiveError", "message": "Member 14 can't be read", "details": None}
    server.tell(frame("failed", "mine", progress=progress(31, 100), error=error))
    said = page.locator(
        "#announcer p", has_text="Failed. DamagedArchiveError: Member 14 can't be read"
    )
    expect(said).to_have_count(1)


def test_a_late_word_does_not_undo_an_end(page: Page, stage: Stage) -> None:
    """What the stream says of the time before an end that was read already changes nothing, and the
    end isn't announced again.
    """
    stage.run("mine", 31, 100)
    server = Server(page, {"mine": [frame("status", "mine", progress=progress(31, 100))]})
    open_page(page, stage, "#/mine")
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    stage.fail("mine")
    server.tell(frame("started", "mine"))  # not said by this server, but it makes the page look
    expect(page.locator("#state")).to_have_text("Failed")
    with page.expect_response("**/executions/mine"):
        server.tell(frame("status", "mine", phase="stalled", progress=progress(31, 100)))
    error = {"type": "DamagedArchiveError", "message": "Member 14 can't be read", "details": None}
    with page.expect_response("**/executions/mine"):
        server.tell(frame("failed", "mine", progress=progress(31, 100), error=error))
    expect(page.locator("#state")).to_have_text("Failed")
    expect(page.locator("#announcer p", has_text="Stalled")).to_have_count(0)
    expect(
        page.locator(
            "#announcer p", has_text="Failed. DamagedArchiveError: Member 14 can't be read"
        )
    ).to_have_count(1)


def test_a_result_is_shown(page: Page, stage: Stage) -> None:
    """What the task returned can be read when it is done."""
    stage.run("mine", 100, 100)
    open_page(page, stage, "#/mine")
    expect(page.locator("#outputs-panel")).to_be_hidden()
    stage.end("mine", result={"rows": 12})
    expect(page.locator("#outputs")).to_have_text('{\n  "rows": 12\n}')


def test_cancel_then_terminate(page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked first; then it is cancelling until its run has confirmed it; by force only in a second
    step, and after a warning.
    """
    told: list[bool] = []
    monkeypatch.setattr(
        "headway.cancellation.broadcast_revoke",
        lambda app, task_id, *, terminate, timeout: told.append(terminate),
    )
    stage.run("mine", 31, 100)
    open_page(page, stage, "#/mine")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Leave it").click()
    expect(page.locator("#state")).to_have_text("Running")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(page.locator("#state")).to_have_text("Cancelling")
    assert True not in told
    page.get_by_role("button", name="Terminate", exact=True).click()
    expect(page.get_by_role("dialog")).to_contain_text("killed")
    page.get_by_role("dialog").get_by_role("button", name="Terminate").click()
    until(lambda: True in told, within=60)
    stage.end("mine", "REVOKED")
    expect(page.locator("#state")).to_have_text("Cancelled")
    expect(page.locator("#cancel")).to_be_hidden()


def test_an_end_that_overtakes_the_answer(
    page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may confirm its cancel before the server has answered who asked for it: the answer
    takes nothing back.
    """
    monkeypatch.setattr("headway.cancellation.broadcast_revoke", lambda *_, **__: None)
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/mine/cancel", lambda route: held.append((route, route.fetch())))
    page.add_init_script(  # `taken` is true once the page has done what it does with the answer
        """const json = Response.prototype.json;
        Response.prototype.json = async function () {
            const body = await json.call(this);
            if (this.url.endsWith("/cancel")) setTimeout(() => { window.taken = true; });
            return body;
        };"""
    )
    stage.run("mine", 31, 100)
    open_page(page, stage, "#/mine")
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    until(lambda: page.evaluate("1") and held, within=60)
    stage.end("mine", "REVOKED")
    expect(page.locator("#state")).to_have_text("Cancelled")
    expect(page.locator("#facts")).to_contain_text(
        "Took"
    )  # the look behind the end is over as well
    route, answer = held[0]
    route.fulfill(response=answer)
    page.wait_for_function("window.taken")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.locator("#state").text_content() == "Cancelled"
    assert page.locator("#cancel").is_hidden()


def test_terminate_what_gives_no_sign(
    page: Page, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked to end and gives no sign of life is still called stalled; force is offered all
    the same.
    """
    monkeypatch.setattr("headway.cancellation.broadcast_revoke", lambda *_, **__: None)
    stage.run("mine", 31, 100)
    stage.server.store.heartbeat(["mine"], "celery@north-1", 5.0)
    stage.server.clock.tick(60)
    open_page(page, stage, "#/mine")
    expect(page.locator("#state")).to_have_text("No sign of life")
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(page.get_by_role("button", name="Terminate", exact=True)).to_be_visible()


def test_a_refused_cancel_is_told(page: Page, stage: Stage) -> None:
    """What the server says against it stands at the button."""
    stage.run("mine", 31, 100)
    open_page(page, stage, "#/mine")
    problem = {"title": "Forbidden", "status": 403, "detail": "You may not cancel execution 'mine'"}
    page.route("**/mine/cancel", lambda route: route.fulfill(status=403, json=problem))
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the execution").click()
    expect(page.get_by_role("alert")).to_have_text(
        "It wasn’t cancelled. You may not cancel execution 'mine'"
    )


def test_an_id_that_nobody_knows(page: Page, stage: Stage) -> None:
    """It is told as what it is, with a way back; the id is shown as it was given."""
    open_page(page, stage, "#/no%20such%3Cid")
    expect(page.get_by_role("heading", name="There is no such execution")).to_be_visible()
    expect(page.locator("#missing code")).to_have_text("no such<id")
    page.get_by_role("link", name="All executions").click()
    expect(page.get_by_role("heading", name="No executions yet")).to_be_visible()


def test_the_connection_is_lost_meanwhile(page: Page, stage: Stage) -> None:
    """After a cut the course has no hole: what was reported meanwhile is there."""
    stage.run("mine", 10, 100)
    open_page(page, stage, "#/mine")
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    stage.serving.stop()
    expect(page.locator("#banner")).to_contain_text("The connection is lost")
    for current in (20, 30, 40):
        stage.report("mine", current, 100)
    stage.serving.start()
    expect(page.locator("#percent")).to_have_text("40.0\u00a0%")
    expect(page.get_by_role("img", name=re.compile("4 reports"))).to_be_visible()
    expect(page.locator("#banner")).to_be_hidden()


@pytest.mark.parametrize(
    "page", [{"permissions": ["clipboard-read", "clipboard-write"]}], indirect=True
)
def test_the_id_is_copied(page: Page, stage: Stage) -> None:
    """One press puts it on the clipboard, and says so."""
    stage.publish("mine")
    open_page(page, stage, "#/mine")
    page.evaluate(  # it says so for two seconds
        """() => {
            window.words = [];
            const button = document.getElementById("copy");
            new MutationObserver(() => words.push(button.textContent)).observe(button, { childList: true });
        }"""
    )
    page.get_by_role("button", name="Copy id").click()
    expect(page.locator("#announcer")).to_contain_text("The id is copied")
    assert page.evaluate("words[0]") == "Copied"
    assert page.evaluate("navigator.clipboard.readText()") == "mine"
