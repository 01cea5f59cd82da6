"""What a machine may lack. On a laptop a test that needs it is skipped with the reason; in CI that
is a failure.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def skip_or_fail(service: str, reason: str) -> NoReturn:
    """Skip for want of ``service``; fail where ``CI=true``, so that nothing is left untested
    without anybody seeing it.
    """
    text = f"{service} is missing: {reason}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{text} (a skip on a laptop, a failure in CI)", pytrace=False)
    pytest.skip(text)


def chromium() -> str | None:
    """The browser: $CHROMIUM, else what Debian, Fedora and others call it."""
    named = os.environ.get("CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next((path for path in map(shutil.which, names) if path), None)


#: A browser that talks to nobody but the page's own server, and runs as root in a container.
CHROMIUM_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
