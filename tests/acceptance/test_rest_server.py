"""REST on real servers: an execution polled to its end, and responses during outages."""

from __future__ import annotations

import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import redis
import requests
from celery import Celery
from kombu import pools

from tests.support.flask_app import mounted_app
from tests.support.processes import WebServer, Worker
from tests.support.rabbitmq import RabbitMQ
from tests.support.valkey import ExternalValkey, ValkeyServer
from tests.support.wait import until

APP = "tests.acceptance.apps.rest_service:create_app()"
Kind = Literal["gevent", "gthread", "dev"]

#: Seconds that a response may take: an outage must be reported, and not waited for.
BOUND = 60


class Api:
    """A client of one server."""

    def __init__(self, server: WebServer) -> None:
        self.server = server

    def get(self, path: str, *, timeout: float = BOUND, **headers: str) -> requests.Response:
        """GET below the prefix."""
        return requests.get(f"{self.server.url}/api/v1{path}", headers=headers, timeout=timeout)

    def start(self, *, key: str | None = None, **body: Any) -> requests.Response:
        """POST /executions for the puppet."""
        headers = {} if key is None else {"Idempotency-Key": key}
        return requests.post(
            f"{self.server.url}/api/v1/executions",
            json={"task": "puppet.play"} | body,
            headers=headers,
            timeout=BOUND,
        )

    def status(self, execution_id: str) -> str:
        """The status now."""
        return str(self.get(f"/executions/{execution_id}").json()["status"])


def send(url: str, execution_id: str, *words: str) -> None:
    """Send the puppet commands."""
    with redis.Redis.from_url(url) as client:
        client.rpush(f"puppet:{execution_id}", *words)


def web(kind: Kind, broker: str, backend: str, **settings: str) -> WebServer:
    return WebServer(kind, APP, env={"REST_BROKER": broker, "REST_BACKEND": backend, **settings})


def assert_problem(response: requests.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    for word in words:
        assert word in body["detail"]


def assert_unavailable(response: requests.Response) -> None:
    """503 with Retry-After, and without a driver, an address or code in its text."""
    assert_problem(response, 503)
    assert int(response.headers["Retry-After"]) >= 1
    for word in ("redis", "127.0.0.1", "Traceback", "Error ", "Timeout", "kombu"):
        assert word not in response.text


@pytest.mark.parametrize("kind", ["gevent", "gthread", "dev"])
def test_execution_is_polled_to_its_end(kind: Kind, redis_url: str) -> None:
    """Pending, running at 1 of 40, held until 2 of 40, failed at 5 %: as in the contract."""
    with web(kind, redis_url, redis_url) as server:
        api = Api(server)
        started = api.start()
        assert started.status_code == 202
        execution_id = started.json()["execution_id"]
        assert started.headers["Location"] == f"/api/v1/executions/{execution_id}"
        path = f"/executions/{execution_id}"
        assert api.status(execution_id) == "pending"
        assert api.get(f"{path}/progress").status_code == 204
        assert requests.get(server.url, timeout=BOUND).text == "mine"

        with Worker("tests.acceptance.apps.puppet", env={"PUPPET_URL": redis_url}, pool="threads"):
            send(redis_url, execution_id, "step")
            first = api.get(f"{path}/progress?wait=30")
            assert (first.json()["current_step"], first.json()["percentage"]) == (1, 2.5)
            assert first.headers["Retry-After"]
            tag = first.headers["ETag"]
            assert api.get(f"{path}/progress", **{"If-None-Match": tag}).status_code == 304

            held: list[requests.Response] = []
            poll = threading.Thread(
                target=lambda: held.append(
                    api.get(f"{path}/progress?wait=30", **{"If-None-Match": tag})
                )
            )
            poll.start()
            send(redis_url, execution_id, "step")
            poll.join(BOUND)
            assert held[0].json()["current_step"] == 2

            send(redis_url, execution_id, "fail")
            until(lambda: api.status(execution_id) == "failed", what="the end")
        body = api.get(path).json()
        assert body["error"]["type"] == "ValueError"
        assert body["error"]["message"] == "the disk is full"
        assert body["progress"]["percentage"] == 5.0
        assert (body["task"], body["attempt"]) == ("puppet.play", 1)
        assert body["created_at"] <= body["started_at"] <= body["finished_at"]
        assert "Traceback" not in api.get(path).text
        assert "Retry-After" not in api.get(path).headers


def test_repeated_start_publishes_once(redis_url: str) -> None:
    """One Idempotency-Key is one message, also over two servers and ten calls at once."""
    with web("gevent", redis_url, redis_url) as one, web("gthread", redis_url, redis_url) as two:
        responses: list[requests.Response] = []
        key = uuid.uuid4().hex
        calls = [
            threading.Thread(target=lambda api=api: responses.append(api.start(key=key)))
            for api in [Api(one), Api(two)] * 5
        ]
        for call in calls:
            call.start()
        for call in calls:
            call.join(BOUND)
        assert [response.status_code for response in responses] == [202] * 10
        assert len({response.json()["execution_id"] for response in responses}) == 1
        with redis.Redis.from_url(redis_url) as client:
            assert client.llen("puppet") == 1
        assert_problem(Api(two).start(key=key, args=[1]), 422, "Idempotency-Key")


class TestBackendOutage:
    """The result backend stops or hangs, and comes back."""

    @pytest.fixture(params=["gevent", "gthread"])
    def api(
        self, request: pytest.FixtureRequest, redis_url: str, own_valkey: ValkeyServer
    ) -> Iterator[Api]:
        with web(request.param, redis_url, own_valkey.url) as server:
            yield Api(server)

    def calls(self, api: Api, execution_id: str) -> list[Callable[[], requests.Response]]:
        return [
            lambda: api.get(f"/executions/{execution_id}"),
            lambda: api.get(f"/executions/{execution_id}/progress"),
            lambda: api.get(f"/executions/{execution_id}/progress?wait=1"),
            lambda: api.get("/executions/unknown"),
            lambda: requests.get(
                f"{api.server.url}/applications/a/requests/{execution_id}/progress", timeout=BOUND
            ),
            api.start,
        ]

    @pytest.mark.parametrize("how", ["stopped", "frozen"])
    def test_outage_is_503_and_recovers(self, api: Api, own_valkey: ValkeyServer, how: str) -> None:
        """503 within the bound, not ready but healthy; everything works again afterwards."""
        execution_id = api.start().json()["execution_id"]
        assert requests.get(f"{api.server.url}/readyz", timeout=BOUND).status_code == 200
        if how == "stopped":
            own_valkey.stop()
        else:
            own_valkey.kill(signal.SIGSTOP)
        for call in self.calls(api, execution_id):
            assert_unavailable(call())
        assert_unavailable(requests.get(f"{api.server.url}/readyz", timeout=BOUND))
        assert requests.get(f"{api.server.url}/healthz", timeout=BOUND).status_code == 200
        if how == "stopped":
            own_valkey.start()
        else:
            own_valkey.kill(signal.SIGCONT)
        until(
            lambda: api.get(f"/executions/{execution_id}").status_code == 200,
            what="the server to work again",
        )
        until(
            lambda: requests.get(f"{api.server.url}/readyz", timeout=BOUND).status_code == 200,
            what="the server to be ready again",
        )
        assert "Traceback" not in api.server.log()


@pytest.mark.parametrize("how", ["stopped", "frozen"])
def test_broker_outage_prevents_starts_only(
    how: str, valkey: ValkeyServer | ExternalValkey, own_valkey: ValkeyServer, redis_url: str
) -> None:
    """A start is a 503 within the bound, reads work; later the same key starts it, once."""
    with web("gevent", own_valkey.url, redis_url, HEADWAY_BROKER_TIMEOUT="2") as server:
        api = Api(server)
        before = api.start().json()["execution_id"]
        if how == "stopped":
            own_valkey.stop()
        else:
            own_valkey.kill(signal.SIGSTOP)
        assert_unavailable(api.start(key="k"))
        assert_unavailable(api.start())
        assert api.status(before) == "pending"
        if how == "stopped":
            own_valkey.start()
        else:
            own_valkey.kill(signal.SIGCONT)
        after = until(
            lambda: response if (response := api.start(key="k")).status_code == 202 else None,
            what="the broker to be back",
        )
        assert api.start(key="k").json() == after.json()
        assert api.status(after.json()["execution_id"]) == "pending"


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
@pytest.mark.parametrize("how", ["silent", "closed"])
def test_unreachable_broker_is_503_in_time(scheme: str, how: str) -> None:
    """A closed port, or one that never responds, is a 503 in time, on every transport."""
    responses: list[Any] = []
    with socket.socket() as silent:
        # The port stays reserved even if it does not listen: no other process can serve there.
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        if how == "silent":
            silent.listen()
        celery = Celery("away", broker=f"{scheme}://127.0.0.1:{port}//", set_as_current=False)
        with mounted_app(celery=celery, startable_tasks=["some.task"], broker_timeout=0.2) as made:
            call = threading.Thread(
                target=lambda: responses.append(
                    made.client.post("/api/v1/executions", json={"task": "some.task"})
                ),
                daemon=True,
            )
            call.start()
            call.join(BOUND)
            assert responses, "no response came"
            assert responses[0].status_code == 503
            assert "broker" in responses[0].get_json()["detail"]


def test_start_works_on_rabbitmq(rabbitmq: RabbitMQ) -> None:
    """On RabbitMQ a task is started with the same connection settings."""
    celery = Celery("rabbit", broker=rabbitmq.url, set_as_current=False)
    celery.conf.task_default_queue = f"rest-{uuid.uuid4().hex}"
    with mounted_app(celery=celery, startable_tasks=["some.task"], broker_timeout=60) as made:
        execution_id = made.client.post(
            "/api/v1/executions", json={"task": "some.task", "args": [1]}
        ).get_json()["execution_id"]
        with (
            celery.connection_for_read() as connection,
            connection.SimpleQueue(celery.conf.task_default_queue) as queue,
        ):
            message = queue.get(timeout=60)
            assert message.headers["id"] == execution_id
            message.ack()
    pools.reset()
