"""The browser's modules, as they are served."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from headway.server import browser_assets
from tests.support.flask_app import MountedApp, mounted_app

FRIEND = "https://app.example.com"


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app(tokens="a-token", origins=FRIEND) as made:
        yield made


def test_a_module_is_served(server: MountedApp) -> None:
    """It is a script for every browser, to be asked for again each time, and not sent twice."""
    response = server.client.get("/api/v1/headway.js")
    assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-cache"
    again = server.client.get(
        "/api/v1/headway.js", headers={"If-None-Match": response.headers["ETag"]}
    )
    assert (again.status_code, again.data) == (304, b"")


def test_all_that_is_imported_is_served(server: MountedApp) -> None:
    """Each module stands beside those that it imports, none is missing, and nothing is served that
    isn't used.
    """
    met, todo = {"headway.d.ts"}, ["headway.js"]
    while todo:
        name = todo.pop()
        met.add(name)
        response = server.client.get(f"/api/v1/{name}")
        assert response.status_code == 200, name
        todo += [
            other for other in re.findall(r'from "\./([\w.-]+)"', response.text) if other not in met
        ]
    assert met == set(browser_assets.NAMES)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [(FRIEND, FRIEND), ("https://evil.example", None), ("null", None), (None, None)],
)
def test_who_may_import_it(server: MountedApp, origin: str | None, allowed: str | None) -> None:
    """A page of an origin that is named may, any other may not, and a cache keeps the two apart."""
    response = server.client.get("/api/v1/headway.js", headers={"Origin": origin} if origin else {})
    assert response.headers.get("Access-Control-Allow-Origin") == allowed
    assert "Origin" in response.headers["Vary"]
