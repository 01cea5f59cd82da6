"""Fixtures for the tests in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import pytest
from playwright.sync_api import ConsoleMessage, Frame, Page


@pytest.fixture(autouse=True)
def no_wait_for_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wait_for_function` raises: use `until` with `evaluate`, or `expect`.

    Unless a string expression is true at once, Playwright evaluates it again in the page, where the
    Content-Security-Policy forbids `eval`: such a wait fails only on slow machines.
    """

    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("wait_for_function fails under the page's policy: use until()")

    for owner in (Page, Frame):
        monkeypatch.setattr(owner, "wait_for_function", refuse)


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
