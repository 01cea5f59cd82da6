"""The start page: starts the five jobs, follows each to its end, and shows every error.

With ``SCREENSHOTS=1`` the last test also writes the README's pictures to ``docs/``.
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

from tests.browser.streams import FakeSocketServer, frame, progress
from tests.support.processes import ROOT, WebServer, Worker
from tests.support.service import Service
from tests.support.wait import until

pytestmark = pytest.mark.usefixtures("no_policy_violations")

#: Smaller arguments than the page's own, which are chosen for a demonstration.
SMALLER: dict[str, dict[str, Any]] = {
    "tasks.checksum": {"passes": 2},
    "tasks.pipeline": {"files": 30},
    "tasks.fails_half_way": {"files": 60},
    "tasks.unknown_length": {"limit": 60},
}
#: Milliseconds that a job may take on a busy machine.
END = 90_000
#: Passes of `tasks.checksum` that end only by a cancel.
ENDLESS = 5000


@pytest.fixture
def home(page: Page, service: Service) -> Page:
    """The open page; its jobs are smaller than usual."""
    page.route("**/api/v1/executions", start_smaller)
    page.route("**/static/sample.js", smaller_sample)
    page.goto(service.url)
    return page


def start_smaller(route: Route) -> None:
    """Forward a start with smaller arguments."""
    body = route.request.post_data_json
    route.continue_(post_data=json.dumps(body | {"kwargs": SMALLER[body["task"]]}))


def run_endlessly(route: Route) -> None:
    """Forward a start of `tasks.checksum` as one that runs until it is cancelled."""
    route.continue_(
        post_data=json.dumps(route.request.post_data_json | {"kwargs": {"passes": ENDLESS}})
    )


def card(page: Page, task: str) -> Locator:
    return page.locator(f".card[data-task='{task}']")


def start(page: Page, task: str) -> Locator:
    """Press the job's button. Returns its entry in the list."""
    known = page.locator(".job").count()
    card(page, task).get_by_role("button").first.click()
    expect(page.locator(".job")).to_have_count(known + 1)
    return page.locator(".job").first


def watch(page: Page, execution_id: str) -> Locator:
    """Watch an execution by its id, with the form of the page."""
    page.get_by_label("Watch another").fill(execution_id)
    page.get_by_role("button", name="Watch", exact=True).click()
    return page.locator(f".job[data-id='{execution_id}']")


def smaller_sample(route: Route) -> None:
    """Serve the sample generator with fewer rows."""
    answer = route.fetch()
    assert "200000" in answer.text()
    route.fulfill(response=answer, body=answer.text().replace("200000", "20000"))


def watch_fake(page: Page, execution_id: str) -> Locator:
    """Watch an execution that is always running according to REST."""
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
    """Start collecting the values of all bars; read them with `collected`."""
    page.evaluate(
        """() => {
            window.collected = [];
            const collect = ({ target }) => collected.push(target.getAttribute("aria-valuenow"));
            const options = { subtree: true, attributeFilter: ["aria-valuenow"] };
            new MutationObserver((changes) => changes.forEach(collect))
                .observe(document.getElementById("jobs"), options);
        }"""
    )


def collected(page: Page) -> list[float]:
    return [float(value) for value in page.evaluate("window.collected") if value is not None]


# --- the five jobs ---


def test_bar_moves_forward_while_a_job_runs(home: Page) -> None:
    """The bar of a running job only moves forward, and the page shows the messages."""
    home.route("**/api/v1/executions", run_endlessly)
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
def test_job_with_known_total_ends_at_100_percent(home: Page, task: str) -> None:
    """The bar only moves forward and ends at 100 %, and the result can be read."""
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


def test_checksums_show_bytes_and_attributes(home: Page) -> None:
    """Bytes have readable units, and the attributes of the job are shown."""
    job = start(home, "tasks.checksum")
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator(".numbers")).to_have_text(
        re.compile(r"100\s%.*\d\s[MG]B\sof\s[\d.]+\s[MG]B")
    )
    expect(job.locator(".attributes")).to_contain_text("changed")


def test_sample_is_generated_and_imported(home: Page) -> None:
    """The page generates a file with invalid rows, which are counted during the import."""
    job = start(home, "tasks.import_csv")
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator(".numbers")).to_have_text(re.compile(r"100\s%.*20,000\sof\s20,000\srows"))
    expect(job.locator(".attributes")).to_have_text(
        re.compile(r"imported\s*19,983\s*rejected\s*17")
    )


def test_chosen_file_is_uploaded_and_imported(home: Page, tmp_path: Path) -> None:
    """A chosen file is uploaded and imported, and can be chosen again."""
    file = tmp_path / "rows.csv"
    file.write_text("a,b\n1,2\n3\n")
    for count in (1, 2):
        card(home, "tasks.import_csv").locator("input[type=file]").set_input_files(file)
        expect(home.locator(".job")).to_have_count(count)
    job = home.locator(".job").first
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator(".attributes")).to_have_text(re.compile(r"imported\s*1\s*rejected\s*1"))


def test_failed_job_keeps_its_percentage_after_a_reload(home: Page) -> None:
    """A job that fails at 50 % stays at 50 % with its error, also after a reload."""
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


def test_job_with_unknown_total_shows_only_a_count(home: Page) -> None:
    """From start to end the bar has no value; the count is shown."""
    percentages(home)
    job = start(home, "tasks.unknown_length")
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    assert job.get_by_role("progressbar").get_attribute("aria-valuenow") is None
    assert collected(home) == []
    expect(job.locator(".numbers")).to_have_text(re.compile(r"^60\smodules$"))


def test_bar_with_unknown_total_is_animated(home: Page) -> None:
    """If the total is unknown, the bar is animated, and the count is shown."""
    FakeSocketServer(home, {"mine": [frame("status", "mine", progress=progress(12, None))]})
    job = watch_fake(home, "mine")
    expect(job.locator(".bar")).to_have_attribute("data-kind", "moving")
    expect(job.locator(".numbers")).to_have_text("12")
    assert job.get_by_role("progressbar").get_attribute("aria-valuenow") is None


# --- the list ---


def test_empty_list_explains_what_to_do(home: Page) -> None:
    """The first visit shows an explanation."""
    expect(home.get_by_text("No jobs yet")).to_be_visible()
    start(home, "tasks.pipeline")
    expect(home.get_by_text("No jobs yet")).to_be_hidden()


def test_list_survives_a_reload(home: Page) -> None:
    """After a reload the same jobs are there, newest first, and running ones continue."""
    start(home, "tasks.unknown_length")
    start(home, "tasks.pipeline")
    ids = home.locator(".job").evaluate_all("all => all.map((job) => job.dataset.id)")
    home.reload()
    expect(home.locator(".job")).to_have_count(2)
    assert home.locator(".job").evaluate_all("all => all.map((job) => job.dataset.id)") == ids
    for job in home.locator(".job").all():
        expect(job).to_have_attribute("data-status", "completed", timeout=END)


def test_ended_jobs_can_be_removed(home: Page) -> None:
    """One job by its button, with the focus on the next one; all ended jobs together."""
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
    expect(home.get_by_text("No jobs yet")).to_be_visible()


def test_unknown_id_shows_not_found_and_stops(home: Page) -> None:
    """An unknown id shows an error without a number, and is requested once."""
    messages: list[str | bytes] = []

    def note(sent: str | bytes) -> None:  # Playwright does not accept a method of a list
        messages.append(sent)

    home.on("websocket", lambda socket: socket.on("framesent", note))
    job = watch(home, "no-such-id")
    expect(job.locator(".state")).to_have_text("Not found")
    expect(job.locator(".message")).to_have_text("Execution 'no-such-id' not found")
    assert job.get_by_role("progressbar").get_attribute("aria-valuenow") is None
    expect(home.locator("#banner")).to_be_hidden()
    until(lambda: home.evaluate("1") and messages)
    assert messages == ['{"subscribe":["no-such-id"]}']


def test_any_execution_can_be_watched_by_id(home: Page, service: Service) -> None:
    """Any execution can be watched by its id, with its task name as title."""
    job = watch(home, service.start("tasks.pipeline", files=30))
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    expect(job.locator("h3")).to_have_text("tasks.pipeline")


def test_markup_from_tasks_is_shown_as_text(home: Page, service: Service) -> None:
    """Markup in an error or a message is shown as text."""
    job = watch(home, service.start("tasks.checksum", path="<img src=x onerror=alert(1)>"))
    expect(job.locator(".error")).to_contain_text("<img src=x onerror=alert(1)>", timeout=END)
    assert job.locator("img").count() == 0


# --- errors ---


def test_lost_connection_is_shown_and_restored(home: Page, service: Service) -> None:
    """After the web process is killed the page reconnects automatically and follows the job."""
    job = watch(home, service.start("tasks.checksum", passes=ENDLESS))
    expect(job).to_have_attribute("data-connection", "live", timeout=END)
    expect(job).to_have_attribute("data-status", "running", timeout=END)
    with service.web.workers_gone():
        expect(home.locator("#banner")).to_contain_text("Connection lost", timeout=END)
        expect(job.locator(".state")).to_have_text("Connection lost, reconnecting")
    expect(job).to_have_attribute("data-connection", "live", timeout=END)
    expect(home.locator("#banner")).to_be_hidden()
    job.locator(".cancel").click()
    expect(job).to_have_attribute("data-status", "cancelled", timeout=END)


def test_refused_start_shows_the_error_and_adds_no_job(home: Page) -> None:
    """A refused start is shown below the cards, and the list stays empty."""
    home.unroute("**/api/v1/executions")
    home.route(
        "**/api/v1/executions",
        lambda route: route.fulfill(
            status=503, json={"detail": "The message broker can't be reached"}
        ),
    )
    card(home, "tasks.pipeline").get_by_role("button").click()
    expect(home.get_by_role("alert")).to_have_text(
        "Could not start Index in steps: The message broker can't be reached"
    )
    expect(home.locator(".job")).to_have_count(0)
    expect(card(home, "tasks.pipeline").get_by_role("button")).to_be_enabled()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("not_found", "Not found"),
        ("expired", "Expired"),
        ("not_allowed", "Not allowed"),
    ],
)
def test_final_error_is_shown_and_not_retried(home: Page, code: str, text: str) -> None:
    """A final error of the server is shown, and the execution is not requested again."""
    server = FakeSocketServer(
        home, {"mine": [frame("error", "mine", status=None, code=code, message="Because.")]}
    )
    job = watch_fake(home, "mine")
    expect(job).to_have_attribute("data-connection", code, timeout=END)
    expect(job.locator(".state")).to_have_text(text)
    expect(job.locator(".message")).to_have_text("Because.")
    expect(home.locator("#banner")).to_be_hidden()
    expect(home.get_by_role("button", name="Clear ended")).to_be_visible()
    assert server.messages == [{"subscribe": ["mine"]}]


def test_unavailable_backend_is_shown_and_recovers(home: Page) -> None:
    """An error frame shows a banner, the last state stays, and updates continue afterwards."""
    server = FakeSocketServer(
        home, {"mine": [frame("error", "mine", code="unavailable", message="It is away")]}
    )
    job = watch_fake(home, "mine")
    expect(job).to_have_attribute("data-connection", "unavailable", timeout=END)
    expect(home.locator("#banner")).to_contain_text("can’t reach its result backend")
    expect(job.locator(".state")).to_have_text("Result backend unavailable")
    server.send(frame("status", "mine", progress=progress(2, 5)))
    expect(job).to_have_attribute("data-connection", "live")
    expect(home.locator("#banner")).to_be_hidden()


# --- with tokens ---


@pytest.fixture
def web_with_token(service: Service) -> Iterator[WebServer]:
    """A web server of the same service that requires a token."""
    with WebServer("gevent", env=service.env | {"HEADWAY_TOKENS": "open-sesame"}) as web:
        yield web


def test_token_dialog_unlocks_jobs_and_the_socket_gets_a_ticket(
    page: Page, web_with_token: WebServer
) -> None:
    """One dialog; a wrong token is reported; the socket URL has a ticket, never the token."""
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.route("**/api/v1/executions", start_smaller)
    page.goto(web_with_token.url)
    card(page, "tasks.pipeline").get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("rejected this token")).to_be_hidden()
    dialog.get_by_label("Token").fill("wrong")
    dialog.get_by_role("button", name="Continue").click()
    expect(dialog.get_by_text("rejected this token")).to_be_visible()
    dialog.get_by_label("Token").fill("open-sesame")
    dialog.get_by_role("button", name="Continue").click()
    job = page.locator(".job").first
    expect(job).to_have_attribute("data-status", "completed", timeout=END)
    assert all("ticket=" in url and "open-sesame" not in url for url in sockets)
    assert page.evaluate(
        "[localStorage.length, JSON.stringify(localStorage).includes('open-sesame')]"
    ) == [1, False]

    page.reload()  # the tab keeps the token
    expect(page.locator(".job").first).to_have_attribute("data-status", "completed")
    page.get_by_role("button", name="Forget token").click()
    expect(dialog).to_be_visible()  # the jobs of the list need the token
    dialog.get_by_role("button", name="Not now").click()
    expect(page.locator(".job .state").first).to_have_text("Token required")


# --- accessibility and screens ---


def test_keyboard_reaches_every_control(home: Page) -> None:
    """Every control can be reached and used without a mouse, with a visible focus."""
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


def test_end_is_announced_once(home: Page) -> None:
    """Screen readers get each end once, with its error; a reload announces nothing."""
    job = start(home, "tasks.fails_half_way")
    expect(job).to_have_attribute("data-status", "failed", timeout=END)
    announcer = home.locator("#announcer[aria-live=polite]")
    expect(announcer.locator("p")).to_have_count(1)
    expect(announcer).to_have_text(
        re.compile(r"^Fails half way: Failed\. DamagedArchiveError: The archive of")
    )
    home.reload()
    expect(home.locator(".job").first).to_have_attribute("data-status", "failed")
    expect(announcer.locator("p")).to_have_count(0)


def test_immediate_end_is_announced(home: Page) -> None:
    """An end before the first frame is announced too, because the job was started here."""
    end = {
        "error": {"type": "OSError", "message": "The disk is full", "details": None},
        "progress": None,
    }
    FakeSocketServer(
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
def test_reduced_motion_stops_animations(home: Page) -> None:
    """With reduced motion, an unknown total is a striped bar."""
    FakeSocketServer(home, {"mine": [frame("status", "mine", progress=progress(12, None))]})
    job = watch_fake(home, "mine")
    expect(job.locator(".bar")).to_have_attribute("data-kind", "moving")
    style = job.locator(".fill").evaluate(
        """(it) => {
            const { animationName, backgroundImage } = getComputedStyle(it);
            return [animationName, backgroundImage.slice(0, 9)];
        }"""
    )
    assert style == ["none", "repeating"]


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
def test_page_fits_every_screen_with_enough_contrast(
    page: Page, service: Service, name: str
) -> None:
    """On desktop and phone, light and dark: no overflow, and a contrast of at least 4.5."""
    pictures = bool(os.environ.get("SCREENSHOTS"))
    page.goto(service.url)
    done = watch(page, service.start("tasks.fails_half_way", files=4))
    expect(done).to_have_attribute("data-status", "failed", timeout=END)
    unknown = watch(page, "an-unknown-id-that-is-far-too-long-for-a-phone-" + "x" * 100)
    expect(unknown.locator(".state")).to_have_text("Not found")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    if pictures:
        picture(page, service, name)


def picture(page: Page, service: Service, name: str) -> None:
    """Write a picture of the page with running jobs to ``docs/page-NAME.png``."""
    page.get_by_role("button", name="Clear ended").click()
    with Worker("app", env=service.env, concurrency=4):  # so that no job has to wait
        page.route("**/api/v1/executions", start_smaller)
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
        # With a path, Playwright would write it in threads that outlive the test.
        (ROOT / "docs" / f"page-{name}.png").write_bytes(page.screenshot(full_page=True))


#: Elements whose text has less contrast than WCAG AA requires.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => rgb.map((v) => linear(v / 255))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const weak = [];
  for (const it of document.querySelectorAll("body *")) {
    const own = [...it.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !it.checkVisibility() || it.closest(".skip, .visually-hidden, :disabled")) continue;
    const behind = [];
    for (let up = it; up; up = up.parentElement) {
      behind.unshift(getComputedStyle(up).backgroundColor);
    }
    const [a, b] = [light(over(behind)), light(over([...behind, getComputedStyle(it).color]))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) weak.push(`${it.className || it.tagName}: ${contrast.toFixed(2)}`);
  }
  return weak;
}"""
