"""axe-core's rules over a page as it stands: WCAG 2.2 A and AA, and what axe calls best practice."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    "resultTypes": ["violations"],
}


def violations(page: Page, within: str | None = None) -> list[str]:
    """What is wrong, a line for each element, so that an empty list is what a test wants.

    ``within`` is a CSS selector of the part that counts; shadow roots below it are looked into. A
    page whose policy forbids inline script is no obstacle. Wait for transitions first: a colour on
    its way to another has a contrast of its own.
    """
    found = Axe().run(page, context=within, options=RULES).response["violations"]
    return [
        f"{rule['id']} at {node['target']}: {' '.join(check['message'] for check in (*node['any'], *node['all'], *node['none']))}"
        for rule in found
        for node in rule["nodes"]
    ]
