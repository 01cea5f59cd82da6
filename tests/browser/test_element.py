"""<headway-progress> on a fake server: texts, accessibility, events."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.axe import violations
from tests.browser.element_page import TIMEOUT, ElementPage, add_element
from tests.browser.streams import Json, frame, progress
from tests.support.wait import until


@pytest.fixture
def host(page: Page) -> ElementPage:
    return ElementPage(page)


def send(host: ElementPage, *frames: Json) -> None:
    """Send frames, and let the page render them."""
    host.server.send(*frames)
    render(host)


def render(host: ElementPage) -> None:
    host.process_events()
    host.advance(0.1)


def running(
    current: float = 3, total: float | None = 10, phase: str = "running", **more: Any
) -> Json:
    return frame("status", "a", phase=phase, progress=progress(current, total, "Reading", **more))


def add_watched(host: ElementPage, *frames: Json, **attributes: str) -> Locator:
    """Add an element, and send it these frames."""
    host.server.frames["a"] = list(frames or [running()])
    element = add_element(host.page, **{"execution": "a", "label": "Import"} | attributes)
    host.wait_for_messages(1)
    render(host)
    return element


def advance_until(host: ElementPage, part: Locator, text: str) -> None:
    """Advance the page's clock until the element shows the text."""

    def shows() -> bool:
        host.advance(0.2)
        return part.text_content() == text

    until(shows, within=TIMEOUT, what=f"the element to show {text!r}")


# --- texts ---


def test_element_shows_label_status_message_and_numbers(host: ElementPage) -> None:
    """All texts are shown, and the width of the bar is the percentage."""
    element = add_watched(
        host, running(1_500_000, 10_000_000, rate=250_000.0, eta_seconds=34.2), unit="bytes"
    )
    expect(element.locator(".label")).to_have_text("Import")
    expect(element.locator(".status")).to_have_text("Running")
    expect(element.locator(".message")).to_have_text("Reading")
    texts = [
        element.locator(f".{name}").inner_text()
        for name in ("percentage", "amount", "rate", "time")
    ]
    assert texts == ["15.0 %", "1.5 MB of 10 MB", "250 kB/s", "34 s left"]
    assert element.locator(".fill").evaluate("fill => fill.style.width") == "15%"


@pytest.mark.parametrize(
    ("rate", "text"), [(2.5, "2.5 rows/s"), (0.021, "1.3 rows/min"), (0.0005, "1.8 rows/h")]
)
def test_slow_rate_is_shown_per_minute_or_hour(host: ElementPage, rate: float, text: str) -> None:
    """A rate is per second, minute or hour, and never zero while the task makes progress."""
    element = add_watched(host, running(1, 5, rate=rate), unit="rows")
    expect(element.locator(".rate")).to_have_text(text)


def test_each_phase_has_its_status_text(host: ElementPage) -> None:
    """Phases other than running have their own text, and the bar keeps its value."""
    element = add_watched(host)
    phases = {
        "retrying": "Retrying",
        "stalled": "Stalled",
        "cancelling": "Cancelling",
        "queued": "Waiting",
    }
    for phase, text in phases.items():
        send(host, running(phase=phase, status="pending" if phase == "queued" else "running"))
        expect(element.locator(".status")).to_have_text(text)
        expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")


@pytest.mark.parametrize(("end", "text"), [("failed", "Failed"), ("cancelled", "Cancelled")])
def test_failed_or_cancelled_keeps_the_percentage(host: ElementPage, end: str, text: str) -> None:
    """After an end at 30 % the bar stays at 30 %, and the error is shown as text."""
    element = add_watched(host)
    error = {"type": "ValueError", "message": "<img src=x onerror=alert(1)>", "details": None}
    more = {"error": error} if end == "failed" else {}
    send(host, frame(end, "a", progress=progress(3, 10, "Reading"), **more))
    expect(element.locator(".status")).to_have_text(text)
    expect(element.locator(".percentage")).to_have_text("30.0 %")
    expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")
    texts = "ValueError: <img src=x onerror=alert(1)>" if end == "failed" else ""
    expect(element.locator(".error")).to_have_text(texts)
    assert element.locator("img").count() == 0


def test_unknown_total_has_no_value_and_a_count(host: ElementPage) -> None:
    """Without a total the bar has no value, is animated while running, and a count is shown."""
    element = add_watched(host, running(12, None), unit="rows")
    bar = element.locator(".bar")
    expect(bar).to_have_attribute("data-kind", "moving")
    assert bar.get_attribute("aria-valuenow") is None
    expect(element.locator(".numbers")).to_have_text("12 rows")
    send(
        host, frame("failed", "a", error={"type": "E", "message": "m"}, progress=progress(12, None))
    )
    expect(bar).to_have_attribute("data-kind", "empty")


def test_final_errors_show_their_text_and_message(host: ElementPage) -> None:
    """A final error shows a status text and the message of the server, and no number."""
    codes = {
        "not_found": "Not found",
        "expired": "Expired",
        "not_allowed": "Not allowed",
        "not_authenticated": "Token required",
    }
    host.server.frames |= {
        code: [frame("error", code, code=code, message=f"It is {code}.")] for code in codes
    }
    for code, text in codes.items():
        element = add_element(host.page, execution=code)
        advance_until(host, element.locator(".message"), f"It is {code}.")
        expect(element.locator(".status")).to_have_text(text)
        assert element.locator(".bar").get_attribute("aria-valuenow") is None


def test_lost_connection_keeps_the_bar_until_it_recovers(host: ElementPage) -> None:
    """A lost connection is shown, and the bar keeps its value."""
    element = add_watched(host)
    host.server.sockets[-1].close(code=1011)
    host.process_events()
    host.advance(0.1)
    expect(element.locator(".status")).to_have_text("Connection lost, reconnecting")
    expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")
    host.advance(1)
    host.wait_for_sockets(2)
    host.wait_for_messages(2)
    render(host)
    expect(element.locator(".status")).to_have_text("Running")


def test_page_styles_the_element(host: ElementPage) -> None:
    """Custom properties, parts and states style the element."""
    host.page.add_style_tag(
        content="""headway-progress { --headway-accent: rgb(1, 2, 3); --headway-height: 20px }
                   headway-progress::part(message) { color: rgb(4, 5, 6) }
                   headway-progress:state(running)::part(label) { color: rgb(7, 8, 9) }"""
    )
    element = add_watched(host)
    expect(element.locator(".fill")).to_have_css("background-color", "rgb(1, 2, 3)")
    expect(element.locator(".bar")).to_have_css("height", "20px")
    expect(element.locator(".message")).to_have_css("color", "rgb(4, 5, 6)")
    expect(element.locator(".label")).to_have_css("color", "rgb(7, 8, 9)")


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_reduced_motion_stops_animations(host: ElementPage) -> None:
    """With reduced motion, the bar is striped instead of animated."""
    fill = add_watched(host, running(1, None)).locator(".fill")
    expect(fill).to_have_css("animation-name", "none")
    expect(fill).to_have_css("background-image", re.compile("repeating-linear-gradient"))


@pytest.mark.parametrize(
    "page",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}],
    indirect=True,
    ids=["light", "dark"],
)
def test_element_passes_axe_in_every_state_and_takes_no_focus(host: ElementPage) -> None:
    """No axe violation in any state, light and dark; there is no control to focus."""
    host.server.frames |= {
        "a": [running()],
        "b": [running(1, None) | {"execution_id": "b"}],
        "c": [
            frame("status", "c", phase="stalled", progress=progress(1, 2)),
            frame("status", "c", phase="retrying", progress=None),
        ],
        "d": [frame("failed", "d", progress=progress(1, 2), error={"type": "E", "message": "m"})],
        "e": [frame("completed", "e", progress=progress(2, 2, "Done"))],
        "f": [frame("cancelled", "f", progress=None)],
        "g": [frame("error", "g", code="not_found", message="It does not exist")],
    }
    for name in host.server.frames:
        add_element(host.page, execution=name, label=f"Job {name}")
    host.page.add_style_tag(content="body { background: Canvas; color: CanvasText }")
    host.page.clock.resume()  # axe uses the page's clock
    expect(host.page.get_by_text("It does not exist")).to_be_visible()
    assert violations(host.page) == []
    host.page.keyboard.press("Tab")
    assert host.page.evaluate("document.activeElement.tagName") == "BODY"


# --- screen readers ---


def test_element_announces_states_and_every_ten_points(host: ElementPage) -> None:
    """States are announced at once, progress by ten points and at most every ten seconds."""
    announcer = add_watched(host).locator(".announcer")
    expect(announcer).to_have_attribute("role", "status")
    expect(announcer).to_have_text("")
    send(host, running(5))
    expect(announcer).to_have_text("")
    host.advance(10)
    send(host, running(6, eta_seconds=20))
    expect(announcer).to_have_text("Import: 60.0 %, 20 s left")
    host.advance(10)
    send(host, running(6.5))
    expect(announcer).to_have_text("Import: 60.0 %, 20 s left")
    send(host, running(6.5, phase="stalled"))
    expect(announcer).to_have_text("Import: Stalled, 65.0 %")
    send(
        host,
        frame(
            "failed",
            "a",
            progress=progress(6.5, 10),
            error={"type": "OSError", "message": "The disk is full"},
        ),
    )
    expect(announcer).to_have_text("Import: Failed, 65.0 %, OSError: The disk is full")


def test_progressbar_has_name_value_and_text(host: ElementPage) -> None:
    """The bar has the label as name, the percentage as value, and the texts as value text."""
    bar = add_watched(host).get_by_role("progressbar", name="Import")
    expect(bar).to_have_attribute("aria-valuemin", "0")
    expect(bar).to_have_attribute("aria-valuemax", "100")
    expect(bar).to_have_attribute("aria-valuetext", "30.0 %, Reading, Running")


# --- events and attributes ---


def test_element_dispatches_events_out_of_shadow_roots(host: ElementPage) -> None:
    """The events leave the shadow root around the element and carry the frame or the error."""
    host.server.frames["a"] = [running()]
    host.page.evaluate(
        """() => {
          window.events = [];
          for (const name of ["status", "progress", "end", "error"]) {
            document.addEventListener(`headway-${name}`, ({ detail }) => {
              events.push([name, detail.type ?? detail.code]);
            });
          }
          const host = document.createElement("div");
          const root = host.attachShadow({ mode: "open" });
          root.innerHTML = '<headway-progress execution="a"></headway-progress>';
          document.body.append(host);
        }"""
    )
    host.wait_for_messages(1)
    send(
        host,
        frame("error", "a", code="unavailable", message="Away"),
        running(4),
        frame("completed", "a", progress=None),
    )
    assert host.page.evaluate("events") == [
        ["status", "status"],
        ["progress", "status"],
        ["error", "unavailable"],
        ["status", "status"],
        ["progress", "status"],
        ["end", "completed"],
    ]
    properties = """() => {
      const it = document.body.lastChild.shadowRoot.firstChild;
      return [it.status, it.phase, it.error];
    }"""
    assert host.page.evaluate(properties) == ["completed", "succeeded", None]


def test_changing_the_execution_starts_a_new_watch(host: ElementPage) -> None:
    """A new id replaces the watch, and no text of the earlier execution stays."""
    host.server.frames["b"] = [
        frame("status", "b", status="pending", phase="queued", progress=None)
    ]
    element = add_watched(host)
    element.evaluate("it => it.setAttribute('execution', 'b')")
    host.advance(1)
    host.wait_for_messages(2)
    render(host)
    expect(element.locator(".status")).to_have_text("Waiting")
    expect(element.locator(".percentage")).to_have_text("")
    assert host.server.messages[1:] == [{"unsubscribe": ["a"], "subscribe": ["b"]}]


def test_moving_keeps_the_watch_and_removing_ends_it(host: ElementPage) -> None:
    """Moving the element sends nothing to the server; removing it unsubscribes."""
    element = add_watched(host)
    element.evaluate("it => document.body.append(it)")
    host.advance(1)
    send(host, running(4))
    expect(element.locator(".percentage")).to_have_text("40.0 %")
    assert host.server.messages == [{"subscribe": ["a"]}]
    element.evaluate("it => it.remove()")
    host.advance(1)
    assert host.wait_for_messages(2) == [{"subscribe": ["a"]}, {"unsubscribe": ["a"]}]


def test_new_token_retries_a_refused_execution(host: ElementPage) -> None:
    """An execution that was refused without a token is watched as soon as there is one."""
    element = add_watched(
        host, frame("error", "a", code="not_authenticated", message="Who are you?")
    )
    host.server.frames["a"] = [running()]
    host.page.evaluate("headway.setToken('secret')")
    host.wait_for_sockets(2)
    host.advance(1)
    host.wait_for_messages(2)
    render(host)
    expect(element.locator(".percentage")).to_have_text("30.0 %")
