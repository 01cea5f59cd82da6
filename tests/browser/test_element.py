"""<headway-progress> on a server that is made up: what it says, to the eye and to the ear, and to
the page around it.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.axe import violations
from tests.browser.lab import PATIENCE, Lab
from tests.browser.streams import Json, frame, progress
from tests.support.wait import until


@pytest.fixture
def lab(page: Page) -> Lab:
    return Lab(page)


def put(lab: Lab, **attributes: str) -> Locator:
    """An element in the page."""
    lab.page.evaluate(
        """(attributes) => {
          const element = document.createElement("headway-progress");
          for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
          document.querySelector("main").append(element);
        }""",
        {"execution": "a", "label": "Import"} | attributes,
    )
    return lab.page.locator("headway-progress").last


def tell(lab: Lab, *frames: Json) -> None:
    """Say something, and let the page draw it."""
    lab.socket.tell(*frames)
    drawn(lab)


def drawn(lab: Lab) -> None:
    lab.page.evaluate("1")  # what was said has arrived
    lab.turn(0.1)


def running(
    current: float = 3, total: float | None = 10, phase: str = "running", **more: Any
) -> Json:
    return frame("status", "a", phase=phase, progress=progress(current, total, "Reading", **more))


def watched(lab: Lab, *frames: Json, **attributes: str) -> Locator:
    """An element that has been told these."""
    lab.socket.known["a"] = list(frames or [running()])
    element = put(lab, **attributes)
    lab.heard(1)
    drawn(lab)
    return element


def turn_until(lab: Lab, part: Locator, text: str) -> None:
    """Let time pass by and by until it says so."""

    def says() -> bool:
        lab.turn(0.2)
        return part.text_content() == text

    until(says, within=PATIENCE, what=f"the element to say {text!r}")


# --- to the eye ---


def test_what_it_says(lab: Lab) -> None:
    """Label, state, message, percentage, amount, rate and time left; and the bar is as long as the
    percentage says.
    """
    element = watched(
        lab, running(1_500_000, 10_000_000, rate=250_000.0, eta_seconds=34.2), unit="bytes"
    )
    expect(element.locator(".label")).to_have_text("Import")
    expect(element.locator(".status")).to_have_text("Running")
    expect(element.locator(".message")).to_have_text("Reading")
    said = [
        element.locator(f".{name}").inner_text()
        for name in ("percentage", "amount", "rate", "time")
    ]
    assert said == ["15.0 %", "1.5 MB of 10 MB", "250 kB/s", "34 s left"]
    assert (
        lab.page.evaluate(
            "document.querySelector('headway-progress').shadowRoot.querySelector('.fill').style.width"
        )
        == "15%"
    )


@pytest.mark.parametrize(
    ("rate", "words"), [(2.5, "2.5 rows/s"), (0.021, "1.3 rows/min"), (0.0005, "1.8 rows/h")]
)
def test_what_is_slow_is_not_said_to_stand(lab: Lab, rate: float, words: str) -> None:
    """A rate is so many a second, a minute or an hour: never none, while it moves."""
    element = watched(lab, running(1, 5, rate=rate), unit="rows")
    expect(element.locator(".rate")).to_have_text(words)


def test_each_phase_has_its_words(lab: Lab) -> None:
    """What isn't plainly running says so, and the bar stays where it was."""
    element = watched(lab)
    phases = {
        "retrying": "Retrying",
        "stalled": "No sign of life",
        "cancelling": "Cancelling",
        "queued": "Waiting",
    }
    for phase, words in phases.items():
        tell(lab, running(phase=phase, status="pending" if phase == "queued" else "running"))
        expect(element.locator(".status")).to_have_text(words)
        expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")


@pytest.mark.parametrize(("end", "words"), [("failed", "Failed"), ("cancelled", "Cancelled")])
def test_an_end_moves_no_bar(lab: Lab, end: str, words: str) -> None:
    """What failed or was cancelled at 30 % says 30 %, and what went wrong, as text whatever it
    holds.
    """
    element = watched(lab)
    error = {"type": "ValueError", "message": "<img src=x onerror=alert(1)>", "details": None}
    more = {"error": error} if end == "failed" else {}
    tell(lab, frame(end, "a", progress=progress(3, 10, "Reading"), **more))
    expect(element.locator(".status")).to_have_text(words)
    expect(element.locator(".percentage")).to_have_text("30.0 %")
    expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")
    said = "ValueError: <img src=x onerror=alert(1)>" if end == "failed" else ""
    expect(element.locator(".error")).to_have_text(said)
    assert element.locator("img").count() == 0


def test_an_unknown_total(lab: Lab) -> None:
    """A bar without a fraction has no value: it moves while the work does, and counts."""
    element = watched(lab, running(12, None), unit="rows")
    bar = element.locator(".bar")
    expect(bar).to_have_attribute("data-kind", "moving")
    assert bar.get_attribute("aria-valuenow") is None
    expect(element.locator(".numbers")).to_have_text("12 rows")
    tell(
        lab, frame("failed", "a", error={"type": "E", "message": "m"}, progress=progress(12, None))
    )
    expect(bar).to_have_attribute("data-kind", "empty")


def test_what_cannot_be_watched(lab: Lab) -> None:
    """It says why, in words and with the server's own sentence, and no number."""
    codes = {
        "not_found": "Not found",
        "expired": "Expired",
        "not_allowed": "Not allowed",
        "not_authenticated": "Wants a token",
    }
    lab.socket.known |= {
        code: [frame("error", code, code=code, message=f"It is {code}.")] for code in codes
    }
    for code, words in codes.items():
        element = put(lab, execution=code)
        turn_until(lab, element.locator(".message"), f"It is {code}.")
        expect(element.locator(".status")).to_have_text(words)
        assert element.locator(".bar").get_attribute("aria-valuenow") is None


def test_a_lost_connection(lab: Lab) -> None:
    """It says that it is lost and leaves the bar where it was, until it is back."""
    element = watched(lab)
    lab.socket.sockets[-1].close(code=1011)
    lab.page.evaluate("1")
    lab.turn(0.1)
    expect(element.locator(".status")).to_have_text("Connection lost, trying again")
    expect(element.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "30")
    lab.turn(1)
    lab.opened(2)
    lab.heard(2)
    drawn(lab)
    expect(element.locator(".status")).to_have_text("Running")


def test_the_page_styles_it(lab: Lab) -> None:
    """By custom properties, parts and states; without them it takes the page's font and colour
    scheme.
    """
    lab.page.add_style_tag(
        content="""headway-progress { --headway-accent: rgb(1, 2, 3); --headway-height: 20px }
                   headway-progress::part(message) { color: rgb(4, 5, 6) }
                   headway-progress:state(running)::part(label) { color: rgb(7, 8, 9) }"""
    )
    element = watched(lab)
    expect(element.locator(".fill")).to_have_css("background-color", "rgb(1, 2, 3)")
    expect(element.locator(".bar")).to_have_css("height", "20px")
    expect(element.locator(".message")).to_have_css("color", "rgb(4, 5, 6)")
    expect(element.locator(".label")).to_have_css("color", "rgb(7, 8, 9)")


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_reduced_motion(lab: Lab) -> None:
    """Nothing moves for somebody who asked for that."""
    fill = watched(lab, running(1, None)).locator(".fill")
    expect(fill).to_have_css("animation-name", "none")
    expect(fill).to_have_css("background-image", re.compile("repeating-linear-gradient"))


@pytest.mark.parametrize(
    "page",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}],
    indirect=True,
    ids=["light", "dark"],
)
def test_it_can_be_used_by_everybody(lab: Lab) -> None:
    """axe-core finds nothing in any state, in both themes; and it takes no focus, for there is
    nothing to press.
    """
    lab.socket.known |= {
        "a": [running()],
        "b": [running(1, None) | {"execution_id": "b"}],
        "c": [
            frame("status", "c", phase="stalled", progress=progress(1, 2)),
            frame("status", "c", phase="retrying", progress=None),
        ],
        "d": [frame("failed", "d", progress=progress(1, 2), error={"type": "E", "message": "m"})],
        "e": [frame("completed", "e", progress=progress(2, 2, "Done"))],
        "f": [frame("cancelled", "f", progress=None)],
        "g": [frame("error", "g", code="not_found", message="Nobody is there")],
    }
    for name in lab.socket.known:
        put(lab, execution=name, label=f"Job {name}")
    lab.page.add_style_tag(content="body { background: Canvas; color: CanvasText }")
    lab.page.clock.resume()  # axe waits by the page's clock
    expect(lab.page.get_by_text("Nobody is there")).to_be_visible()
    assert violations(lab.page) == []
    lab.page.keyboard.press("Tab")
    assert lab.page.evaluate("document.activeElement.tagName") == "BODY"


# --- to the ear ---


def test_what_is_announced(lab: Lab) -> None:
    """A change of state at once, progress by ten points and not within ten seconds, an end with its
    error; nothing at first.
    """
    announcer = watched(lab).locator(".announcer")
    expect(announcer).to_have_attribute("role", "status")
    expect(announcer).to_have_text("")
    tell(lab, running(5))
    expect(announcer).to_have_text("")
    lab.turn(10)
    tell(lab, running(6, eta_seconds=20))
    expect(announcer).to_have_text("Import: 60.0 %, 20 s left")
    lab.turn(10)
    tell(lab, running(6.5))
    expect(announcer).to_have_text("Import: 60.0 %, 20 s left")
    tell(lab, running(6.5, phase="stalled"))
    expect(announcer).to_have_text("Import: No sign of life, 65.0 %")
    tell(
        lab,
        frame(
            "failed",
            "a",
            progress=progress(6.5, 10),
            error={"type": "OSError", "message": "The disk is full"},
        ),
    )
    expect(announcer).to_have_text("Import: Failed, 65.0 %, OSError: The disk is full")


def test_the_bar_for_a_screen_reader(lab: Lab) -> None:
    """It has the label as its name, the percentage as its value and the words as its text."""
    bar = watched(lab).get_by_role("progressbar", name="Import")
    expect(bar).to_have_attribute("aria-valuemin", "0")
    expect(bar).to_have_attribute("aria-valuemax", "100")
    expect(bar).to_have_attribute("aria-valuetext", "30.0 %, Reading, Running")


# --- to the page ---


def test_its_events(lab: Lab) -> None:
    """They leave the shadow root that the element stands in, and say what happened."""
    lab.socket.known["a"] = [running()]
    lab.page.evaluate(
        """() => {
          window.heard = [];
          for (const name of ["status", "progress", "end", "error"]) {
            document.addEventListener(`headway-${name}`, ({ detail }) => heard.push([name, detail.type ?? detail.code]));
          }
          const host = document.createElement("div");
          host.attachShadow({ mode: "open" }).innerHTML = '<headway-progress execution="a"></headway-progress>';
          document.body.append(host);
        }"""
    )
    lab.heard(1)
    tell(
        lab,
        frame("error", "a", code="unavailable", message="Away"),
        running(4),
        frame("completed", "a", progress=None),
    )
    assert lab.page.evaluate("heard") == [
        ["status", "status"],
        ["progress", "status"],
        ["error", "unavailable"],
        ["status", "status"],
        ["progress", "status"],
        ["end", "completed"],
    ]
    known = "(() => { const it = document.body.lastChild.shadowRoot.firstChild; return [it.status, it.phase, it.error] })()"
    assert lab.page.evaluate(known) == ["completed", "succeeded", None]


def test_another_execution(lab: Lab) -> None:
    """Another id is watched in its place, and nothing of the one before is left."""
    lab.socket.known["b"] = [frame("status", "b", status="pending", phase="queued", progress=None)]
    element = watched(lab)
    element.evaluate("it => it.setAttribute('execution', 'b')")
    lab.turn(1)
    lab.heard(2)
    drawn(lab)
    expect(element.locator(".status")).to_have_text("Waiting")
    expect(element.locator(".percentage")).to_have_text("")
    assert lab.socket.heard[1:] == [{"unsubscribe": ["a"], "subscribe": ["b"]}]


def test_out_of_the_page_and_about_in_it(lab: Lab) -> None:
    """Taken out it stops watching; moved about it goes on without a word to the server."""
    element = watched(lab)
    element.evaluate("it => document.body.append(it)")
    lab.turn(1)
    tell(lab, running(4))
    expect(element.locator(".percentage")).to_have_text("40.0 %")
    assert lab.socket.heard == [{"subscribe": ["a"]}]
    element.evaluate("it => it.remove()")
    lab.turn(1)
    assert lab.heard(2) == [{"subscribe": ["a"]}, {"unsubscribe": ["a"]}]


def test_a_token_that_comes_later(lab: Lab) -> None:
    """What was refused for want of a token is watched as soon as there is one."""
    element = watched(lab, frame("error", "a", code="not_authenticated", message="Who are you?"))
    lab.socket.known["a"] = [running()]
    lab.page.evaluate("headway.setToken('secret')")
    lab.opened(2)
    lab.turn(1)
    lab.heard(2)
    drawn(lab)
    expect(element.locator(".percentage")).to_have_text("30.0 %")
