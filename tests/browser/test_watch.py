"""`watch()` of headway.js on a fake server: events, subscriptions, reconnects, fallbacks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.element_page import TIMEOUT, ElementPage, execution
from tests.browser.streams import FakeSocketServer, Json, frame, progress
from tests.support.wait import until


@pytest.fixture
def host(page: Page) -> ElementPage:
    return ElementPage(page)


def status(
    execution_id: str, current: float | None = None, phase: str = "running", **more: Any
) -> Json:
    """A `status` frame of a running execution."""
    return (
        frame(
            "status",
            execution_id,
            phase=phase,
            progress=None if current is None else progress(current, 10),
        )
        | more
    )


def report(execution_id: str, current: float) -> Json:
    return frame("progress", execution_id, progress=progress(current, 10))


# --- events ---


def test_each_change_is_reported_once(host: ElementPage) -> None:
    """From pending to the end, repeated reports are dropped, and each frame has its phase."""
    host.server.frames["a"] = [status("a", phase="queued", status="pending")]
    host.follow("a")
    host.expect_log("a live", "a status queued -")
    host.server.send(frame("started", "a"), report("a", 1), report("a", 1), report("a", 2))
    host.expect_log("a start started", "a progress 1 running", "a progress 2 running")
    host.server.send(
        status("a", 2, "stalled"), status("a", 2, "stalled"), status("a", 2), report("a", 2)
    )
    host.expect_log("a status stalled 2", "a status running 2")
    host.server.send(frame("completed", "a", outputs=7, progress=progress(10, 10)), report("a", 3))
    host.expect_log("a progress 10 succeeded", "a end completed succeeded")
    assert host.page.evaluate("ends") == {"a": "completed"}


def test_ended_execution_reports_state_and_end(host: ElementPage) -> None:
    """A watch of an ended execution reports the state and the end."""
    phases = {"completed": "succeeded", "failed": "failed", "cancelled": "cancelled"}
    for end, phase in phases.items():
        host.server.frames[end] = [
            status(end, 3, phase, status=end),
            frame(end, end, progress=progress(3, 10)),
        ]
        host.follow(end)
        host.wait_for_sockets(1)
        host.advance(1)
        host.expect_log(
            f"{end} live",
            f"{end} status {phase} 3",
            f"{end} progress 3 {phase}",
            f"{end} end {end} {phase}",
        )


def test_refused_execution_ends_only_its_own_watch(host: ElementPage) -> None:
    """A refusal ends one watch with a code; the others continue on the same socket."""
    codes = ["not_found", "expired", "not_allowed", "not_authenticated"]
    host.server.frames |= {
        code: [frame("error", code, code=code, message="No.")] for code in codes
    } | {"b": [status("b")]}
    host.follow(*codes, "b")
    host.expect_log(
        *(f"{code} error {code} true" for code in codes), "b live", "b status running -"
    )
    host.server.send(report("b", 1))
    host.expect_log("b progress 1 running")
    assert host.page.evaluate("ends") == {code: code for code in codes}
    rejection = """watches.expired.done.catch(
      (error) => [error instanceof headway.HeadwayError, error.message])"""
    assert host.page.evaluate(rejection) == [True, "No."]


def test_backend_outage_is_reported_once_and_its_end_too(host: ElementPage) -> None:
    """An outage is reported once, and its end too, even if nothing has changed."""
    away = frame("error", "a", code="unavailable", message="It is away")
    host.server.frames["a"] = [status("a", 1)]
    host.follow("a")
    host.expect_log("a live", "a status running 1", "a progress 1 running")
    host.server.send(away, away)
    host.expect_log("a error unavailable false")
    host.server.send(status("a", 1))
    host.expect_log("a status running 1")


def test_second_watch_of_an_execution_shares_its_subscription(host: ElementPage) -> None:
    """It gets the latest state without a new request, and each watch stops by itself."""
    host.server.frames["a"] = [status("a", 1)]
    host.follow("a")
    host.expect_log("a live", "a status running 1", "a progress 1 running")
    host.follow("a", name="again")
    host.expect_log("again live", "again status running 1", "again progress 1 running")
    host.stop("a")
    host.server.send(report("a", 2))
    host.expect_log("again progress 2 running")
    assert host.page.evaluate("ends") == {"a": None}
    assert host.server.messages == [{"subscribe": ["a"]}]


def test_frames_before_the_first_status_are_ignored(host: ElementPage) -> None:
    """A late frame of an earlier subscription is ignored: a subscription starts with `status`."""
    host.follow("a")
    host.wait_for_sockets(1)
    host.wait_for_messages(1)
    host.server.send(report("a", 9), status("a", 1))
    host.expect_log("a live", "a status running 1", "a progress 1 running")


def test_exception_in_a_handler_does_not_affect_others(host: ElementPage) -> None:
    """An exception in a handler is reported as the page's, and other watches continue."""
    host.server.frames["a"] = [status("a")]
    host.page.evaluate(
        """() => {
          addEventListener("error", (event) => {
            log.push(event.message);
            event.preventDefault();
          });
          headway.watch("a", { onStatus() { throw new Error("mine") } });
          follow("a");
        }"""
    )
    host.expect_log("a live", "Uncaught Error: mine", "a status running -")


# --- one socket ---


def test_many_watches_share_one_socket_and_one_message(host: ElementPage) -> None:
    """Watches of one task are one message; an end sends nothing."""
    ids = [f"job-{number}" for number in range(50)]
    host.server.frames |= {each: [status(each)] for each in ids}
    host.follow(*ids)
    until(lambda: len(host.log) == 100, within=TIMEOUT)
    host.wait_for_sockets(1)
    host.server.send(frame("completed", "job-0", progress=None))
    until(lambda: host.log[-1] == "job-0 end completed succeeded", within=TIMEOUT)
    host.advance(1)
    host.follow("job-0", "another", "a third")
    host.advance(1)
    assert host.wait_for_messages(2) == [
        {"subscribe": ids},
        {"subscribe": ["job-0", "another", "a third"]},
    ]
    host.wait_for_sockets(1)


def test_messages_stay_within_the_limits_of_the_server(host: ElementPage) -> None:
    """Messages stay below 16 KiB, and 100 changes are sent in a few messages."""
    ids = [f"{number:03}" + "ю" * 200 for number in range(200)]
    host.follow(*ids)
    host.wait_for_sockets(1)
    until(
        lambda: (
            host.process_events()
            or sum(len(message["subscribe"]) for message in host.server.messages) == 200
        ),
        within=TIMEOUT,
    )
    assert (
        max(
            len(json.dumps(message, ensure_ascii=False).encode())
            for message in host.server.messages
        )
        < 16 * 1024
    )
    before = len(host.server.messages)
    for number in range(100):
        host.follow("x", name=f"x{number}")
        host.advance(0.01)
        host.stop(f"x{number}")
    host.advance(1)
    assert 1 <= len(host.wait_for_messages(before + 1)) - before <= 8


def test_socket_closes_shortly_after_the_last_watch(host: ElementPage) -> None:
    """It stays open for a moment, for pages that replace their content, and then closes."""
    host.server.frames |= {"a": [status("a")], "b": [status("b")]}
    host.follow("a")
    host.expect_log("a live", "a status running -")
    host.stop("a")
    host.advance(1)
    host.follow("b")
    host.advance(5)
    until(
        lambda: host.process_events() or "b" in host.server.messages[-1].get("subscribe", ()),
        within=TIMEOUT,
    )
    assert host.server.messages[1:] in (
        [{"unsubscribe": ["a"]}, {"subscribe": ["b"]}],
        [{"unsubscribe": ["a"], "subscribe": ["b"]}],
    )
    closed: list[int | None] = []
    host.server.sockets[-1].on_close(lambda code, reason: closed.append(code))
    host.stop("b")
    host.advance(3)
    until(lambda: host.process_events() or closed, within=TIMEOUT)
    host.wait_for_sockets(1)


# --- reconnects ---


def watch_running(host: ElementPage, current: float = 1) -> None:
    """Watch a running execution that has reported progress."""
    host.server.frames["a"] = [status("a", current)]
    host.follow("a")
    host.expect_log("a live", f"a status running {current}", f"a progress {current} running")


def close_socket(host: ElementPage, code: int = 1006) -> None:
    """Close the newest socket, from the server's side."""
    if code == 1006:
        host.server.sockets[-1].close()
    else:
        host.server.sockets[-1].close(code=code)


def test_reconnect_without_changes_reports_nothing(host: ElementPage) -> None:
    """After a cut it reconnects and subscribes again, and repeats nothing."""
    watch_running(host)
    close_socket(host, 1011)
    host.expect_log("a lost")
    host.advance(0.5)
    host.expect_log("a live")
    host.server.send(report("a", 2))
    host.expect_log("a progress 2 running")
    host.wait_for_sockets(2)


def test_missed_changes_are_reported_once_after_a_close_socket(host: ElementPage) -> None:
    """After a cut the latest state, the start and the end are reported once each."""
    host.server.frames["a"] = [status("a", phase="queued", status="pending")]
    host.follow("a")
    host.expect_log("a live", "a status queued -")
    close_socket(host, 1011)
    host.expect_log("a lost")
    host.server.frames["a"] = [
        status("a", 4, "succeeded", status="completed"),
        frame("completed", "a", progress=progress(4, 10)),
    ]
    host.advance(0.5)
    host.expect_log(
        "a live",
        "a status succeeded 4",
        "a start status",
        "a progress 4 succeeded",
        "a end completed succeeded",
    )


def test_restarting_server_delays_the_reconnect(host: ElementPage) -> None:
    """After 1012 the random delay is longer, so that viewers do not return together."""
    watch_running(host)
    host.page.evaluate("window.randomValue = 0.9")
    close_socket(host, 1012)
    host.expect_log("a lost")
    host.advance(4)
    host.wait_for_sockets(1)
    host.advance(1)
    host.wait_for_sockets(2)


def test_full_server_is_polled_before_a_reconnect(host: ElementPage) -> None:
    """After 1013 the page polls, and opens a socket after five seconds at the earliest."""
    host.responses["a"] = execution("a", progress=progress(2, 10))
    watch_running(host)
    host.page.evaluate("window.randomValue = 0")
    close_socket(host, 1013)
    host.expect_log("a polling", "a progress 2 running")
    host.advance(4.5)
    host.wait_for_sockets(1)
    host.advance(1)
    host.wait_for_sockets(2)


def test_silent_connection_is_probed_and_replaced(host: ElementPage) -> None:
    """After 40 s of silence the page sends a probe, and reconnects without a reply."""
    watch_running(host)
    host.advance(45)
    assert host.wait_for_messages(2)[1] == {"unsubscribe": ["a"], "subscribe": ["a"]}
    host.advance(45)
    assert len(host.wait_for_messages(3)) == 3, "the reply must restart the interval"
    host.server.frames.clear()
    host.advance(45)
    host.advance(15)
    host.wait_for_sockets(2)


# --- fallbacks ---


def test_refused_socket_is_explained_by_rest(page: Page) -> None:
    """A browser hides why a socket fails: REST tells, and final errors end the watch."""
    host = ElementPage(page, with_sockets=False)
    host.responses |= {
        "a": (401, "Who are you?"),
        "b": (403, "Not you."),
        "c": (404, "What?"),
        "d": (410, "Gone."),
    }
    host.follow("a", "b", "c", "d")
    until(lambda: len(host.log) == 4, within=TIMEOUT)
    assert host.page.evaluate("ends") == {
        "a": "not_authenticated",
        "b": "not_allowed",
        "c": "not_found",
        "d": "expired",
    }
    calls = host.calls
    host.advance(120)
    assert host.calls == calls, "an ended watch sent a request"


def test_socket_forbidden_by_policy_falls_back(host: ElementPage) -> None:
    """Chromium reports a forbidden socket by `error` without `close`: the fallback starts."""
    host.page.evaluate(
        """() => {
          window.WebSocket = class {
            constructor() { queueMicrotask(() => this.onerror()); }
            close() {}
          };
        }"""
    )
    host.responses["a"] = execution("a")
    host.follow("a")
    host.expect_log("a polling", "a status running -")


def test_event_stream_replaces_a_blocked_socket(page: Page) -> None:
    """Server-sent events bring the same frames, to the end."""
    host = ElementPage(page, with_sockets=False)
    frames = [
        status("a", 1),
        report("a", 2),
        frame("completed", "a", outputs=1, progress=progress(2, 10)),
    ]
    host.event_streams["a"] = "retry: 2000\n\n" + "".join(
        f"id: 1-x\nevent: {each['type']}\ndata: {json.dumps(each)}\n\n:\n\n" for each in frames
    )
    host.follow("a")
    host.expect_log(
        "a live",
        "a status running 1",
        "a progress 1 running",
        "a progress 2 running",
        "a end completed succeeded",
    )


def test_polling_replaces_blocked_streams(page: Page) -> None:
    """Polling with ETags brings the same changes, to the end."""
    host = ElementPage(page, with_sockets=False)
    host.responses["a"] = execution("a", "pending", "queued")
    host.follow("a")
    host.expect_log("a polling", "a status queued -")
    for _ in range(3):
        calls = host.calls
        host.advance(1.5)
        assert host.calls > calls
    assert host.log == [], "an unchanged state was reported"
    host.responses["a"] = execution("a", progress=progress(3, 10))
    advance_until(host, 3)
    host.expect_log("a status running 3", "a start status", "a progress 3 running")
    host.responses["a"] = execution(
        "a",
        "failed",
        "failed",
        progress=progress(3, 10),
        error={"type": "E", "message": "m", "details": None},
    )
    advance_until(host, 2)
    host.expect_log("a status failed 3", "a end failed failed")
    assert any(request.headers.get("if-none-match") for request in host.requests)


def advance_until(host: ElementPage, lines: int) -> None:
    """Advance the page's clock until this number of events was logged."""

    def enough() -> bool:
        host.advance(0.5)
        return len(host.log) >= lines

    until(enough, within=TIMEOUT, what=f"{lines} lines, not {host.log}")


def test_socket_replaces_polling_when_it_works_again(page: Page) -> None:
    """Once a socket opens again, polling stops."""
    host = ElementPage(page, with_sockets=False)
    host.responses["a"] = execution("a", progress=progress(1, 10))
    host.follow("a")
    host.expect_log("a polling", "a status running 1", "a progress 1 running")
    host.server = FakeSocketServer(page, {"a": [status("a", 1)]})
    advance_until(host, 1)
    host.expect_log("a live")
    calls = host.calls
    host.advance(30)
    host.server.send(report("a", 2))
    host.expect_log("a progress 2 running")
    assert host.calls == calls


def test_unreachable_server_is_polled_less_and_less(page: Page) -> None:
    """Without any response the state is lost, retries slow down, and it recovers."""
    host = ElementPage(page, with_sockets=False)
    host.follow("a")
    host.expect_log("a lost")
    for _ in range(60):
        host.advance(5)
    assert len(host.request_paths("/a")) < 40
    host.responses["a"] = execution("a", progress=progress(1, 10))
    advance_until(host, 3)
    assert host.log[:3] == ["a polling", "a status running 1", "a progress 1 running"]


# --- tokens ---


def test_calls_send_the_token_and_sockets_a_ticket(host: ElementPage) -> None:
    """Calls send the token in a header; the socket URL has a ticket, renewed after each change."""
    host.server.frames["a"] = [status("a")]
    host.page.evaluate("headway.setToken('secret')")
    host.follow("a")
    host.expect_log("a live", "a status running -")
    assert host.server.sockets[-1].url.endswith("/progress/ws?ticket=t1")
    assert [request.headers["authorization"] for request in host.requests] == ["Bearer secret"]
    host.page.evaluate("headway.setToken('other')")
    host.wait_for_sockets(2)
    assert host.requests[-1].headers["authorization"] == "Bearer other"


def test_token_is_not_sent_to_other_origins(host: ElementPage) -> None:
    """A request to another origin has no token."""
    seen: list[str | None] = []
    host.page.route(
        "http://localhost:8/**",
        lambda route: (seen.append(route.request.headers.get("authorization")), route.abort()),
    )
    host.page.evaluate(
        """async () => {
          headway.setToken("secret");
          await headway.api(new URL("http://localhost:8/x")).catch(() => null);
        }"""
    )
    until(lambda: host.process_events() or seen, within=TIMEOUT)
    assert set(seen) == {None}


# --- hidden pages ---


def set_visible(host: ElementPage, visible: bool) -> None:
    host.page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        not visible,
    )


def test_hidden_page_closes_the_socket_and_resumes(host: ElementPage) -> None:
    """A hidden page closes its socket after a while and reports missed changes once visible."""
    watch_running(host)
    set_visible(host, False)
    host.advance(5)
    set_visible(host, True)
    host.advance(10)
    host.wait_for_sockets(1)
    set_visible(host, False)
    host.advance(60)
    host.expect_log("a connecting")
    host.wait_for_sockets(1)
    host.server.frames["a"] = [status("a", 7)]
    set_visible(host, True)
    host.expect_log("a live", "a status running 7", "a progress 7 running")
    host.wait_for_sockets(2)


def test_background_watch_continues_on_a_hidden_page(host: ElementPage) -> None:
    """A watch with `background` keeps the connection."""
    host.server.frames["a"] = [status("a", 1)]
    host.follow("a", background=True)
    host.expect_log("a live", "a status running 1", "a progress 1 running")
    set_visible(host, False)
    host.advance(60)
    host.server.send(frame("completed", "a", progress=progress(1, 10)))
    host.expect_log("a end completed succeeded")
    host.wait_for_sockets(1)


def test_page_in_the_back_forward_cache_has_no_connection(host: ElementPage) -> None:
    """A page in the back-forward cache has no connection, and reconnects when it is restored."""
    watch_running(host)
    host.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    host.advance(60)
    host.expect_log("a connecting")
    host.wait_for_sockets(1)
    host.server.frames["a"] = [status("a", 7)]
    host.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    host.expect_log("a live", "a status running 7", "a progress 7 running")


def test_online_event_retries_immediately(page: Page) -> None:
    """After the `online` event of the browser the next try starts immediately."""
    host = ElementPage(page, with_sockets=False)
    host.follow("a")
    host.expect_log("a lost")
    host.advance(100)
    until(lambda: page.evaluate("connectingSockets.size") == 0, within=TIMEOUT)
    host.server = FakeSocketServer(page, {"a": [status("a", 1)]})
    page.evaluate("dispatchEvent(new Event('online'))")
    host.expect_log("a live", "a status running 1", "a progress 1 running")


def test_online_event_resets_the_delay_of_a_pending_open(host: ElementPage) -> None:
    """If the pending open fails, the next try comes soon, whatever failed before."""
    host.server.frames["a"] = [status("a", 1)]
    host.page.evaluate(
        """() => {
          window.Real = WebSocket;
          window.WebSocket = class {
            constructor() { window.pending = this; }
            close() {}
          };
        }"""
    )
    host.follow("a")
    host.advance(100)
    host.expect_log("a lost")
    host.page.evaluate("window.pending = null")

    def opens() -> bool:
        host.advance(0.5)
        return bool(host.page.evaluate("pending !== null"))

    until(opens, within=TIMEOUT)
    host.page.evaluate(
        "dispatchEvent(new Event('online')); window.WebSocket = Real; pending.onerror()"
    )
    host.advance(0.5)
    host.expect_log("a live", "a status running 1", "a progress 1 running")
