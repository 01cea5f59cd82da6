"""Fixtures for the tests in a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import ConsoleMessage, Page


@pytest.fixture
def no_policy_violations(page: Page) -> Iterator[None]:
    """Fail if the browser blocked something that the page itself contains."""
    violations: list[str] = []

    def collect(message: ConsoleMessage) -> None:
        if "Security Policy" in message.text:
            violations.append(message.text)

    page.on("console", collect)
    yield
    assert not violations
