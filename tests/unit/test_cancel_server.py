"""Cancellation over HTTP and from Python: permissions, responses, and the broadcast to workers."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from celery import Celery
from werkzeug.test import TestResponse

import headway
from headway.core.registry import Snapshot
from headway.errors import ConfigurationError, ExecutionConflict, ExecutionNotFound, Unavailable
from headway.models import Phase, Status
from headway.server.auth import Action, Identity
from tests.support.flask_app import MountedApp, mounted_app
from tests.unit.test_problems import assert_problem


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app(broker_timeout=0.5) as made:
        fill(made)
        yield made


def fill(made: MountedApp) -> None:
    """Make an execution in every state."""
    made.publish("queued")
    for execution_id in ("running", "retrying", "done", "failed"):
        made.begin(made.publish(execution_id))
    made.report("running", 2, 5)
    made.end(
        "retrying", "RETRY", {"exc_type": "Retry", "exc_message": ["later"], "exc_module": "celery"}
    )
    made.end("done")
    made.end(
        "failed",
        "FAILURE",
        {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
    )


class Workers:
    """A worker's mailbox: records the revokes that kombu delivers to it."""

    def __init__(self, app: Celery) -> None:
        self._connection = app.connection_for_read()
        self._received: list[dict[str, Any]] = []
        handlers = {"revoke": lambda state, **arguments: self._received.append(arguments)}
        box = app.control.mailbox(self._connection)
        node = box.Node(
            "w@host", state=None, handlers=handlers, channel=self._connection.default_channel
        )
        self._consumer = node.listen(callback=node.handle_message)

    def received(self) -> list[tuple[str, bool]]:
        """The received revokes: task id, and whether to terminate."""
        try:
            while True:
                self._connection.drain_events(timeout=0.01)
        except TimeoutError:  # socket.timeout: the mailbox is empty
            return [(each["task_id"], each["terminate"]) for each in self._received]

    def close(self) -> None:
        self._consumer.cancel()
        self._connection.release()


@pytest.fixture
def workers(server: MountedApp) -> Iterator[Workers]:
    made = Workers(server.celery)
    yield made
    made.close()


def cancel(server: MountedApp, execution_id: str, body: Any = None, **more: Any) -> TestResponse:
    sent = more if body is None else {"json": body} | more
    return server.client.post(f"/api/v1/executions/{execution_id}/cancel", **sent)


class TestAccepted:
    def test_execution_waiting_for_retry_is_cancelled_at_once(self, server: MountedApp) -> None:
        """202 with the cancelled execution: no attempt runs. A second call gets 409."""
        for body in (None, {"terminate": True}):
            response = cancel(server, "retrying", body)
            assert (response.status_code, response.get_json()["status"]) == (
                (202, "cancelled") if body is None else (409, 409)
            )
            assert "Retry-After" not in response.headers

    @pytest.mark.parametrize(
        ("execution_id", "status"), [("queued", "pending"), ("running", "running")]
    )
    def test_response_is_the_cancelling_execution(
        self, server: MountedApp, execution_id: str, status: str
    ) -> None:
        """202 with the execution, whose phase is cancelling; the next GET says the same."""
        response = cancel(server, execution_id)
        assert response.status_code == 202
        assert (response.get_json()["status"], response.get_json()["phase"]) == (
            status,
            "cancelling",
        )
        assert response.headers["Retry-After"] == "1"
        assert response.headers["Cache-Control"] == "no-store"
        assert (
            server.client.get(f"/api/v1/executions/{execution_id}").get_json()
            == response.get_json()
        )

    def test_request_is_stored_for_the_worker(self, server: MountedApp) -> None:
        """The request is stored, so the next attempt or report receives it."""
        cancel(server, "queued")
        cancel(server, "running")
        assert all(
            each.record and each.record.cancel_requested_at
            for each in server.store.read(["queued", "running"])
        )

    def test_second_request_changes_nothing(self, server: MountedApp) -> None:
        """A second request is not an error, and changes nothing."""
        first = cancel(server, "running")
        server.clock.tick(5)
        again = cancel(server, "running")
        assert (again.status_code, again.get_json()) == (202, first.get_json())

    def test_request_is_published_to_viewers(self, server: MountedApp) -> None:
        """Viewers see the request at once."""
        seen: list[str] = []
        server.store.subscribe(lambda task_id, meta: seen.append(task_id))
        cancel(server, "running")
        assert seen == ["running"]


class TestBroadcast:
    """What is broadcast to Celery's workers, beside the request in the store."""

    @pytest.mark.parametrize(
        ("execution_id", "body", "expected"),
        [
            ("queued", None, [("queued", False)]),
            ("retrying", None, [("retrying", False)]),
            ("running", None, []),
            ("running", {"terminate": False}, []),
            ("running", {"terminate": True}, [("running", True)]),
            ("queued", {"terminate": True}, [("queued", True)]),
            ("done", {"terminate": True}, []),
            ("unknown", {"terminate": True}, []),
        ],
    )
    def test_revoke_is_broadcast(
        self, server: MountedApp, workers: Workers, execution_id: str, body: Any, expected: Any
    ) -> None:
        """A waiting task is revoked; a running one only with terminate."""
        cancel(server, execution_id, body)
        assert workers.received() == expected

    @pytest.fixture
    def without_broker(self) -> Iterator[MountedApp]:
        with socket.socket() as closed_port:  # bound and not listening: refuses connections
            closed_port.bind(("127.0.0.1", 0))
            broker = f"redis://127.0.0.1:{closed_port.getsockname()[1]}/0"
            with mounted_app(
                celery=Celery("cut", broker=broker, set_as_current=False), broker_timeout=0.5
            ) as made:
                fill(made)
                yield made

    def test_unavailable_broker_does_not_prevent_cancel(
        self, without_broker: MountedApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The request is stored, and the worker will see it: 202 within a bounded time."""
        with caplog.at_level(logging.WARNING):
            assert cancel(without_broker, "queued").status_code == 202
        assert "Could not broadcast" in caplog.text

    def test_terminate_of_waiting_execution_needs_no_broker(
        self, without_broker: MountedApp
    ) -> None:
        """Nothing runs, so an execution that waits for a retry is cancelled without the broker."""
        response = cancel(without_broker, "retrying", {"terminate": True})
        assert (response.status_code, response.get_json()["status"]) == (202, "cancelled")

    def test_terminate_without_broker_is_503(self, without_broker: MountedApp) -> None:
        """A terminate that reaches no worker is a 503; the request stays stored."""
        response = cancel(without_broker, "running", {"terminate": True})
        assert_problem(response, 503, "broker")
        assert without_broker.headway.get_execution("running").phase is Phase.CANCELLING


class TestRefused:
    def test_unknown_execution_is_404(self, server: MountedApp) -> None:
        """404, as for a read."""
        assert_problem(cancel(server, "unknown"), 404, "Execution 'unknown' not found")

    def test_execution_cancelled_before_the_reread_is_202(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An execution that this request has ended before it is read again is no conflict."""
        request_cancel = server.store.request_cancel

        def cancelled_at_once(execution_id: str, at: datetime) -> Snapshot | None:
            request_cancel(execution_id, at)
            server.end(execution_id, "REVOKED", None)
            return server.store.read([execution_id])[0]

        with monkeypatch.context() as patched:
            patched.setattr(server.store, "request_cancel", cancelled_at_once)
            response = cancel(server, "running")
        assert (response.status_code, response.get_json()["status"]) == (202, "cancelled")
        assert "Retry-After" not in response.headers  # terminal: there is nothing to poll for
        server.clock.tick(1)
        assert_problem(cancel(server, "running"), 409, "is already cancelled")

    @pytest.mark.parametrize(
        ("execution_id", "word"), [("done", "completed"), ("failed", "failed")]
    )
    def test_terminal_execution_is_409(
        self, server: MountedApp, execution_id: str, word: str
    ) -> None:
        """409 for a terminal execution, which does not change."""
        assert_problem(cancel(server, execution_id), 409, f"is already {word}")
        assert server.headway.get_execution(execution_id).status.value == word

    @pytest.mark.parametrize("published", [True, False])
    def test_end_known_to_the_result_backend_only_is_409(
        self, server: MountedApp, workers: Workers, published: bool
    ) -> None:
        """An end that only the result backend knows gives 409; no request is stored for the id."""
        if published:
            server.publish("theirs")
        server.store.put_result("theirs", {"task_id": "theirs", "status": "SUCCESS", "result": 1})
        assert_problem(cancel(server, "theirs", {"terminate": True}), 409, "is already completed")
        record = server.store.read(["theirs"])[0].record
        assert record is None or record.cancel_requested_at is None
        assert workers.received() == []

    def test_unavailable_store_is_503(self, server: MountedApp, workers: Workers) -> None:
        """503: nothing is stored, and nothing is broadcast."""
        server.store.away = True
        response = cancel(server, "running", {"terminate": True})
        server.store.away = False
        assert response.status_code == 503
        assert server.headway.get_execution("running").phase is Phase.RUNNING
        assert workers.received() == []

    @pytest.mark.parametrize(
        ("body", "text"),
        [
            ({"terminate": 1}, "true or false"),
            ({"terminate": "yes"}, "true or false"),
            ({"force": True}, "'force'"),
            ([], "JSON object"),
        ],
    )
    def test_invalid_body_is_422(self, server: MountedApp, body: Any, text: str) -> None:
        """422 names the error, and no cancellation is requested."""
        assert_problem(cancel(server, "running", body), 422, text)
        assert server.headway.get_execution("running").phase is Phase.RUNNING

    def test_empty_body_is_accepted(self, server: MountedApp) -> None:
        """`{}`, no body and an empty body mean the same."""
        for sent in (
            {"json": {}},
            {},
            {"data": b""},
            {"data": b"", "content_type": "application/json"},
        ):
            assert (
                server.client.post("/api/v1/executions/running/cancel", **sent).status_code == 202
            )

    def test_get_is_405(self, server: MountedApp) -> None:
        """A link cannot cancel."""
        assert_problem(server.client.get("/api/v1/executions/running/cancel"), 405)

    def test_foreign_page_is_403(self, server: MountedApp) -> None:
        """A page of another site cannot cancel."""
        assert_problem(cancel(server, "running", headers={"Origin": "https://evil.example"}), 403)
        assert server.headway.get_execution("running").phase is Phase.RUNNING


class TestAuthorization:
    def test_authorize_decides_before_the_body_is_read(self) -> None:
        """`authorize` gets CANCEL and the id, before the body is read."""
        calls = []

        def rule(who: Identity, action: Action, execution_id: str | None) -> bool:
            calls.append((action, execution_id))
            return action is not Action.CANCEL

        with mounted_app(authorize=rule) as server:
            fill(server)
            assert_problem(
                cancel(server, "running", data=b"not json"),
                403,
                "Not allowed to cancel execution 'running'",
            )
        assert calls == [(Action.CANCEL, "running")]

    def test_cancel_needs_a_token(self) -> None:
        """With tokens configured, a cancel needs one; a stream's ticket is not enough."""
        with mounted_app(tokens="secret") as server:
            fill(server)
            bearer = {"Authorization": "Bearer secret"}
            ticket = server.client.post("/api/v1/tickets", headers=bearer).get_json()["ticket"]
            assert_problem(cancel(server, "running"), 401)
            assert_problem(cancel(server, "running", query_string={"ticket": ticket}), 401)
            assert cancel(server, "running", headers=bearer).status_code == 202


class TestFromPython:
    @pytest.fixture
    def app(self, server: MountedApp) -> Celery:
        """An app with `headway.install`, whose store is the server's."""
        headway.install(server.celery, store=server.store)
        return server.celery

    def test_cancel_does_what_the_api_does(
        self, app: Celery, server: MountedApp, workers: Workers
    ) -> None:
        """`headway.cancel` does what the API does, and returns the execution."""
        execution = headway.cancel(app, "queued")
        assert (execution.status, execution.phase) == (Status.PENDING, Phase.CANCELLING)
        headway.cancel(app, "running", terminate=True)
        assert workers.received() == [("queued", False), ("running", True)]

    def test_each_refusal_raises_its_error(self, app: Celery, server: MountedApp) -> None:
        """Each refusal is an error of its own."""
        with pytest.raises(ExecutionNotFound):
            headway.cancel(app, "unknown")
        with pytest.raises(ExecutionConflict, match="already completed"):
            headway.cancel(app, "done")
        server.store.away = True
        with pytest.raises(Unavailable):
            headway.cancel(app, "running")

    def test_app_without_result_backend_is_a_configuration_error(self) -> None:
        """Without a shared result backend, the error names the setting."""
        with pytest.raises(ConfigurationError, match="result_backend"):
            headway.cancel(Celery("none", broker="memory://", set_as_current=False), "x")
