"""Accessibility checks by axe-core: WCAG 2.2 A and AA, and axe's best practices."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}


def violations(page: Page, within: str | None = None) -> list[str]:
    """One line per violation and element; an empty list if the page is fine.

    ``within`` is a CSS selector that limits the check; shadow roots below it are included. Works
    under a policy that forbids inline script. Wait for transitions first: a colour in transition
    has a contrast of its own.
    """
    found = Axe().run(page, context=within, options=RULES).response["violations"]
    lines = []
    for rule in found:
        for node in rule["nodes"]:
            checks = (*node["any"], *node["all"], *node["none"])
            messages = " ".join(check["message"] for check in checks)
            lines.append(f"{rule['id']} at {node['target']}: {messages}")
    return lines
