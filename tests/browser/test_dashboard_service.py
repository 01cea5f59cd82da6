"""The service's dashboard with real workers, a real server, a killed server, a lost network."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import requests
from playwright.sync_api import Page, expect

from tests.browser.dashboard_page import row
from tests.browser.test_page import END, SMALLER
from tests.support.service import Service

SCREENS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}
#: Each screen with one fault: none, the web server killed, the browser offline.
CASES = [(SCREENS["light"], "none"), (SCREENS["dark"], "restart"), (SCREENS["phone"], "cut")]


def start_all(service: Service) -> dict[str, str]:
    """Start the five jobs. Returns the final status by id. The first job outlives the fault."""
    statuses = {service.start("tasks.checksum", passes=12): "completed"}
    for task in ("tasks.pipeline", "tasks.fails_half_way", "tasks.unknown_length"):
        statuses[service.start(task, **SMALLER[task])] = (
            "failed" if task == "tasks.fails_half_way" else "completed"
        )
    rows = "name,amount\n" + "Ada,1\n" * 2000 + "broken\n"
    answer = requests.post(f"{service.url}/upload", files={"file": ("rows.csv", rows)}, timeout=60)
    return statuses | {answer.json()["execution_id"]: "completed"}


@pytest.mark.parametrize(
    ("page", "fault"), CASES, indirect=["page"], ids=[fault for _, fault in CASES]
)
def test_dashboard_follows_each_job_to_its_end(page: Page, service: Service, fault: str) -> None:
    """Each of the five jobs reaches its end, also after a killed server or a lost network."""
    page.goto(service.url)
    page.get_by_role("link", name="Dashboard").click()
    ends = start_all(service)
    longest = next(iter(ends))
    expect(row(page, longest)).to_be_visible(timeout=END)
    if fault == "restart":
        for process in service.web.descendants():
            process.send_signal(signal.SIGKILL)  # gunicorn starts another one
    elif fault == "cut":
        page.context.set_offline(True)
        expect(page.locator("#banner")).to_contain_text("Connection lost", timeout=END)
        page.context.set_offline(False)
    for execution_id, status in ends.items():
        expect(row(page, execution_id)).to_have_attribute("data-status", status, timeout=END)
    expect(page.locator("#banner")).to_be_hidden(timeout=END)
    failed = next(execution_id for execution_id, status in ends.items() if status == "failed")
    row(page, failed).get_by_role("link").click()
    expect(page.locator("#percent")).to_have_text("50.0\u00a0%", timeout=END)
    expect(page.locator("#failure-type")).to_have_text("DamagedArchiveError")
    expect(page.locator("#plot svg")).to_be_visible()
    page.get_by_role("link", name="Start a job").click()
    expect(page.get_by_role("heading", name="Start a job")).to_be_visible()
