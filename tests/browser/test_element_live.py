"""<headway-progress> on the real service: real jobs, cut connections, other origins."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import pytest
import requests
from playwright.sync_api import Page, expect

from headway.server import browser_assets
from tests.browser.axe import violations
from tests.browser.element_page import add_element
from tests.browser.test_page import END, ENDLESS
from tests.support.processes import WebServer
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy
from tests.support.wait import until

#: The strictest policy under which the element works.
POLICY = (
    "default-src 'none'; script-src {scripts}/; connect-src {connect}; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HTML = """<!doctype html>
<html lang="en"><title>Host</title><meta name="color-scheme" content="light dark">
<script type="module" src="{module}"></script><main><h1>Host</h1></main></html>"""


class Site(ThreadingHTTPServer):
    """A web server with another origin. A context manager.

    Not `page.route`: Chromium lets no page without a real origin access a server on this machine.
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
                """Log nothing."""

        super().__init__(("127.0.0.1", 0), Handler)
        #: Content type, policy and body, by path.
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
        """Open a page that loads the element from ``module`` (default: the service's own)."""
        module = module or f"{service}/api/v1/headway.js"
        connect = f"{service} {service.replace('http', 'ws', 1)}" if sockets else service
        policy = POLICY.format(scripts=module.rpartition("/")[0], connect=connect)
        self.files["/"] = ("text/html", policy, HTML.format(module=module).encode())
        page.goto(self.origin)


@pytest.fixture(scope="module")
def allowed_site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture(scope="module")
def web(service: Service, allowed_site: Site) -> Iterator[WebServer]:
    """A web server of the service that allows the origin of `allowed_site`."""
    with WebServer("gevent", env=service.env | {"HEADWAY_ORIGINS": allowed_site.origin}) as web:
        yield web.keep()


def percentages(page: Page) -> Callable[[], list[float]]:
    """Start collecting the percentages that the elements report."""
    page.evaluate(
        """() => {
          window.seen = [];
          addEventListener("headway-progress", ({ detail }) => {
            seen.push(detail.progress.percentage);
          });
        }"""
    )
    return lambda: page.evaluate("seen")


def test_element_follows_a_job_on_an_allowed_origin(
    page: Page, web: WebServer, allowed_site: Site, service: Service
) -> None:
    """One tag on an allowed origin with the strictest policy follows a job to its end."""
    allowed_site.show(page, web.url)
    page.evaluate(
        """() => {
          window.blocked = [];
          addEventListener("securitypolicyviolation", ({ violatedDirective }) => {
            blocked.push(violatedDirective);
          });
        }"""
    )
    seen = percentages(page)
    element = add_element(
        page,
        execution=service.start("tasks.fails_half_way", files=20),
        label="Packing",
        unit="files",
    )
    expect(element.locator(".status")).to_have_text("Failed", timeout=END)
    expect(element.locator(".numbers")).to_contain_text("10 of 20 files")
    expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
    reported = seen()
    assert reported == sorted(reported)
    assert reported[-1] == 50
    assert page.evaluate("blocked") == []
    assert violations(page, "headway-progress") == []


def test_page_of_another_origin_is_refused(page: Page, web: WebServer, service: Service) -> None:
    """A page of another origin cannot load the module; with its own copy it gets an error."""
    with Site() as other_site:
        other_site.show(page, web.url)
        assert page.evaluate("customElements.get('headway-progress') === undefined")
        for name in browser_assets.NAMES:
            code = requests.get(f"{web.url}/api/v1/{name}", timeout=60).content
            other_site.files[f"/copy/{name}"] = ("text/javascript", "", code)
        other_site.show(page, web.url, module=f"{other_site.origin}/copy/headway.js")
        element = add_element(
            page, execution=service.start("tasks.pipeline", files=30), src=f"{web.url}/api/v1"
        )
        expect(element.locator(".status")).to_have_text("Not allowed", timeout=END)
        message = (
            f"The server at {web.url} doesn’t allow requests from pages of {other_site.origin}."
        )
        expect(element.locator(".message")).to_have_text(message)
        page.goto("about:blank")


def test_fifty_elements_share_one_socket(
    page: Page, web: WebServer, allowed_site: Site, service: Service
) -> None:
    """Fifty elements for fifty executions use one socket, and each reaches its end."""
    ids = [service.start("tasks.pipeline", files=10) for _ in range(10)] + [
        f"unknown-{number}" for number in range(40)
    ]
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    allowed_site.show(page, web.url)
    for execution_id in ids:
        add_element(page, execution=execution_id)
    for execution_id in ids[:10]:
        expect(page.locator(f"headway-progress[execution='{execution_id}'] .status")).to_have_text(
            "Done", timeout=END
        )
    expect(page.locator(".status", has_text="Not found")).to_have_count(40)
    assert len(sockets) == 1


def start_endless(service: Service) -> str:
    """Start a job that runs until it is cancelled."""
    return service.start("tasks.checksum", passes=ENDLESS)


def cancel(service: Service, execution_id: str) -> None:
    """Cancel an execution, and wait until it has ended."""
    answer = requests.post(f"{service.url}/api/v1/executions/{execution_id}/cancel", timeout=60)
    assert answer.status_code == 202
    until(lambda: service.execution(execution_id)["status"] == "cancelled", within=60)


def test_element_recovers_from_a_server_restart(
    page: Page, web: WebServer, allowed_site: Site, service: Service
) -> None:
    """While the web process is gone the element shows it, then continues to the end."""
    allowed_site.show(page, web.url)
    seen = percentages(page)
    job = start_endless(service)
    element = add_element(page, execution=job)
    expect(element.locator(".percentage")).to_contain_text("%", timeout=END)
    with web.workers_gone():
        expect(element.locator(".status")).to_have_text(
            "Connection lost, reconnecting", timeout=END
        )
        expect(element.locator(".percentage")).to_contain_text("%")
    expect(element.locator(".status")).to_have_text("Running", timeout=END)
    cancel(service, job)
    expect(element.locator(".status")).to_have_text("Cancelled", timeout=END)
    reported = seen()
    assert reported == sorted(set(reported)), "a report came twice, or too late"


def test_element_shows_an_end_that_it_missed(
    page: Page, web: WebServer, allowed_site: Site, service: Service
) -> None:
    """The bar keeps its value during a cut, and the missed end appears afterwards."""
    with TcpProxy(web.address) as cable:
        allowed_site.show(page, f"http://127.0.0.1:{cable.port}")
        job = start_endless(service)
        element = add_element(page, execution=job)
        bar = element.get_by_role("progressbar")
        expect(element.locator(".percentage")).to_contain_text("%", timeout=END)
        cable.disconnect()
        expect(element.locator(".status")).to_have_text(
            "Connection lost, reconnecting", timeout=END
        )
        before = bar.get_attribute("aria-valuenow")
        cancel(service, job)
        expect(element.locator(".status")).to_have_text("Connection lost, reconnecting")
        assert bar.get_attribute("aria-valuenow") == before
        cable.reconnect()
        expect(element.locator(".status")).to_have_text("Cancelled", timeout=END)
        page.goto("about:blank")  # closes its connections


@pytest.mark.parametrize("streams", [True, False], ids=["events", "polling"])
def test_element_works_without_websockets_and_without_streams(
    page: Page, web: WebServer, allowed_site: Site, service: Service, streams: bool
) -> None:
    """If WebSockets, or streams too, are blocked, a job is followed to its end."""
    if not streams:
        page.route("**/progress/events", lambda route: route.abort())
    allowed_site.show(page, web.url, sockets=False)
    seen = percentages(page)
    job = start_endless(service)
    element = add_element(page, execution=job)
    until(lambda: len(seen()) >= 3, within=END / 1000)
    cancel(service, job)
    expect(element.locator(".status")).to_have_text("Cancelled", timeout=END)
    reported = seen()
    assert reported == sorted(set(reported))
