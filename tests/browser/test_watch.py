"""`watch()` of the browser's module, on a server that is made up: what is told, and what happens to
the connection.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser.lab import PATIENCE, Lab, execution
from tests.browser.streams import Json, Server, frame, progress
from tests.support.wait import until


@pytest.fixture
def lab(page: Page) -> Lab:
    return Lab(page)


def status(
    execution_id: str, current: float | None = None, phase: str = "running", **more: Any
) -> Json:
    """A `status` of one that runs."""
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


# --- what is told ---


def test_each_thing_is_told_once(lab: Lab) -> None:
    """From pending to the end: a report that says nothing new isn't told, and the phase is known in
    each frame.
    """
    lab.socket.known["a"] = [status("a", phase="queued", status="pending")]
    lab.follow("a")
    lab.told("a live", "a status queued -")
    lab.socket.tell(frame("started", "a"), report("a", 1), report("a", 1), report("a", 2))
    lab.told("a start started", "a progress 1 running", "a progress 2 running")
    lab.socket.tell(
        status("a", 2, "stalled"), status("a", 2, "stalled"), status("a", 2), report("a", 2)
    )
    lab.told("a status stalled 2", "a status running 2")
    lab.socket.tell(frame("completed", "a", outputs=7, progress=progress(10, 10)), report("a", 3))
    lab.told("a progress 10 succeeded", "a end completed succeeded")
    assert lab.page.evaluate("ends") == {"a": "completed"}


def test_an_end_that_was_there_already(lab: Lab) -> None:
    """Whoever comes late is told the state and the end."""
    phases = {"completed": "succeeded", "failed": "failed", "cancelled": "cancelled"}
    for end, phase in phases.items():
        lab.socket.known[end] = [
            status(end, 3, phase, status=end),
            frame(end, end, progress=progress(3, 10)),
        ]
        lab.follow(end)
        lab.opened(1)
        lab.turn(1)
        lab.told(
            f"{end} live",
            f"{end} status {phase} 3",
            f"{end} progress 3 {phase}",
            f"{end} end {end} {phase}",
        )


def test_what_cannot_be_watched(lab: Lab) -> None:
    """The server's refusal of one ends its watch, with a code; the others go on over the same
    socket.
    """
    codes = ["not_found", "expired", "not_allowed", "not_authenticated"]
    lab.socket.known |= {
        code: [frame("error", code, code=code, message="No.")] for code in codes
    } | {"b": [status("b")]}
    lab.follow(*codes, "b")
    lab.told(*(f"{code} error {code} true" for code in codes), "b live", "b status running -")
    lab.socket.tell(report("b", 1))
    lab.told("b progress 1 running")
    assert lab.page.evaluate("ends") == {code: code for code in codes}
    known = "watches.expired.done.catch((error) => [error instanceof headway.HeadwayError, error.message])"
    assert lab.page.evaluate(known) == [True, "No."]


def test_the_backend_is_away(lab: Lab) -> None:
    """Told once, and once more when it is back, though nothing has changed meanwhile."""
    away = frame("error", "a", code="unavailable", message="It is away")
    lab.socket.known["a"] = [status("a", 1)]
    lab.follow("a")
    lab.told("a live", "a status running 1", "a progress 1 running")
    lab.socket.tell(away, away)
    lab.told("a error unavailable false")
    lab.socket.tell(status("a", 1))
    lab.told("a status running 1")


def test_a_second_watch_of_the_same(lab: Lab) -> None:
    """It is told what is known, the server isn't asked again, and each may stop without the other."""
    lab.socket.known["a"] = [status("a", 1)]
    lab.follow("a")
    lab.told("a live", "a status running 1", "a progress 1 running")
    lab.follow("a", name="again")
    lab.told("again live", "again status running 1", "again progress 1 running")
    lab.stop("a")
    lab.socket.tell(report("a", 2))
    lab.told("again progress 2 running")
    assert lab.page.evaluate("ends") == {"a": None}
    assert lab.socket.heard == [{"subscribe": ["a"]}]


def test_a_late_word(lab: Lab) -> None:
    """What was under way to a watch that has ended isn't taken for the first word of the next one:
    that is a `status`.
    """
    lab.follow("a")
    lab.opened(1)
    lab.heard(1)
    lab.socket.tell(report("a", 9), status("a", 1))
    lab.told("a live", "a status running 1", "a progress 1 running")


def test_a_page_that_throws(lab: Lab) -> None:
    """What a page's own function throws is reported as the page's, and keeps nothing from the
    others.
    """
    lab.socket.known["a"] = [status("a")]
    lab.page.evaluate(
        """() => {
          addEventListener("error", (event) => { log.push(event.message); event.preventDefault(); });
          headway.watch("a", { onStatus() { throw new Error("mine") } });
          follow("a");
        }"""
    )
    lab.told("a live", "Uncaught Error: mine", "a status running -")


# --- one socket ---


def test_many_over_one_socket(lab: Lab) -> None:
    """What a page watches in one go is asked for in one message, however many; an end is no reason
    to ask for anything.
    """
    ids = [f"job-{number}" for number in range(50)]
    lab.socket.known |= {each: [status(each)] for each in ids}
    lab.follow(*ids)
    until(lambda: len(lab.log) == 100, within=PATIENCE)
    lab.opened(1)
    lab.socket.tell(frame("completed", "job-0", progress=None))
    until(lambda: lab.log[-1] == "job-0 end completed succeeded", within=PATIENCE)
    lab.turn(1)
    lab.follow("job-0", "another", "a third")
    lab.turn(1)
    assert lab.heard(2) == [{"subscribe": ids}, {"subscribe": ["job-0", "another", "a third"]}]
    lab.opened(1)


def test_messages_that_the_server_takes(lab: Lab) -> None:
    """However many and however long the ids are: no message is larger than 16 KiB, and 100 changes
    of mind are no flood.
    """
    ids = [f"{number:03}" + "ю" * 200 for number in range(200)]
    lab.follow(*ids)
    lab.opened(1)
    until(
        lambda: (
            lab.page.evaluate("1")
            and sum(len(said["subscribe"]) for said in lab.socket.heard) == 200
        ),
        within=PATIENCE,
    )
    assert (
        max(len(json.dumps(said, ensure_ascii=False).encode()) for said in lab.socket.heard)
        < 16 * 1024
    )
    before = len(lab.socket.heard)
    for number in range(100):
        lab.follow("x", name=f"x{number}")
        lab.turn(0.01)
        lab.stop(f"x{number}")
    lab.turn(1)
    assert 1 <= len(lab.heard(before + 1)) - before <= 8


def test_the_socket_goes_with_the_last(lab: Lab) -> None:
    """It stays for a moment, for the page that replaces what it shows, and then is closed."""
    lab.socket.known |= {"a": [status("a")], "b": [status("b")]}
    lab.follow("a")
    lab.told("a live", "a status running -")
    lab.stop("a")
    lab.turn(1)
    lab.follow("b")
    lab.turn(5)
    until(
        lambda: lab.page.evaluate("1") and "b" in lab.socket.heard[-1].get("subscribe", ()),
        within=PATIENCE,
    )
    assert lab.socket.heard[1:] in (
        [{"unsubscribe": ["a"]}, {"subscribe": ["b"]}],
        [{"unsubscribe": ["a"], "subscribe": ["b"]}],
    )
    closed: list[int | None] = []
    lab.socket.sockets[-1].on_close(lambda code, reason: closed.append(code))
    lab.stop("b")
    lab.turn(3)
    until(lambda: lab.page.evaluate("1") and closed, within=PATIENCE)
    lab.opened(1)


# --- when it is cut ---


def begun(lab: Lab, current: float = 1) -> None:
    """One that runs is watched, and has reported."""
    lab.socket.known["a"] = [status("a", current)]
    lab.follow("a")
    lab.told("a live", f"a status running {current}", f"a progress {current} running")


def cut(lab: Lab, code: int = 1006) -> None:
    """The server's side goes."""
    if code == 1006:
        lab.socket.sockets[-1].close()
    else:
        lab.socket.sockets[-1].close(code=code)


def test_a_cut_where_nothing_was_missed(lab: Lab) -> None:
    """It comes back by itself, asks again, and tells nothing that was told."""
    begun(lab)
    cut(lab, 1011)
    lab.told("a lost")
    lab.turn(0.5)
    lab.told("a live")
    lab.socket.tell(report("a", 2))
    lab.told("a progress 2 running")
    lab.opened(2)


def test_what_was_missed_is_told_once(lab: Lab) -> None:
    """Behind a cut the newest is told, and the start and the end that came meanwhile, once each."""
    lab.socket.known["a"] = [status("a", phase="queued", status="pending")]
    lab.follow("a")
    lab.told("a live", "a status queued -")
    cut(lab, 1011)
    lab.told("a lost")
    lab.socket.known["a"] = [
        status("a", 4, "succeeded", status="completed"),
        frame("completed", "a", progress=progress(4, 10)),
    ]
    lab.turn(0.5)
    lab.told(
        "a live",
        "a status succeeded 4",
        "a start status",
        "a progress 4 succeeded",
        "a end completed succeeded",
    )


def test_a_server_that_restarts(lab: Lab) -> None:
    """After 1012 the page waits for longer by chance, so that not all viewers return at once."""
    begun(lab)
    lab.page.evaluate("window.chance = 0.9")
    cut(lab, 1012)
    lab.told("a lost")
    lab.turn(4)
    lab.opened(1)
    lab.turn(1)
    lab.opened(2)


def test_a_full_server(lab: Lab) -> None:
    """After 1013 REST is asked until there is room: five seconds later at the earliest."""
    lab.rest["a"] = execution("a", progress=progress(2, 10))
    begun(lab)
    lab.page.evaluate("window.chance = 0")
    cut(lab, 1013)
    lab.told("a polling", "a progress 2 running")
    lab.turn(4.5)
    lab.opened(1)
    lab.turn(1)
    lab.opened(2)


def test_a_connection_that_says_nothing(lab: Lab) -> None:
    """After 40 s of quiet the page asks for something that must be answered, and lets go of a
    server that doesn't.
    """
    begun(lab)
    lab.turn(45)
    assert lab.heard(2)[1] == {"unsubscribe": ["a"], "subscribe": ["a"]}
    lab.turn(45)
    assert len(lab.heard(3)) == 3, "an answer is a sign of life"
    lab.socket.known.clear()
    lab.turn(45)
    lab.turn(15)
    lab.opened(2)


# --- without a socket ---


def test_a_refused_socket(page: Page) -> None:
    """A browser doesn't say why: REST does, and what it refuses is over."""
    lab = Lab(page, socket=False)
    lab.rest |= {
        "a": (401, "Who are you?"),
        "b": (403, "Not you."),
        "c": (404, "What?"),
        "d": (410, "Gone."),
    }
    lab.follow("a", "b", "c", "d")
    until(lambda: len(lab.log) == 4, within=PATIENCE)
    assert lab.page.evaluate("ends") == {
        "a": "not_authenticated",
        "b": "not_allowed",
        "c": "not_found",
        "d": "expired",
    }
    calls = lab.calls
    lab.turn(120)
    assert lab.calls == calls, "what is over is asked again"


def test_a_socket_that_the_page_forbids(lab: Lab) -> None:
    """Chromium tells of it by an error and no close: nobody waits for one."""
    lab.page.evaluate(
        "window.WebSocket = class { constructor() { queueMicrotask(() => this.onerror()) } close() {} }; 0"
    )
    lab.rest["a"] = execution("a")
    lab.follow("a")
    lab.told("a polling", "a status running -")


def test_events_where_no_socket_gets_through(page: Page) -> None:
    """The stream of events brings the same, to the end."""
    lab = Lab(page, socket=False)
    frames = [
        status("a", 1),
        report("a", 2),
        frame("completed", "a", outputs=1, progress=progress(2, 10)),
    ]
    lab.events["a"] = "retry: 2000\n\n" + "".join(
        f"id: 1-x\nevent: {each['type']}\ndata: {json.dumps(each)}\n\n:\n\n" for each in frames
    )
    lab.follow("a")
    lab.told(
        "a live",
        "a status running 1",
        "a progress 1 running",
        "a progress 2 running",
        "a end completed succeeded",
    )


def test_polling_where_nothing_else_gets_through(page: Page) -> None:
    """Asked again and again with what is known already, to the end."""
    lab = Lab(page, socket=False)
    lab.rest["a"] = execution("a", "pending", "queued")
    lab.follow("a")
    lab.told("a polling", "a status queued -")
    for _ in range(3):
        calls = lab.calls
        lab.turn(1.5)
        assert lab.calls > calls
    assert lab.log == [], "what is known already is no news"
    lab.rest["a"] = execution("a", progress=progress(3, 10))
    turn_until(lab, 3)
    lab.told("a status running 3", "a start status", "a progress 3 running")
    lab.rest["a"] = execution(
        "a",
        "failed",
        "failed",
        progress=progress(3, 10),
        error={"type": "E", "message": "m", "details": None},
    )
    turn_until(lab, 2)
    lab.told("a status failed 3", "a end failed failed")
    assert any(request.headers.get("if-none-match") for request in lab.asked)


def turn_until(lab: Lab, lines: int) -> None:
    """Let time pass by and by until so much was told."""

    def enough() -> bool:
        lab.turn(0.5)
        return len(lab.log) >= lines

    until(enough, within=PATIENCE, what=f"{lines} lines, not {lab.log}")


def test_back_to_the_socket(page: Page) -> None:
    """Once a socket can be had again it takes over, and polling ends."""
    lab = Lab(page, socket=False)
    lab.rest["a"] = execution("a", progress=progress(1, 10))
    lab.follow("a")
    lab.told("a polling", "a status running 1", "a progress 1 running")
    lab.socket = Server(page, {"a": [status("a", 1)]})
    turn_until(lab, 1)
    lab.told("a live")
    calls = lab.calls
    lab.turn(30)
    lab.socket.tell(report("a", 2))
    lab.told("a progress 2 running")
    assert lab.calls == calls


def test_nobody_is_there(page: Page) -> None:
    """Without any answer it is lost, asked for ever more seldom, and goes on when somebody answers."""
    lab = Lab(page, socket=False)
    lab.follow("a")
    lab.told("a lost")
    for _ in range(60):
        lab.turn(5)
    assert len(lab.paths("/a")) < 40
    lab.rest["a"] = execution("a", progress=progress(1, 10))
    turn_until(lab, 3)
    assert lab.log[:3] == ["a polling", "a status running 1", "a progress 1 running"]


# --- with tokens ---


def test_a_token(lab: Lab) -> None:
    """Calls carry it in their header; the socket gets a ticket instead, and a new one after each
    change.
    """
    lab.socket.known["a"] = [status("a")]
    lab.page.evaluate("headway.setToken('secret')")
    lab.follow("a")
    lab.told("a live", "a status running -")
    assert lab.socket.sockets[-1].url.endswith("/progress/ws?ticket=t1")
    assert [request.headers["authorization"] for request in lab.asked] == ["Bearer secret"]
    lab.page.evaluate("headway.setToken('other')")
    lab.opened(2)
    assert lab.asked[-1].headers["authorization"] == "Bearer other"


def test_no_token_for_others(lab: Lab) -> None:
    """A URL elsewhere is asked without it."""
    seen: list[str | None] = []
    lab.page.route(
        "http://localhost:8/**",
        lambda route: (seen.append(route.request.headers.get("authorization")), route.abort()),
    )
    lab.page.evaluate(
        "headway.setToken('secret'); headway.api(new URL('http://localhost:8/x')).catch((error) => error.code)"
    )
    until(lambda: lab.page.evaluate("1") and seen, within=PATIENCE)
    assert set(seen) == {None}


# --- a page that nobody sees ---


def see(lab: Lab, yes: bool) -> None:
    lab.page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        not yes,
    )


def test_a_hidden_page_rests(lab: Lab) -> None:
    """Out of sight for a while, the socket is closed; seen again, what was missed is told. A glance
    elsewhere changes nothing.
    """
    begun(lab)
    see(lab, False)
    lab.turn(5)
    see(lab, True)
    lab.turn(10)
    lab.opened(1)
    see(lab, False)
    lab.turn(60)
    lab.told("a connecting")
    lab.opened(1)
    lab.socket.known["a"] = [status("a", 7)]
    see(lab, True)
    lab.told("a live", "a status running 7", "a progress 7 running")
    lab.opened(2)


def test_a_hidden_page_that_goes_on(lab: Lab) -> None:
    """A watch `background` keeps the connection, for a page that tells of an end in its title."""
    lab.socket.known["a"] = [status("a", 1)]
    lab.follow("a", background=True)
    lab.told("a live", "a status running 1", "a progress 1 running")
    see(lab, False)
    lab.turn(60)
    lab.socket.tell(frame("completed", "a", progress=progress(1, 10)))
    lab.told("a end completed succeeded")
    lab.opened(1)


def test_a_page_that_is_put_aside(lab: Lab) -> None:
    """A page that goes to the back-forward cache has no connection, and has one again when it comes
    back.
    """
    begun(lab)
    lab.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    lab.turn(60)
    lab.told("a connecting")
    lab.opened(1)
    lab.socket.known["a"] = [status("a", 7)]
    lab.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    lab.told("a live", "a status running 7", "a progress 7 running")


def test_the_network_is_back(page: Page) -> None:
    """Once the browser says so nobody waits for the next try."""
    lab = Lab(page, socket=False)
    lab.follow("a")
    lab.told("a lost")
    lab.turn(100)
    until(lambda: page.evaluate("opening.size") == 0, within=PATIENCE)
    lab.socket = Server(page, {"a": [status("a", 1)]})
    page.evaluate("dispatchEvent(new Event('online'))")
    lab.told("a live", "a status running 1", "a progress 1 running")


def test_the_network_is_back_while_a_socket_opens(lab: Lab) -> None:
    """Where that try fails all the same, the next one comes at once, however many there were
    before.
    """
    lab.socket.known["a"] = [status("a", 1)]
    lab.page.evaluate(
        "window.Real = WebSocket; window.WebSocket = class { constructor() { window.late = this } close() {} }; 0"
    )
    lab.follow("a")
    lab.turn(100)
    lab.told("a lost")
    lab.page.evaluate("window.late = null")

    def opens() -> bool:
        lab.turn(0.5)
        return bool(lab.page.evaluate("late !== null"))

    until(opens, within=PATIENCE)
    lab.page.evaluate("dispatchEvent(new Event('online')); window.WebSocket = Real; late.onerror()")
    lab.turn(0.5)
    lab.told("a live", "a status running 1", "a progress 1 running")
