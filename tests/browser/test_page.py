"""The page in a real browser: starts the five jobs, follows each to its end, and tells the truth
about all that goes wrong.

``SCREENSHOTS=1`` lets the last tests write the README's pictures to ``docs/`` as well.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.browser.streams import Server, frame, progress
from tests.support.processes import ROOT, WebServer, Worker
from tests.support.service import Service
from tests.support.wait import until

#: Less work than the page asks for, so that a test needn't last as long as a demonstration should.
LESS: dict[str, dict[str, Any]] = {
    "tasks.checksum": {"passes": 2},
    "tasks.pipeline": {"files": 30},
    "tasks.fails_half_way": {"files": 60},
    "tasks.unknown_length": {"limit": 60},
}
#: What a job may take on a busy machine, milliseconds.
END = 90_000
#: So many passes of `tasks.checksum` end only when they are cancelled.
ENDLESS = 5000


@pytest.fixture
def home(page: Page, service: Service) -> Page:
    """The page, opened; its jobs do less than usual."""
    page.route("**/api/v1/executions", do_less)
    page.route("**/static/sample.js", smaller_sample)
    page.goto(service.url)
    return page


@pytest.fixture(autouse=True)
def policy_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test fails where the browser had to block something of the page's own."""
    blocked: list[str] = []
    if "page" in request.fixturenames:
        page: Page = request.getfixturevalue("page")
        page.on(
            "console",
            lambda said: blocked.append(said.text) if "Security Policy" in said.text else None,
        )
    yield
    assert not blocked


def do_less(route: Route) -> None:
    """Pass a start on with smaller arguments: real work still, but less of it."""
    body = route.request.post_data_json
    route.continue_(post_data=json.dumps(body | {"kwargs": LESS[body["task"]]}))


def do_without_end(route: Route) -> None:
    """Pass a start of `tasks.checksum` on as one that goes on until somebody cancels it."""
    route.continue_(
        post_data=json.dumps(route.request.post_data_json | {"kwargs": {"passes": ENDLESS}})
    )


def card(page: Page, task: str) -> Locator:
    return page.locator(f".card[data-task='{task}']")


def start(page: Page, task: str) -> Locator:
    """Press the job's button; returns its entry in the list."""
    known = page.locator(".job").count()
    card(page, task).get_by_role("button").first.click()
    expect(page.locator(".job")).to_have_count(known + 1)
    return page.locator(".job").first


def watch(page: Page, execution_id: str) -> Locator:
    """Watch an execution by its id, as a person would who was given one."""
    page.get_by_label("Watch another").fill(execution_id)
    page.get_by_role("button", name="Watch", exact=True).click()
    return page.locator(f".job[data-id='{execution_id}']")


def smaller_sample(route: Route) -> None:
    """The page's own sample, of fewer rows."""
    answer = route.fetch()
    assert "200000" in answer.text()
    route.fulfill(response=answer, body=answer.text().replace("200000", "20000"))


def pretend(page: Page, execution_id: str) -> Locator:
    """Watch an execution that REST always says is running, whatever its socket does."""
    body = {
        "execution_id": execution_id,
        "status": "running",
        "phase": "running",
        "progress": None,
        "task": "tasks.any",
        "attempt": 1,
    }
    page.route(f"**/api/v1/executions/{execution_id}", lambda route: route.fulfill(json=body))
    return watch(page, execution_id)


def percentages(page: Page) -> None:
    """From now on, collect what every bar of the page says; read it with ``collected``."""
    page.evaluate(
        """() => {
            window.collected = [];
            const keep = ({ target }) => window.collected.push(target.getAttribute("aria-valuenow"));
            new MutationObserver((changes) => changes.forEach(keep))
                .observe(document.getElementById("jobs"), { subtree: true, attributeFilter: ["aria-valuenow"] });
        }"""
    )


def collected(page: Page) -> list[float]:
    return [float(value) for value in page.evaluate("window.collected") if value is not None]


# --- the five jobs ---


def test_a_bar_moves(home: Page) -> None:
    """While a job runs its bar moves, forward only, and the page says what it does."""
    home.route("**/api/v1/executions", do_without_end)
    percentages(home)
    job = start(home, "tasks.checksum")
    until(lambda: len(set(collected(home))) >= 3, within=END / 1000, what="the bar to move")
    expect(job.locator(".state")).to_have_text("Running")
    expect(job.locator(".message")).to_have_text(re.compile(r"\.py$|/"))
    job.locator(".cancel").click()
    expect(job).to_have_attribute("data-status", "cancelled", timeout=END)
    seen = collected(home)
    assert seen == sorted(seen)


@pytest.mark.parametrize("task", ["tasks.checksum", "tasks.pipeline"])
def test_a_job_with_a_known_total(home: Page, task: str) -> None:
    """Its bar goes forward only, ends at 100 % and green, and its result can be read."""
    percentages(home)
    job = start(home, task)
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    seen = collected(home)
    assert seen == sorted(seen)
    bar = job.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "100")
    expect(job.locator(".state")).to_have_text("Done")
    expect(job.locator(".numbers")).to_contain_text("100\u00a0%")
    job.get_by_text("Result").click()
    expect(job.locator("pre")).to_contain_text('"files":')


def test_checksums_count_bytes(home: Page) -> None:
    """Bytes are shown as a person reads them, with the facts that the job gave beside the bar."""
    job = start(home, "tasks.checksum")
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator(".numbers")).to_have_text(
        re.compile(r"100\s%.*\d\s[MG]B\sof\s[\d.]+\s[MG]B")
    )
    expect(job.locator(".attributes")).to_contain_text("changed")


def test_the_sample_is_imported(home: Page) -> None:
    """Nobody needs a file: the page makes one, with bad rows in it, which are counted while it
    runs.
    """
    job = start(home, "tasks.import_csv")
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator(".numbers")).to_have_text(re.compile(r"100\s%.*20,000\sof\s20,000\srows"))
    expect(job.locator(".attributes")).to_have_text(
        re.compile(r"imported\s*19,983\s*rejected\s*17")
    )


def test_a_file_of_ones_own_is_imported(home: Page, tmp_path: Path) -> None:
    """A chosen file is uploaded and imported at once, and the same one can be chosen again."""
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n3\n")
    for count in (1, 2):
        card(home, "tasks.import_csv").locator("input[type=file]").set_input_files(file)
        expect(home.locator(".job")).to_have_count(count)
    job = home.locator(".job").first
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator(".attributes")).to_have_text(re.compile(r"imported\s*1\s*rejected\s*1"))


def test_a_job_that_fails_keeps_its_percentage(home: Page) -> None:
    """Failed at 50 %, it says 50 % in red, with its error; it never was at 100 %, and says the same
    after a reload.
    """
    percentages(home)
    job = start(home, "tasks.fails_half_way")
    expect(job).to_have_attribute("data-status", "failed", timeout=END)
    assert max(collected(home)) == 50.0
    for _ in range(2):
        expect(job.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "50")
        expect(job.locator(".numbers")).to_have_text(re.compile(r"50\.0\s%.*30\sof\s60"))
        expect(job.locator(".error")).to_have_text(
            re.compile("^DamagedArchiveError: The archive of")
        )
        expect(job.locator(".state")).to_have_text("Failed")
        expect(job.locator(".fill")).to_have_css("width", f"{width(job, '.bar') / 2:g}px")
        home.reload()
        job = home.locator(".job").first
        expect(job).to_have_attribute("data-status", "failed")


def width(job: Locator, part: str) -> float:
    box = job.locator(part).bounding_box()
    assert box is not None
    return box["width"]


def test_a_job_of_unknown_length(home: Page) -> None:
    """From begin to end its bar says no number; it counts what is done."""
    percentages(home)
    job = start(home, "tasks.unknown_length")
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    assert job.get_by_role("progressbar").get_attribute("aria-valuenow") is None
    assert collected(home) == []
    expect(job.locator(".numbers")).to_have_text(re.compile(r"^60\smodules$"))


def test_a_bar_without_a_number_moves(home: Page) -> None:
    """While nobody knows the total, the bar moves and says no number; what is done is counted."""
    Server(home, {"mine": [frame("status", "mine", progress=progress(12, None))]})
    job = pretend(home, "mine")
    expect(job.locator(".bar")).to_have_attribute("data-kind", "moving")
    expect(job.locator(".numbers")).to_have_text("12")
    assert job.get_by_role("progressbar").get_attribute("aria-valuenow") is None


# --- the list ---


def test_an_empty_list_says_what_to_do(home: Page) -> None:
    """A first visit isn't a blank page."""
    expect(home.get_by_text("Nothing started yet")).to_be_visible()
    start(home, "tasks.pipeline")
    expect(home.get_by_text("Nothing started yet")).to_be_hidden()


def test_the_list_outlives_the_page(home: Page) -> None:
    """After a reload the same jobs are there, the newest first, and one that still runs goes on."""
    start(home, "tasks.unknown_length")
    start(home, "tasks.pipeline")
    ids = home.locator(".job").evaluate_all("all => all.map((job) => job.dataset.id)")
    home.reload()
    expect(home.locator(".job")).to_have_count(2)
    assert home.locator(".job").evaluate_all("all => all.map((job) => job.dataset.id)") == ids
    for job in home.locator(".job").all():
        expect(job).to_have_attribute("data-status", "completed", timeout=END)


def test_what_has_ended_can_be_removed(home: Page) -> None:
    """One by its button, with the focus going on to the next; all that have ended at once."""
    for _ in range(3):
        expect(start(home, "tasks.pipeline")).to_have_attribute(
            "data-status", "completed", timeout=END
        )
    second = home.locator(".job").nth(1)
    home.get_by_role("button", name="Remove Index in steps").first.click()
    expect(home.locator(".job")).to_have_count(2)
    expect(second.or_(home.locator(".job").first).first.locator(".remove")).to_be_focused()
    home.get_by_role("button", name="Clear ended").click()
    expect(home.locator(".job")).to_have_count(0)
    home.reload()
    expect(home.get_by_text("Nothing started yet")).to_be_visible()


def test_an_id_that_nobody_knows(home: Page) -> None:
    """A wrong id is told as what it is, without a number and without asking for ever."""
    said: list[str | bytes] = []

    def note(sent: str | bytes) -> None:  # Playwright can't take a method of a list
        said.append(sent)

    home.on("websocket", lambda socket: socket.on("framesent", note))
    job = watch(home, "no-such-id")
    expect(job.locator(".state")).to_have_text("Not found")
    expect(job.locator(".message")).to_have_text("Execution 'no-such-id' not found")
    assert job.get_by_role("progressbar").get_attribute("aria-valuenow") is None
    expect(home.locator("#banner")).to_be_hidden()
    until(lambda: home.evaluate("1") and said)
    assert said == ['{"subscribe":["no-such-id"]}']


def test_another_ones_job_can_be_watched(home: Page, service: Service) -> None:
    """Given its id, any execution can be watched; it goes by its task's name."""
    job = watch(home, service.start("tasks.pipeline", files=30))
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator("h3")).to_have_text("tasks.pipeline")


def test_what_a_task_says_is_text(home: Page, service: Service) -> None:
    """Markup in an error (or a message) is shown as it was written, and never becomes part of the
    page.
    """
    job = watch(home, service.start("tasks.checksum", path="<img src=x onerror=alert(1)>"))
    expect(job.locator(".error")).to_contain_text("<img src=x onerror=alert(1)>", timeout=END)
    assert job.locator("img").count() == 0


# --- when something is wrong ---


def test_a_cut_connection_is_shown_and_mended(home: Page, service: Service) -> None:
    """With the web process killed the page says that the connection is lost, tries again by itself,
    and goes on to the end.
    """
    job = watch(home, service.start("tasks.checksum", passes=ENDLESS))
    expect(job).to_have_attribute("data-link", "live", timeout=END)
    expect(job).to_have_attribute("data-status", "running", timeout=END)
    with service.web.workers_gone():
        expect(home.locator("#banner")).to_contain_text("connection is lost", timeout=END)
        expect(job.locator(".state")).to_have_text("Connection lost, trying again")
    expect(job).to_have_attribute("data-link", "live", timeout=END)
    expect(home.locator("#banner")).to_be_hidden()
    job.locator(".cancel").click()
    expect(job).to_have_attribute("data-status", "cancelled", timeout=END)


def test_a_server_that_cannot_start_anything(home: Page) -> None:
    """A refused start is told in words where the button was pressed; nothing is added to the list."""
    home.unroute("**/api/v1/executions")
    home.route(
        "**/api/v1/executions",
        lambda route: route.fulfill(
            status=503, json={"detail": "The message broker can't be reached"}
        ),
    )
    card(home, "tasks.pipeline").get_by_role("button").click()
    expect(home.get_by_role("alert")).to_have_text(
        "Index in steps wasn’t started. The message broker can't be reached"
    )
    expect(home.locator(".job")).to_have_count(0)
    expect(card(home, "tasks.pipeline").get_by_role("button")).to_be_enabled()


@pytest.mark.parametrize(
    ("code", "said", "link"),
    [
        ("not_found", "Not found", "unknown"),
        ("expired", "Expired", "expired"),
        ("not_allowed", "Not allowed", "forbidden"),
    ],
)
def test_what_cannot_be_watched(home: Page, code: str, said: str, link: str) -> None:
    """The server's word on it is the end: shown as what it is, and not asked again."""
    server = Server(
        home, {"mine": [frame("error", "mine", status=None, code=code, message="Because.")]}
    )
    job = pretend(home, "mine")
    expect(job).to_have_attribute("data-link", link, timeout=END)
    expect(job.locator(".state")).to_have_text(said)
    expect(job.locator(".message")).to_have_text("Because.")
    expect(home.locator("#banner")).to_be_hidden()
    expect(home.get_by_role("button", name="Clear ended")).to_be_visible()
    assert server.heard == [{"subscribe": ["mine"]}]


def test_the_backend_goes_away(home: Page) -> None:
    """An error frame of the stream is shown as such, what was seen last stays, and it goes on when
    the backend is back.
    """
    server = Server(
        home, {"mine": [frame("error", "mine", code="unavailable", message="It is away")]}
    )
    job = pretend(home, "mine")
    expect(job).to_have_attribute("data-link", "away", timeout=END)
    expect(home.locator("#banner")).to_contain_text("can’t reach its result backend")
    expect(job.locator(".state")).to_have_text("The result backend is away")
    server.tell(frame("status", "mine", progress=progress(2, 5)))
    expect(job).to_have_attribute("data-link", "live")
    expect(home.locator("#banner")).to_be_hidden()


# --- with tokens ---


@pytest.fixture
def locked(service: Service) -> Iterator[WebServer]:
    """A web server of the same service that wants a token."""
    with WebServer("gevent", env=service.env | {"HEADWAY_TOKENS": "open-sesame"}) as web:
        yield web


def test_a_token_is_asked_for(page: Page, locked: WebServer) -> None:
    """Asked once, a wrong token is told as wrong, a right one starts the job; the socket gets a
    ticket, not the token.
    """
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.route("**/api/v1/executions", do_less)
    page.goto(locked.url)
    card(page, "tasks.pipeline").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("didn’t take that token")).to_be_hidden()
    dialog.get_by_label("Token").fill("wrong")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text("didn’t take that token")).to_be_visible()
    dialog.get_by_label("Token").fill("open-sesame")
    dialog.get_by_role("button", name="Continue").click()
    job = page.locator(".job").first
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    assert all("ticket=" in url and "open-sesame" not in url for url in sockets)
    assert page.evaluate(
        "[localStorage.length, JSON.stringify(localStorage).includes('open-sesame')]"
    ) == [1, False]

    page.reload()  # the tab remembers it
    expect(page.locator(".job").first).to_have_attribute("data-status", "completed")
    page.get_by_role("button", name="Forget the token").click()
    expect(dialog).to_be_visible()  # the list wants to be read, and can't
    dialog.get_by_role("button", name="Not now").click()
    expect(page.locator(".job .state").first).to_have_text("Wants a token")


# --- for everybody ---


def test_by_keyboard(home: Page) -> None:
    """Everything can be reached and pressed without a mouse, and what has the focus is seen."""
    home.keyboard.press("Tab")
    expect(home.get_by_role("link", name="Skip to the jobs")).to_be_focused()
    home.keyboard.press("Tab")
    expect(home.get_by_role("link", name="Dashboard")).to_be_focused()
    home.keyboard.press("Tab")
    button = home.get_by_role("button", name="Start Checksums")
    expect(button).to_be_focused()
    assert button.evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    for _ in range(2):
        home.keyboard.press("Tab")
    expect(home.locator("input[type=file]")).to_be_focused()
    home.keyboard.press("Tab")
    home.keyboard.press("Enter")
    expect(home.locator(".job h3")).to_have_text("Index in steps")


def test_an_end_is_announced(home: Page) -> None:
    """Who doesn't see the page hears each end once, with its error; a reload announces nothing."""
    job = start(home, "tasks.fails_half_way")
    expect(job).to_have_attribute("data-status", "failed", timeout=END)
    said = home.locator("#announcer[aria-live=polite]")
    expect(said.locator("p")).to_have_count(1)
    expect(said).to_have_text(
        re.compile(r"^Fails half way: Failed\. DamagedArchiveError: The archive of")
    )
    home.reload()
    expect(home.locator(".job").first).to_have_attribute("data-status", "failed")
    expect(said.locator("p")).to_have_count(0)


def test_an_end_that_came_at_once_is_announced(home: Page) -> None:
    """Also where a job has ended before the page could follow it: it was started here, so its end
    is news.
    """
    end = {
        "error": {"type": "OSError", "message": "The disk is full", "details": None},
        "progress": None,
    }
    Server(
        home,
        {
            "quick": [
                frame("status", "quick", status="failed", phase="failed"),
                frame("failed", "quick", **end),
            ]
        },
    )
    home.route(
        "**/api/v1/executions",
        lambda route: route.fulfill(status=202, json={"execution_id": "quick"}),
    )
    start(home, "tasks.fails_half_way")
    expect(home.locator("#announcer p")).to_have_text(
        ["Fails half way: Failed. OSError: The disk is full"]
    )


@pytest.mark.parametrize("page", [{"reduced_motion": "reduce"}], indirect=True)
def test_reduced_motion(home: Page) -> None:
    """Nothing moves for somebody who asked for that: a bar of unknown length is striped."""
    Server(home, {"mine": [frame("status", "mine", progress=progress(12, None))]})
    job = pretend(home, "mine")
    expect(job.locator(".bar")).to_have_attribute("data-kind", "moving")
    style = job.locator(".fill").evaluate(
        "it => ({ animation: getComputedStyle(it).animationName, image: getComputedStyle(it).backgroundImage })"
    )
    assert style["animation"] == "none"
    assert "repeating-linear-gradient" in style["image"]


SCREENS = {
    "light": {"viewport": {"width": 1200, "height": 800}},
    "dark": {"viewport": {"width": 1200, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
}


@pytest.mark.parametrize(
    ("page", "name"),
    [(options, name) for name, options in SCREENS.items()],
    indirect=["page"],
    ids=list(SCREENS),
)
def test_it_fits_and_can_be_read(page: Page, service: Service, name: str) -> None:
    """On a wide screen and a phone, light and dark: nothing is wider than the screen, and text has
    a contrast of 4.5 at least.
    """
    pictures = bool(os.environ.get("SCREENSHOTS"))
    page.goto(service.url)
    done = watch(page, service.start("tasks.fails_half_way", files=4))
    expect(done).to_have_attribute("data-status", "failed", timeout=END)
    unknown = watch(
        page, "an-id-that-nobody-knows-and-that-is-far-too-long-for-a-phone-" + "x" * 100
    )
    expect(unknown.locator(".state")).to_have_text("Not found")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    if pictures:
        picture(page, service, name)


def picture(page: Page, service: Service, name: str) -> None:
    """The page in full swing, as ``docs/page-NAME.png``."""
    page.get_by_role("button", name="Clear ended").click()
    with Worker("app", env=service.env, concurrency=4):  # so that none has to wait
        page.route("**/api/v1/executions", do_less)
        expect(start(page, "tasks.fails_half_way")).to_have_attribute(
            "data-status", "failed", timeout=END
        )
        page.unroute("**/api/v1/executions")
        start(page, "tasks.unknown_length")
        for task in ("tasks.import_csv", "tasks.pipeline", "tasks.checksum"):
            expect(start(page, task).locator(".numbers")).to_have_text(
                re.compile(r"^([2-9]\d\.|100)"), timeout=END
            )
        page.mouse.move(0, 0)
        # Given a path, Playwright would write it in threads that outlive the test.
        (ROOT / "docs" / f"page-{name}.png").write_bytes(page.screenshot(full_page=True))


#: Elements whose text stands out from what is behind it by less than WCAG's AA wants.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const weak = [];
  for (const it of document.querySelectorAll("body *")) {
    const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !it.checkVisibility() || it.closest(".skip, .unseen, :disabled")) continue;
    const behind = [];
    for (let up = it; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
    const [a, b] = [light(over(behind)), light(over([...behind, getComputedStyle(it).color]))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) weak.push(`${it.className || it.tagName}: ${contrast.toFixed(2)}`);
  }
  return weak;
}"""
