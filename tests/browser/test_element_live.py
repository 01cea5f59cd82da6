"""<headway-progress> and the real service: real jobs, real cuts, real origins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import pytest
import requests
from playwright.sync_api import Locator, Page, expect

from headway.server import browser_assets
from tests.browser.axe import violations
from tests.browser.test_page import END, ENDLESS
from tests.support.processes import WebServer
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import until

#: As strict as a page's policy can be.
POLICY = (
    "default-src 'none'; script-src {scripts}/; connect-src {connect}; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HTML = """<!doctype html><html lang="en"><title>Host</title><meta name="color-scheme" content="light dark">
<script type="module" src="{module}"></script><main><h1>Host</h1></main></html>"""


class Site(ThreadingHTTPServer):
    """Another origin: a web server of somebody else's. A context manager.

    A real one, for Chromium lets no page that came from nowhere ask a server on this machine.
    """

    def __init__(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content_type, policy, body = site.files.get(self.path, ("text/plain", "", b""))
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Security-Policy", policy)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        super().__init__(("127.0.0.1", 0), Handler)
        #: By path: type, policy, content.
        self.files: dict[str, tuple[str, str, bytes]] = {}
        self.origin = f"http://localhost:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, name="site")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def show(
        self, page: Page, service: str, *, module: str | None = None, sockets: bool = True
    ) -> None:
        """Open a page of this site that takes the element from ``module`` (the service's own unless
        given).
        """
        module = module or f"{service}/api/v1/headway.js"
        connect = f"{service} {service.replace('http', 'ws', 1)}" if sockets else service
        policy = POLICY.format(scripts=module.rpartition("/")[0], connect=connect)
        self.files["/"] = ("text/html", policy, HTML.format(module=module).encode())
        page.goto(self.origin)


def put(page: Page, execution_id: str, **attributes: str) -> Locator:
    """An element in the page."""
    page.evaluate(
        """(attributes) => {
          const element = document.createElement("headway-progress");
          for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
          document.querySelector("main").append(element);
        }""",
        {"execution": execution_id} | attributes,
    )
    return page.locator(f"headway-progress[execution='{execution_id}']")


@pytest.fixture(scope="module")
def friend() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def web(service: Service, friend: Site) -> Iterator[WebServer]:
    """A web server of the service's that lets pages of `friend` use it."""
    with WebServer("gevent", env=service.env | {"HEADWAY_ORIGINS": friend.origin}) as web:
        yield web.keep()


def percentages(page: Page) -> Callable[[], list[float]]:
    """From now on, collect what the elements report."""
    page.evaluate(
        """() => {
          window.seen = [];
          addEventListener("headway-progress", ({ detail }) => seen.push(detail.progress.percentage));
        }"""
    )
    return lambda: page.evaluate("seen")


def test_a_job_on_a_page_of_another_origin(
    page: Page, web: WebServer, friend: Site, service: Service
) -> None:
    """One tag on an allowed origin's page, under the strictest policy: followed to its end, and axe
    finds nothing.
    """
    friend.show(page, web.url)
    page.evaluate(
        "window.blocked = []; addEventListener('securitypolicyviolation', (it) => blocked.push(it.violatedDirective))"
    )
    seen = percentages(page)
    element = put(
        page, service.start("tasks.fails_half_way", files=20), label="Packing", unit="files"
    )
    expect(element.locator(".status")).to_have_text("Failed", timeout=END)
    expect(element.locator(".numbers")).to_contain_text("10 of 20 files")
    expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    told = seen()
    assert told == sorted(told)
    assert told[-1] == 50
    assert page.evaluate("blocked") == []
    assert violations(page, "headway-progress") == []


def test_a_page_that_is_not_allowed(page: Page, web: WebServer, service: Service) -> None:
    """A page of another origin can't take the module, and with one of its own it is told that it
    isn't wanted.
    """
    with Site() as stranger:
        stranger.show(page, web.url)
        assert page.evaluate("customElements.get('headway-progress') === undefined")
        for name in browser_assets.NAMES:
            code = requests.get(f"{web.url}/api/v1/{name}", timeout=60).content
            stranger.files[f"/copy/{name}"] = ("text/javascript", "", code)
        stranger.show(page, web.url, module=f"{stranger.origin}/copy/headway.js")
        element = put(page, service.start("tasks.pipeline", files=30), src=f"{web.url}/api/v1")
        expect(element.locator(".status")).to_have_text("Not allowed", timeout=END)
        said = f"The server at {web.url} doesn’t let pages of {stranger.origin} use it."
        expect(element.locator(".message")).to_have_text(said)
        page.goto("about:blank")


def test_fifty_elements_and_one_socket(
    page: Page, web: WebServer, friend: Site, service: Service
) -> None:
    """Fifty elements of fifty executions take one seat on the server, and each comes to its end."""
    ids = [service.start("tasks.pipeline", files=10) for _ in range(10)] + [
        f"nobody-{number}" for number in range(40)
    ]
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    friend.show(page, web.url)
    for execution_id in ids:
        put(page, execution_id)
    for execution_id in ids[:10]:
        expect(page.locator(f"headway-progress[execution='{execution_id}'] .status")).to_have_text(
            "Done", timeout=END
        )
    expect(page.locator(".status", has_text="Not found")).to_have_count(40)
    assert len(sockets) == 1


def long(service: Service) -> str:
    """Start a job that goes on until somebody cancels it."""
    return service.start("tasks.checksum", passes=ENDLESS)


def cancel(service: Service, execution_id: str) -> None:
    """End it, and wait until it has ended."""
    answer = requests.post(f"{service.url}/api/v1/executions/{execution_id}/cancel", timeout=60)
    assert answer.status_code == 202
    until(lambda: service.execution(execution_id)["status"] == "cancelled", within=60)


def test_the_server_restarts(page: Page, web: WebServer, friend: Site, service: Service) -> None:
    """With the web process gone in the middle of a job the element says so, and goes on by itself
    to the end.
    """
    friend.show(page, web.url)
    seen = percentages(page)
    job = long(service)
    element = put(page, job)
    expect(element.locator(".percentage")).to_contain_text("%", timeout=END)
    with web.workers_gone():
        expect(element.locator(".status")).to_have_text(
            "Connection lost, trying again", timeout=END
        )
        expect(element.locator(".percentage")).to_contain_text("%")
    expect(element.locator(".status")).to_have_text("Running", timeout=END)
    cancel(service, job)
    expect(element.locator(".status")).to_have_text("Cancelled", timeout=END)
    told = seen()
    assert told == sorted(set(told)), "something was told twice, or too late"


def test_the_network_is_cut(page: Page, web: WebServer, friend: Site, service: Service) -> None:
    """Cut off while its job ends, the element keeps the bar where it was, and behind the cut shows
    the end.
    """
    with TcpProxy(web.address) as cable:
        friend.show(page, f"http://127.0.0.1:{cable.port}")
        job = long(service)
        element = put(page, job)
        bar = element.get_by_role("progressbar")
        expect(element.locator(".percentage")).to_contain_text("%", timeout=END)
        cable.cut()
        expect(element.locator(".status")).to_have_text(
            "Connection lost, trying again", timeout=END
        )
        before = bar.get_attribute("aria-valuenow")
        cancel(service, job)
        expect(element.locator(".status")).to_have_text("Connection lost, trying again")
        assert bar.get_attribute("aria-valuenow") == before
        cable.mend()
        expect(element.locator(".status")).to_have_text("Cancelled", timeout=END)
        page.goto("about:blank")  # nothing of it is left on the cable


@pytest.mark.parametrize("streams", [True, False], ids=["events", "polling"])
def test_where_no_socket_gets_through(
    page: Page, web: WebServer, friend: Site, service: Service, streams: bool
) -> None:
    """Where WebSockets are stopped, and where streams are as well, a job is followed all the same,
    to its end.
    """
    if not streams:
        page.route("**/progress/events", lambda route: route.abort())
    friend.show(page, web.url, sockets=False)
    seen = percentages(page)
    job = long(service)
    element = put(page, job)
    until(lambda: len(seen()) >= 3, within=END / 1000)
    cancel(service, job)
    expect(element.locator(".status")).to_have_text("Cancelled", timeout=END)
    told = seen()
    assert told == sorted(set(told))
