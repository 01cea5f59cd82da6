"""The browser's modules, as the server delivers them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from headway.server import browser_assets
from tests.support.flask_app import MountedApp, mounted_app

ALLOWED_ORIGIN = "https://app.example.com"


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app(tokens="a-token", origins=ALLOWED_ORIGIN) as made:
        yield made


def test_module_is_served_with_revalidation(server: MountedApp) -> None:
    """A module is a script for every browser; it is revalidated each time, and sent once."""
    response = server.client.get("/api/v1/headway.js")
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-cache"
    again = server.client.get(
        "/api/v1/headway.js", headers={"If-None-Match": response.headers["ETag"]}
    )
    assert (again.status_code, again.data) == (304, b"")


def test_exactly_the_imported_modules_are_served(server: MountedApp) -> None:
    """Every imported module is served beside the one that imports it, and no other file is."""
    seen, todo = {"headway.d.ts"}, ["headway.js"]
    while todo:
        name = todo.pop()
        seen.add(name)
        response = server.client.get(f"/api/v1/{name}")
        assert response.status_code == 200, name
        todo += [
            other
            for other in re.findall(r'from "\./([\w.-]+)"', response.text)
            if other not in seen
        ]
    assert seen == set(browser_assets.NAMES)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ALLOWED_ORIGIN, ALLOWED_ORIGIN),
        ("https://evil.example", None),
        ("null", None),
        (None, None),
    ],
)
def test_configured_origins_may_import_modules(
    server: MountedApp, origin: str | None, allowed: str | None
) -> None:
    """Pages of a configured origin may import a module, others may not; caches keep them apart."""
    response = server.client.get("/api/v1/headway.js", headers={"Origin": origin} if origin else {})
    assert response.headers.get("Access-Control-Allow-Origin") == allowed
    assert "Origin" in response.headers["Vary"]
