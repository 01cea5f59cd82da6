"""Headway with pytest-celery: ``celery_setup`` over local processes and over containers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
)

import headway
from tests.support import pytest_celery_nodes
from tests.support.processes import Worker
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


class Setup(CeleryTestSetup):
    """pytest-celery's setup with the one line that installs Headway."""

    @classmethod
    def update_app_config(cls, app: Celery) -> None:
        """Install Headway in the tests' application."""
        headway.install(app)


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    """Override the plugin's setup."""
    return Setup


@pytest.fixture(scope="module", params=["processes", "containers"])
def kind(request: pytest.FixtureRequest) -> str:
    """What the nodes are. Without a container engine containers are skipped, in CI too: local
    processes prove the same.
    """
    if request.param == "containers" and not pytest_celery_nodes.engine_runs():
        pytest.skip("no container engine is running: tested over local processes only")
    return str(request.param)


@pytest.fixture
def celery_broker(kind: str, request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """Override the plugin's matrix of brokers with one Redis-like server."""
    if kind == "containers":
        yield request.getfixturevalue("celery_redis_broker")
        return
    node = pytest_celery_nodes.broker(ValkeyServer(durable=True))
    yield node
    node.teardown()


@pytest.fixture
def celery_backend(kind: str, request: pytest.FixtureRequest) -> Iterator[CeleryTestBackend]:
    """Override the plugin's matrix of backends with one Redis-like server."""
    if kind == "containers":
        yield request.getfixturevalue("celery_redis_backend")
        return
    node = pytest_celery_nodes.backend(ValkeyServer(durable=True))
    yield node
    node.teardown()


@pytest.fixture
def celery_worker(
    celery_broker_cluster: CeleryBrokerCluster,
    celery_backend_cluster: CeleryBackendCluster,
    celery_setup_app: Celery,
) -> Iterator[CeleryTestWorker]:
    """A worker of this environment, which has Headway, on any servers."""
    env = {
        "NODES_BROKER": celery_broker_cluster.config()["host_urls"][0],
        "NODES_BACKEND": celery_backend_cluster.config()["host_urls"][0],
    }
    node = pytest_celery_nodes.worker(
        Worker("tests.acceptance.apps.nodes", env=env), celery_setup_app
    )
    yield node
    node.teardown()


def test_setup_passes_all_readiness_checks(celery_setup: CeleryTestSetup) -> None:
    """pytest-celery's checks pass: its ping task, remote control and the state of each node."""
    assert celery_setup.ready(ping=True, control=True, docker=True)
    assert len(celery_setup) == 3


def test_task_reports_progress_and_returns(celery_setup: CeleryTestSetup) -> None:
    """A task sent by the setup's application reports progress and returns its result."""
    result = celery_setup.app.send_task("nodes.count", [30])
    assert result.get(timeout=RESPONSE_TIMEOUT) == 30
    celery_setup.worker.assert_log_exists("nodes.count")


def test_task_sent_to_a_killed_worker_runs_after_restart(celery_setup: CeleryTestSetup) -> None:
    """A worker node can be killed and restarted. A task sent in between runs after the restart."""
    worker = celery_setup.worker
    worker.kill()
    result = celery_setup.app.send_task("nodes.count", [3])
    worker.restart()
    assert result.get(timeout=RESPONSE_TIMEOUT) == 3
    assert worker.get_running_processes_info(["pid", "name"])


def test_task_reports_progress_after_a_backend_restart(celery_setup: CeleryTestSetup) -> None:
    """Tasks report progress again after a restart of the result backend."""
    backend = celery_setup.backend
    backend.kill()
    backend.restart()
    result = celery_setup.app.send_task("nodes.count", [5])
    assert until(lambda: result.state == "SUCCESS", within=30, what="the task to end")
