"""A page with only headway.js, on a fake server. Tests control responses and the page's clock."""

from __future__ import annotations

import json
import socket
from typing import Any

from playwright.sync_api import Locator, Page, Request, Route

from headway.server import browser_assets
from tests.browser.streams import FakeSocketServer, Json
from tests.support.wait import until

HTML = """<!doctype html>
<html lang="en"><head><title>Host</title><meta name="color-scheme" content="light dark">
<script type="module" src="/api/v1/headway.js"></script></head>
<body><main><h1>Host</h1></main></body></html>"""

#: The page's time at the start, seconds since the epoch.
NOW = 1_800_000_000

#: Seconds by which the page's clock may jump while requests are pending: less than each timeout of
#: the module.
STEP = 2.5

#: Seconds that anything may take on a busy machine.
TIMEOUT = 60

#: Runs before the page's scripts: makes `Math.random` return `randomValue`, counts requests in
#: `calls`, and tracks pending requests in `pendingCalls` and connecting sockets in
#: `connectingSockets`.
INIT_SCRIPT = """(() => {
  Math.random = () => window.randomValue ?? 0.5;
  window.calls = 0;
  const pendingCalls = window.pendingCalls = new Set();
  const connectingSockets = window.connectingSockets = new Set();
  const realFetch = window.fetch;
  window.fetch = async (...args) => {
    const call = {};
    const done = () => pendingCalls.delete(call);
    window.calls += 1;
    pendingCalls.add(call);
    try {
      const response = await realFetch(...args);
      response.clone().arrayBuffer().then(done, done);
      return response;
    } catch (error) {
      done();
      throw error;
    }
  };
  window.WebSocket = class extends WebSocket {
    constructor(...args) {
      super(...args);
      connectingSockets.add(this);
      for (const event of ["open", "error", "close"]) {
        this.addEventListener(event, () => connectingSockets.delete(this));
      }
    }
  };
})()"""

#: Defines `follow(id)`, which watches an execution and appends one line per event to `log`; `ends`
#: has what each `done` resolved to.
FOLLOW_SCRIPT = """async () => {
  const headway = window.headway = await import("/api/v1/headway.js");
  const log = window.log = [], ends = window.ends = {}, watches = window.watches = {};
  window.follow = (id, options, name = id) => {
    const add = (...words) => log.push([name, ...words].join(" "));
    const watching = watches[name] = headway.watch(id, {
      onStatus: (frame) => add("status", frame.phase, frame.progress?.current ?? "-"),
      onStart: (frame) => add("start", frame.type),
      onProgress: (progress, frame) => add("progress", progress.current, frame.phase),
      onEnd: (frame) => add("end", frame.type, frame.phase),
      onError: (error) => add("error", error.code, error.final),
      onConnection: (state) => add(state),
    }, options);
    watching.done.then(
      (frame) => { ends[name] = frame?.type ?? null; },
      (error) => { ends[name] = error.code; },
    );
  };
}"""

FOLLOW_ALL = """([ids, options, name]) => {
  for (const id of ids) follow(id, options, name ?? id);
}"""


class ElementPage:
    """The page and its fake server.

    ``responses`` has the responses of ``GET /executions/{id}``: a body, or a status and its detail.
    For other ids the server is unreachable.
    """

    def __init__(self, page: Page, *, with_sockets: bool = True) -> None:
        self.page = page
        #: Bound but not listening: requests without a route are refused, as by a stopped server.
        port_holder = socket.socket()
        port_holder.bind(("127.0.0.1", 0))
        page.on("close", lambda _: port_holder.close())
        self.url = f"http://127.0.0.1:{port_holder.getsockname()[1]}"
        self.responses: dict[str, Json | tuple[int, str]] = {}
        #: The text of ``GET /executions/{id}/progress/events``; other streams are refused.
        self.event_streams: dict[str, str] = {}
        #: All requests to the API.
        self.requests: list[Request] = []
        page.clock.install(time=NOW)
        page.route(f"{self.url}/**", self._respond)
        if with_sockets:
            self.server = FakeSocketServer(page)
        page.add_init_script(INIT_SCRIPT)
        page.goto(self.url)
        page.clock.pause_at(NOW + 3600)
        page.evaluate(FOLLOW_SCRIPT)

    def follow(self, *ids: str, name: str | None = None, **options: Any) -> None:
        """Watch executions, all in one task of the page."""
        self.page.evaluate(FOLLOW_ALL, [ids, options, name])

    def stop(self, name: str) -> None:
        self.page.evaluate("name => watches[name].stop()", name)

    def advance(self, seconds: float) -> None:
        """Advance the page's clock, in steps, and wait for pending requests in between."""
        left = round(seconds * 1000)
        while left > 0:
            self.wait_for_calls()
            step = min(left, round(STEP * 1000))
            self.page.clock.run_for(step)
            left -= step
        self.wait_for_calls()

    def process_events(self) -> None:
        """Let the page process pending events, and this process those of the browser."""
        self.page.evaluate("1")

    def wait_for_calls(self) -> None:
        """Wait until no request of the page is pending. Socket messages are answered by then."""
        until(
            lambda: self.page.evaluate("pendingCalls.size") == 0,
            within=TIMEOUT,
            what="all calls to be answered",
        )

    @property
    def calls(self) -> int:
        """Requests so far, as the page counts them: aborted ones may not be in `requests`."""
        count: int = self.page.evaluate("calls")
        return count

    @property
    def log(self) -> list[str]:
        """The events so far."""
        lines: list[str] = self.page.evaluate("log")
        return lines

    def expect_log(self, *lines: str) -> None:
        """Wait until exactly these events have been logged since the last call."""
        until(
            lambda: len(self.log) >= len(lines),
            within=TIMEOUT,
            what=f"{lines} instead of {self.log}",
        )
        assert self.page.evaluate("log.splice(0)") == list(lines)

    def wait_for_sockets(self, count: int) -> None:
        """Wait until this number of sockets has been opened, from the start of the test."""

        def opened() -> bool:
            self.process_events()
            return len(self.server.sockets) >= count

        until(opened, within=TIMEOUT, what=f"{count} sockets")
        assert len(self.server.sockets) == count

    def wait_for_messages(self, count: int) -> list[Json]:
        """Wait until the page has sent this number of messages on its sockets; returns all."""

        def sent() -> bool:
            self.process_events()
            return len(self.server.messages) >= count

        until(sent, within=TIMEOUT, what=f"{count} messages")
        return self.server.messages

    def request_paths(self, ending: str = "") -> list[str]:
        """Paths of the requests to the API, without the modules."""
        urls = [request.url for request in self.requests]
        return [url.removeprefix(f"{self.url}/api/v1") for url in urls if url.endswith(ending)]

    def _respond(self, route: Route) -> None:
        url = route.request.url.removeprefix(self.url)
        path = url.removeprefix("/api/v1/").partition("?")[0]
        if path in browser_assets.NAMES:
            body = (browser_assets.FOLDER / path).read_bytes()
            route.fulfill(body=body, content_type="text/javascript")
        elif path == "/":
            route.fulfill(body=HTML, content_type="text/html")
        else:
            self.requests.append(route.request)
            self._respond_api(route, path)

    def _respond_api(self, route: Route, path: str) -> None:
        if path == "tickets":
            route.fulfill(json={"ticket": "t1", "expires_in": 30})
            return
        name, _, rest = path.removeprefix("executions/").partition("/")
        if rest == "progress/events" and name in self.event_streams:
            route.fulfill(body=self.event_streams[name], content_type="text/event-stream")
            return
        response = self.responses.get(name)
        if rest or response is None:
            route.abort()
        elif isinstance(response, tuple):
            route.fulfill(status=response[0], json={"detail": response[1]})
        else:
            text = json.dumps(response)
            etag = f'"{hash(text)}"'
            if route.request.headers.get("if-none-match") == etag:
                route.fulfill(status=304, headers={"ETag": etag})
            else:
                route.fulfill(body=text, headers={"ETag": etag})


def add_element(page: Page, **attributes: str) -> Locator:
    """Add a <headway-progress> with these attributes to a page."""
    page.evaluate(
        """(attributes) => {
          const element = document.createElement("headway-progress");
          for (const [name, value] of Object.entries(attributes)) {
            element.setAttribute(name, value);
          }
          document.querySelector("main").append(element);
        }""",
        attributes,
    )
    return page.locator("headway-progress").last


def execution(
    execution_id: str, status: str = "running", phase: str = "running", **more: Any
) -> Json:
    """A response of ``GET /executions/{id}``."""
    return {
        "execution_id": execution_id,
        "status": status,
        "phase": phase,
        "progress": None,
        "outputs": None,
        "error": None,
        "updated_at": "2026-01-01T12:00:00.000Z",
    } | more
