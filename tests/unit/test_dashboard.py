"""The dashboard's page and files: where they stand, and what they may do. What the page shows is a
matter for tests/browser.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient

from headway.errors import ConfigurationError
from headway.server import Headway
from headway.server.dashboard import ASSETS
from headway.server.settings import Settings
from tests.support.flask_app import MountedApp, mounted_app

#: What a page and what a script asks for by its own address.
ASKED = {
    "text/html": re.compile(r'(?:href|src)="([^"#?]+)"'),
    "text/javascript": re.compile(r'from "(\.[^"]+)";'),
}


def asked_for(client: FlaskClient, where: str, seen: set[str]) -> set[str]:
    """Every URL that the page at ``where`` leads to, scripts' imports included; each is seen to be
    there.
    """
    answer = client.get(where)
    assert answer.status_code == 200, where
    seen.add(where)
    if asked := ASKED.get(answer.mimetype):
        for found in asked.findall(answer.text):
            if (url := urljoin(where, found)) not in seen:
                asked_for(client, url, seen)
    return seen


def test_it_is_not_served_unless_wanted() -> None:
    """The library adds no page to an app that didn't ask for one."""
    with mounted_app() as server:
        assert not any("dashboard" in rule.endpoint for rule in server.app.url_map.iter_rules())


@pytest.mark.parametrize(
    ("place", "page"),
    [("/jobs", "/jobs/"), ("/jobs/", "/jobs/"), ("/a/b.c", "/a/b.c/"), ("/", "/")],
)
def test_it_stands_where_the_app_says(place: str, page: str) -> None:
    """Below a path, with or without a slash at its end, or at the root: the page and all its files,
    and nothing is missing.
    """
    with mounted_app(dashboard=place) as server:
        found = asked_for(server.client, page, set())
        assert {f"{page}assets/{path.name}" for path in ASSETS.iterdir()} <= found
        assert "/api/v1/headway.js" in found
        assert server.client.get(page.rstrip("/") or "/", follow_redirects=True).status_code == 200


def test_it_can_be_set_from_outside() -> None:
    """The environment and Flask's config name the place as well; nothing there is nothing wanted."""
    assert Settings.load({}, {}, {"HEADWAY_DASHBOARD": "/jobs"}).dashboard == "/jobs"
    assert Settings.load({}, {}, {"HEADWAY_DASHBOARD": ""}).dashboard is None


@pytest.mark.parametrize(
    "place", ["jobs", "//evil.example", "/jobs//", "/<id>", "/a b", "/api/v1", "/api/v1/jobs"]
)
def test_a_place_that_cannot_be(place: str) -> None:
    """What is no path, or belongs to the API, is refused at the start, in words."""
    with pytest.raises(ConfigurationError, match="dashboard"):
        Settings(dashboard=place)


def test_a_place_that_is_taken() -> None:
    """A page of the app's own isn't hidden, and hides none."""
    app = Flask("taken")
    app.add_url_rule("/jobs/", "jobs", lambda: "mine")
    with pytest.raises(ConfigurationError, match="page of its own at /jobs/"):
        MountedApp(app, dashboard="/jobs")


def test_everybody_gets_the_page_and_nobody_the_data() -> None:
    """Without a token the page comes, which holds nothing; what it asks for doesn't."""
    with mounted_app(dashboard="/jobs", tokens="secret") as server:
        server.publish("a-secret-execution")
        page = server.client.get("/jobs/", environ_base={"REMOTE_ADDR": "192.0.2.7"})
        assert page.status_code == 200
        assert "secret" not in page.text
        assert server.client.get("/api/v1/executions").status_code == 401


def test_nothing_but_its_own_files() -> None:
    """The policy lets no other host, no inline script or style and no text as markup through, and
    the page needs none of them.
    """
    with mounted_app(dashboard="/jobs") as server:
        for where in asked_for(server.client, "/jobs/", set()):
            answer = server.client.get(where)
            if not where.startswith("/jobs/"):
                continue
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
            assert "unsafe" not in policy
            assert "require-trusted-types-for 'script'" in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-cache"
            assert "ETag" in answer.headers or where == "/jobs/"
            assert "://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
            assert not re.search(
                r"\bstyle=|\bon\w+=\"|<style|<script(?! type=\"module\" src=)", answer.text
            )


def test_below_a_proxy_s_prefix() -> None:
    """Mounted below a prefix that the app doesn't know in its routes, page, files and API are asked
    for below it.
    """
    with mounted_app(dashboard="/jobs") as server:
        page = server.client.get("/jobs/", environ_overrides={"SCRIPT_NAME": "/shop"}).text
        assert 'data-api="/shop/api/v1"' in page
        assert 'src="/shop/jobs/assets/dashboard.js"' in page


def test_two_of_them() -> None:
    """Two Celery apps of one Flask app have a dashboard each, which asks its own API."""
    with mounted_app(dashboard="/one") as server:
        more: dict[str, Any] = {
            "store": server.store,
            "feed": server.feed,
            "name": "other",
            "url_prefix": "/other",
        }
        Headway(server.app, server.celery, dashboard="/two", tensorlake=False, **more)
        assert 'data-api="/api/v1"' in server.client.get("/one/").text
        assert 'data-api="/other"' in server.client.get("/two/").text


def test_an_app_s_own_links() -> None:
    """A template ``headway/nav.html`` of the app's is part of the page's head."""
    with mounted_app(dashboard="/jobs") as server:
        from jinja2 import DictLoader

        server.app.jinja_loader = DictLoader(
            {"headway/nav.html": '<a href="/jobs/">Our start page</a>'}
        )
        assert "Our start page" in server.client.get("/jobs/").text
