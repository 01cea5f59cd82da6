"""The page's cancel button, in a real browser."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.streams import Server, frame
from tests.browser.test_page import END, do_without_end, pretend, start
from tests.support.service import Service


@pytest.fixture
def home(page: Page, service: Service) -> Page:
    """The page, opened; its checksums go on for as long as nobody ends them."""
    page.route("**/api/v1/executions", do_without_end)
    page.goto(service.url)
    return page


def open_for_ever(page: Page, execution_id: str) -> Locator:
    """An execution that runs on: nothing more is said of it."""
    Server(page, {execution_id: [frame("status", execution_id, progress=None)]})
    return pretend(page, execution_id)


def test_a_running_job_is_cancelled(home: Page) -> None:
    """One press ends the job at its next report; the bar stays where it was, and there is nothing
    left to cancel.
    """
    job = start(home, "tasks.checksum")
    expect(job.locator(".numbers")).to_contain_text("%", timeout=END)
    button = job.get_by_role("button", name="Cancel Checksums")
    button.focus()
    button.press("Enter")
    expect(job).to_have_attribute("data-status", "cancelled", timeout=END)
    expect(job.locator(".state")).to_have_text("Cancelled")
    expect(job.locator(".numbers")).to_contain_text("%")
    expect(job.locator(".cancel")).to_be_hidden()
    expect(job.get_by_role("button", name="Remove Checksums")).to_be_focused()


def test_asked_for_is_not_done(home: Page) -> None:
    """Until the run has confirmed it the job says that it is cancelling, and a second press asks
    for nothing.
    """
    asked = []
    job = open_for_ever(home, "slow")

    def answer(route: Route) -> None:
        asked.append(route.request.method)
        body = {
            "execution_id": "slow",
            "status": "pending",
            "phase": "cancelling",
            "progress": None,
            "task": "tasks.any",
        }
        route.fulfill(status=202, json=body)

    home.route("**/api/v1/executions/slow/cancel", answer)
    expect(job).to_have_attribute("data-status", "running")
    job.locator(".cancel").click()
    expect(job.locator(".message")).to_have_text("Ends when a worker gets to it")
    expect(job).to_have_attribute("data-phase", "cancelling")
    job.locator(".cancel").click(force=True)
    expect(job.locator(".cancel")).to_have_attribute("aria-disabled", "true")
    assert asked == ["POST"]


def test_a_refusal_is_told(home: Page) -> None:
    """What the server says against it stands at the job."""
    job = open_for_ever(home, "dear")
    problem = {"title": "Forbidden", "status": 403, "detail": "You may not cancel execution 'dear'"}
    home.route(
        "**/api/v1/executions/dear/cancel", lambda route: route.fulfill(status=403, json=problem)
    )
    job.locator(".cancel").click()
    expect(job.locator(".error")).to_have_text(
        "It wasn’t cancelled. You may not cancel execution 'dear'"
    )
