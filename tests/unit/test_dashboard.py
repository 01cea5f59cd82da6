"""The dashboard's page and files: URLs and headers. tests/browser tests what the page shows."""

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

#: The URLs in a page or a script, by content type.
URLS = {
    "text/html": re.compile(r'(?:href|src)="([^"#?]+)"'),
    "text/javascript": re.compile(r'from "(\.[^"]+)";'),
}


def linked_urls(client: FlaskClient, where: str, seen: set[str]) -> set[str]:
    """Every URL that the page links to or imports; each must be served."""
    answer = client.get(where)
    assert answer.status_code == 200, where
    seen.add(where)
    if pattern := URLS.get(answer.mimetype):
        for found in pattern.findall(answer.text):
            if (url := urljoin(where, found)) not in seen:
                linked_urls(client, url, seen)
    return seen


def test_dashboard_is_off_by_default() -> None:
    """Without the setting, the app gets no page."""
    with mounted_app() as server:
        assert not any("dashboard" in rule.endpoint for rule in server.app.url_map.iter_rules())


@pytest.mark.parametrize(
    ("path", "page"),
    [("/jobs", "/jobs/"), ("/jobs/", "/jobs/"), ("/a/b.c", "/a/b.c/"), ("/", "/")],
)
def test_dashboard_and_its_files_are_served_at_the_configured_path(path: str, page: str) -> None:
    """With any valid path, with or without a trailing slash, the page and all files are served."""
    with mounted_app(dashboard=path) as server:
        found = linked_urls(server.client, page, set())
        assert {f"{page}assets/{path.name}" for path in ASSETS.iterdir()} <= found
        assert "/api/v1/headway.js" in found
        assert server.client.get(page.rstrip("/") or "/", follow_redirects=True).status_code == 200


def test_path_can_come_from_the_environment() -> None:
    """`HEADWAY_DASHBOARD` sets the path; an empty value disables the dashboard."""
    assert Settings.load({}, {}, {"HEADWAY_DASHBOARD": "/jobs"}).dashboard == "/jobs"
    assert Settings.load({}, {}, {"HEADWAY_DASHBOARD": ""}).dashboard is None


@pytest.mark.parametrize(
    "path", ["jobs", "//evil.example", "/jobs//", "/<id>", "/a b", "/api/v1", "/api/v1/jobs"]
)
def test_invalid_path_is_a_configuration_error(path: str) -> None:
    """A path that is invalid or belongs to the API is refused at the start."""
    with pytest.raises(ConfigurationError, match="dashboard"):
        Settings(dashboard=path)


def test_path_of_an_existing_page_is_a_configuration_error() -> None:
    """The dashboard does not hide a page of the app."""
    app = Flask("taken")
    app.add_url_rule("/jobs/", "jobs", lambda: "mine")
    with pytest.raises(ConfigurationError, match="already has a page at /jobs/"):
        MountedApp(app, dashboard="/jobs")


def test_page_needs_no_token_but_its_data_does() -> None:
    """The page without data is public; the API requires a token."""
    with mounted_app(dashboard="/jobs", tokens="secret") as server:
        server.publish("a-secret-execution")
        page = server.client.get("/jobs/", environ_base={"REMOTE_ADDR": "192.0.2.7"})
        assert page.status_code == 200
        assert "secret" not in page.text
        assert server.client.get("/api/v1/executions").status_code == 401


def test_policy_allows_only_own_files_and_no_inline_code() -> None:
    """The policy allows no other host, no inline script or style, and the page needs none."""
    with mounted_app(dashboard="/jobs") as server:
        for where in linked_urls(server.client, "/jobs/", set()):
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


def test_urls_include_the_prefix_of_a_proxy() -> None:
    """Below a `SCRIPT_NAME`, the URLs of page, files and API include it."""
    with mounted_app(dashboard="/jobs") as server:
        page = server.client.get("/jobs/", environ_overrides={"SCRIPT_NAME": "/shop"}).text
        assert 'data-api="/shop/api/v1"' in page
        assert 'src="/shop/jobs/assets/dashboard.js"' in page


def test_each_extension_has_its_own_dashboard() -> None:
    """Two Celery apps in one Flask app have one dashboard each, with its own API."""
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


def test_nav_template_of_the_app_is_included() -> None:
    """A template ``headway/nav.html`` of the app is part of the header."""
    with mounted_app(dashboard="/jobs") as server:
        from jinja2 import DictLoader

        server.app.jinja_loader = DictLoader(
            {"headway/nav.html": '<a href="/jobs/">Our start page</a>'}
        )
        assert "Our start page" in server.client.get("/jobs/").text
