"""The cancel button of the start page."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.streams import FakeSocketServer, frame
from tests.browser.test_page import END, run_endlessly, start, watch_fake
from tests.support.service import Service


@pytest.fixture
def home(page: Page, service: Service) -> Page:
    """The open page; its checksums run until they are cancelled."""
    page.route("**/api/v1/executions", run_endlessly)
    page.goto(service.url)
    return page


def watch_running(page: Page, execution_id: str) -> Locator:
    """Watch an execution that stays running without further frames."""
    FakeSocketServer(page, {execution_id: [frame("status", execution_id, progress=None)]})
    return watch_fake(page, execution_id)


def test_cancel_button_cancels_a_running_job(home: Page) -> None:
    """One press cancels the job at its next report. The bar keeps its value."""
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


def test_unconfirmed_cancel_shows_cancelling_and_disables_the_button(home: Page) -> None:
    """Until the task confirms it, the job is cancelling, and a second press sends nothing."""
    methods = []
    job = watch_running(home, "slow")

    def answer(route: Route) -> None:
        methods.append(route.request.method)
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
    expect(job.locator(".message")).to_have_text("Ends when a worker receives it")
    expect(job).to_have_attribute("data-phase", "cancelling")
    job.locator(".cancel").click(force=True)
    expect(job.locator(".cancel")).to_have_attribute("aria-disabled", "true")
    assert methods == ["POST"]


def test_refused_cancel_shows_the_message_of_the_server(home: Page) -> None:
    """The job shows why the server refused the request."""
    job = watch_running(home, "other")
    problem = {
        "title": "Forbidden",
        "status": 403,
        "detail": "You may not cancel execution 'other'",
    }
    home.route(
        "**/api/v1/executions/other/cancel", lambda route: route.fulfill(status=403, json=problem)
    )
    job.locator(".cancel").click()
    expect(job.locator(".error")).to_have_text(
        "Could not cancel: You may not cancel execution 'other'"
    )
