"""Programs that a machine may lack: tests that need them are skipped locally and fail in CI."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def skip_or_fail(service: str, reason: str) -> NoReturn:
    """Skip the test because ``service`` is missing. With ``CI=true`` fail instead: CI tests all."""
    text = f"{service} is missing: {reason}"
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{text} (a skip locally, a failure in CI)", pytrace=False)
    pytest.skip(text)


def chromium() -> str | None:
    """The browser: $CHROMIUM, else the first on the PATH with a usual name."""
    named = os.environ.get("CHROMIUM")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next((path for path in map(shutil.which, names) if path), None)


#: Chromium requests only the page's server, and runs in a container.
CHROMIUM_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
