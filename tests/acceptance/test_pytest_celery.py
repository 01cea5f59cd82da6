"""Headway under pytest-celery: its ``celery_setup``, its nodes and clusters, over local processes
and over its containers.
"""

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
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


class Setup(CeleryTestSetup):
    """pytest-celery's set-up with the one line that Headway asks for."""

    @classmethod
    def update_app_config(cls, app: Celery) -> None:
        """Install Headway in the tests' own application."""
        headway.install(app)


@pytest.fixture
def celery_setup_cls() -> type[CeleryTestSetup]:
    """Overrides the plugin's."""
    return Setup


@pytest.fixture(scope="module", params=["processes", "containers"])
def kind(request: pytest.FixtureRequest) -> str:
    """What the nodes stand on. Containers are a second proof, not the only one: without an engine
    they are skipped, in CI too.
    """
    if request.param == "containers" and not pytest_celery_nodes.engine_runs():
        pytest.skip("no container engine runs here: proved over local processes only")
    return str(request.param)


@pytest.fixture
def celery_broker(kind: str, request: pytest.FixtureRequest) -> Iterator[CeleryTestBroker]:
    """Overrides the plugin's matrix of brokers: one Redis-like server."""
    if kind == "containers":
        yield request.getfixturevalue("celery_redis_broker")
        return
    node = pytest_celery_nodes.broker(ValkeyServer(durable=True))
    yield node
    node.teardown()


@pytest.fixture
def celery_backend(kind: str, request: pytest.FixtureRequest) -> Iterator[CeleryTestBackend]:
    """Overrides the plugin's matrix of backends: one Redis-like server."""
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
    """A worker of this environment, where Headway is installed, on whichever servers."""
    env = {
        "NODES_BROKER": celery_broker_cluster.config()["host_urls"][0],
        "NODES_BACKEND": celery_backend_cluster.config()["host_urls"][0],
    }
    node = pytest_celery_nodes.worker(
        Worker("tests.acceptance.apps.nodes", env=env), celery_setup_app
    )
    yield node
    node.teardown()


def test_the_setup_is_ready(celery_setup: CeleryTestSetup) -> None:
    """All of pytest-celery's own checks pass: its ping task, remote control, and each node's state."""
    assert celery_setup.ready(ping=True, control=True, docker=True)
    assert len(celery_setup) == 3


def test_a_task_reports(celery_setup: CeleryTestSetup) -> None:
    """A task that is sent through the set-up's application reports progress, and its result
    arrives.
    """
    result = celery_setup.app.send_task("nodes.count", [30])
    assert result.get(timeout=30) == 30
    celery_setup.worker.assert_log_exists("nodes.count")


def test_a_killed_worker_comes_back(celery_setup: CeleryTestSetup) -> None:
    """A worker node can be killed and restarted; what is sent meanwhile is done afterwards."""
    worker = celery_setup.worker
    worker.kill()
    result = celery_setup.app.send_task("nodes.count", [3])
    worker.restart()
    assert result.get(timeout=60) == 3
    assert worker.get_running_processes_info(["pid", "name"])


def test_progress_survives_a_restarted_backend(celery_setup: CeleryTestSetup) -> None:
    """Tasks report again after the result backend was away."""
    backend = celery_setup.backend
    backend.kill()
    backend.restart()
    result = celery_setup.app.send_task("nodes.count", [5])
    assert until(lambda: result.state == "SUCCESS", within=30, what="the task to end")
