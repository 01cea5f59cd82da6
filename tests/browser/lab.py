"""A page with nothing but Headway's module, on a server that is made up.

A test says what REST and the socket say, and turns the clock.
"""

from __future__ import annotations

import json
import socket as sockets
from typing import Any

from playwright.sync_api import Page, Request, Route

from headway.server import browser_assets
from tests.browser.streams import Json, Server
from tests.support.wait import until

HTML = """<!doctype html><html lang="en"><head><title>Lab</title><meta name="color-scheme" content="light dark">
<script type="module" src="/api/v1/headway.js"></script></head><body><main><h1>Lab</h1></main></body></html>"""

#: When it is, in the page: seconds since the epoch.
NOW = 1_800_000_000

#: Seconds that may pass in the page before what is under way has to arrive: less than any time-out
#: of the module.
STEP = 2.5

#: Seconds that anything may take on a busy machine.
PATIENCE = 60

#: In the page: chance is what a test says, `calls` counts, `underWay` has the calls without an
#: answer, `opening` the sockets.
BOUND = """(() => {
  Math.random = () => window.chance ?? 0.5;
  window.calls = 0;
  const underWay = window.underWay = new Set();
  const opening = window.opening = new Set();
  const ask = window.fetch;
  window.fetch = async (...all) => {
    const call = {};
    const over = () => underWay.delete(call);
    window.calls += 1;
    underWay.add(call);
    try {
      const response = await ask(...all);
      response.clone().arrayBuffer().then(over, over);
      return response;
    } catch (error) {
      over();
      throw error;
    }
  };
  window.WebSocket = class extends WebSocket {
    constructor(...all) {
      super(...all);
      opening.add(this);
      for (const word of ["open", "error", "close"]) this.addEventListener(word, () => opening.delete(this));
    }
  };
})()"""

#: In the page: `follow(id)` watches, and keeps what it is told in `log`, a line for each word;
#: `ends` is what `done` came to.
FOLLOW = """async () => {
  const headway = window.headway = await import("/api/v1/headway.js");
  const log = window.log = [], ends = window.ends = {}, watches = window.watches = {};
  window.follow = (id, options, name = id) => {
    const tell = (...words) => log.push([name, ...words].join(" "));
    const watching = watches[name] = headway.watch(id, {
      onStatus: (frame) => tell("status", frame.phase, frame.progress?.current ?? "-"),
      onStart: (frame) => tell("start", frame.type),
      onProgress: (progress, frame) => tell("progress", progress.current, frame.phase),
      onEnd: (frame) => tell("end", frame.type, frame.phase),
      onError: (error) => tell("error", error.code, error.final),
      onConnection: (state) => tell(state),
    }, options);
    watching.done.then((frame) => { ends[name] = frame?.type ?? null; }, (error) => { ends[name] = error.code; });
  };
}"""


class Lab:
    """The page. ``rest`` is what ``GET /executions/{id}`` says: a body, or a status and its detail;
    else nobody is there.
    """

    def __init__(self, page: Page, *, socket: bool = True) -> None:
        self.page = page
        #: Taken, and never listened at: what isn't routed is refused, as by a server that is down.
        seat = sockets.socket()
        seat.bind(("127.0.0.1", 0))
        page.on("close", lambda _: seat.close())
        self.url = f"http://127.0.0.1:{seat.getsockname()[1]}"
        self.rest: dict[str, Json | tuple[int, str]] = {}
        #: The text of ``GET /executions/{id}/progress/events``; without it the stream is refused.
        self.events: dict[str, str] = {}
        #: What was asked of the API.
        self.asked: list[Request] = []
        page.clock.install(time=NOW)
        page.route(f"{self.url}/**", self._answer)
        if socket:
            self.socket = Server(page)
        page.add_init_script(BOUND)
        page.goto(self.url)
        page.clock.pause_at(NOW + 3600)
        page.evaluate(FOLLOW)

    def follow(self, *ids: str, name: str | None = None, **options: Any) -> None:
        """Watch them, all in one go."""
        self.page.evaluate(
            "([ids, options, name]) => { for (const id of ids) follow(id, options, name ?? id) }",
            [ids, options, name],
        )

    def stop(self, name: str) -> None:
        self.page.evaluate("name => watches[name].stop()", name)

    def turn(self, seconds: float) -> None:
        """Let time pass in the page. It waits for what is under way: else a slow answer would be
        one that came too late.
        """
        left = round(seconds * 1000)
        while left > 0:
            self.settle()
            step = min(left, round(STEP * 1000))
            self.page.clock.run_for(step)
            left -= step
        self.settle()

    def settle(self) -> None:
        """Wait until all calls of the page are answered. What it has said on its socket was heard
        then, and is answered.
        """
        until(
            lambda: self.page.evaluate("underWay.size") == 0,
            within=PATIENCE,
            what="all calls to be answered",
        )

    @property
    def calls(self) -> int:
        """How often the page has called the API so far, by its own count: an aborted call may never
        get as far as `asked`.
        """
        count: int = self.page.evaluate("calls")
        return count

    @property
    def log(self) -> list[str]:
        """All that was told so far."""
        told: list[str] = self.page.evaluate("log")
        return told

    def told(self, *lines: str) -> None:
        """Wait until this, and nothing else, has been told since the last call."""
        until(
            lambda: len(self.log) >= len(lines),
            within=PATIENCE,
            what=f"{lines} instead of {self.log}",
        )
        assert self.page.evaluate("log.splice(0)") == list(lines)

    def opened(self, count: int) -> None:
        """Wait until that many sockets have been opened in all. Asking the browser lets its events
        through.
        """
        until(
            lambda: self.page.evaluate("1") and len(self.socket.sockets) >= count,
            within=PATIENCE,
            what=f"{count} sockets",
        )
        assert len(self.socket.sockets) == count

    def heard(self, count: int) -> list[Json]:
        """What the page has said on its sockets, once it is that many messages."""
        until(
            lambda: self.page.evaluate("1") and len(self.socket.heard) >= count,
            within=PATIENCE,
            what=f"{count} messages",
        )
        return self.socket.heard

    def paths(self, ending: str = "") -> list[str]:
        """What was asked of the API, but for the modules."""
        return [
            request.url.removeprefix(f"{self.url}/api/v1")
            for request in self.asked
            if request.url.endswith(ending)
        ]

    def _answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(self.url).removeprefix("/api/v1/").partition("?")[0]
        if path in browser_assets.NAMES:
            route.fulfill(
                body=(browser_assets.FOLDER / path).read_bytes(), content_type="text/javascript"
            )
        elif path == "/":
            route.fulfill(body=HTML, content_type="text/html")
        else:
            self.asked.append(route.request)
            self._answer_api(route, path)

    def _answer_api(self, route: Route, path: str) -> None:
        if path == "tickets":
            route.fulfill(json={"ticket": "t1", "expires_in": 30})
            return
        name, _, rest = path.removeprefix("executions/").partition("/")
        if rest == "progress/events" and name in self.events:
            route.fulfill(body=self.events[name], content_type="text/event-stream")
            return
        said = self.rest.get(name)
        if rest or said is None:
            route.abort()
        elif isinstance(said, tuple):
            route.fulfill(status=said[0], json={"detail": said[1]})
        else:
            etag = f'"{hash(json.dumps(said))}"'
            known = route.request.headers.get("if-none-match") == etag
            route.fulfill(
                status=304 if known else 200,
                body=b"" if known else json.dumps(said),
                headers={"ETag": etag},
            )


def execution(
    execution_id: str, status: str = "running", phase: str = "running", **more: Any
) -> Json:
    """What REST says."""
    body = {
        "execution_id": execution_id,
        "status": status,
        "phase": phase,
        "progress": None,
        "outputs": None,
        "error": None,
    }
    return body | {"updated_at": "2026-01-01T12:00:00.000Z"} | more
