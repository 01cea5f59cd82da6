"""Asking for an end, over HTTP and from Python, over the fakes: who may, what is answered, and what
the workers are told.
"""

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
    """An execution in every state."""
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
    """A worker's ear: what it is told to revoke, as kombu's own mailbox understands the message."""

    def __init__(self, app: Celery) -> None:
        self._connection = app.connection_for_read()
        self._told: list[dict[str, Any]] = []
        handlers = {"revoke": lambda state, **arguments: self._told.append(arguments)}
        box = app.control.mailbox(self._connection)
        node = box.Node(
            "w@lab", state=None, handlers=handlers, channel=self._connection.default_channel
        )
        self._consumer = node.listen(callback=node.handle_message)

    def told(self) -> list[tuple[str, bool]]:
        """Which tasks, and whether to terminate."""
        try:
            while True:
                self._connection.drain_events(timeout=0.01)
        except TimeoutError:  # socket.timeout: there is no more
            return [(each["task_id"], each["terminate"]) for each in self._told]

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


class TestAsked:
    def test_what_waits_for_a_retry(self, server: MountedApp) -> None:
        """202 with the execution, which is cancelled already: nothing of it runs. By force as well;
        and then it is too late.
        """
        for body in (None, {"terminate": True}):
            response = cancel(server, "retrying", body)
            assert (response.status_code, response.get_json()["status"]) == (
                (202, "cancelled") if body is None else (409, 409)
            )
            assert "Retry-After" not in response.headers

    @pytest.mark.parametrize(
        ("execution_id", "status"), [("queued", "pending"), ("running", "running")]
    )
    def test_the_answer(self, server: MountedApp, execution_id: str, status: str) -> None:
        """202 with the execution, which is cancelling: the same as the next GET says."""
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

    def test_the_run_is_told(self, server: MountedApp) -> None:
        """The next attempt, and the next report of an open one, hear of it."""
        cancel(server, "queued")
        cancel(server, "running")
        assert all(
            each.record and each.record.cancel_requested_at
            for each in server.store.read(["queued", "running"])
        )

    def test_asked_twice(self, server: MountedApp) -> None:
        """Asking again is no error, and changes nothing."""
        first = cancel(server, "running")
        server.clock.tick(5)
        again = cancel(server, "running")
        assert (again.status_code, again.get_json()) == (202, first.get_json())

    def test_viewers_are_told(self, server: MountedApp) -> None:
        """Whoever watches sees it at once."""
        seen: list[str] = []
        server.store.subscribe(lambda task_id, meta: seen.append(task_id))
        cancel(server, "running")
        assert seen == ["running"]


class TestWorkers:
    """What Celery's workers are told beside the wish in the store."""

    @pytest.mark.parametrize(
        ("execution_id", "body", "told"),
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
    def test_what_is_broadcast(
        self, server: MountedApp, workers: Workers, execution_id: str, body: Any, told: Any
    ) -> None:
        """What waits is revoked, what runs only by force, and nothing else at all."""
        cancel(server, execution_id, body)
        assert workers.told() == told

    @pytest.fixture
    def cut_off(self) -> Iterator[MountedApp]:
        with socket.socket() as nobody:  # bound and not listening: refused at once
            nobody.bind(("127.0.0.1", 0))
            broker = f"redis://127.0.0.1:{nobody.getsockname()[1]}/0"
            with mounted_app(
                celery=Celery("cut", broker=broker, set_as_current=False), broker_timeout=0.5
            ) as made:
                fill(made)
                yield made

    def test_a_broker_that_is_away(
        self, cut_off: MountedApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The wish is noted all the same, and whoever gets the task will know: 202, in bounded
        time.
        """
        with caplog.at_level(logging.WARNING):
            assert cancel(cut_off, "queued").status_code == 202
        assert "weren't told" in caplog.text

    def test_nothing_to_terminate(self, cut_off: MountedApp) -> None:
        """Force isn't needed where nothing runs: what waits for a retry is cancelled without the
        broker.
        """
        response = cancel(cut_off, "retrying", {"terminate": True})
        assert (response.status_code, response.get_json()["status"]) == (202, "cancelled")

    def test_nobody_to_terminate(self, cut_off: MountedApp) -> None:
        """Force that reaches nobody is a 503; the wish stands."""
        response = cancel(cut_off, "running", {"terminate": True})
        assert_problem(response, 503, "broker")
        assert cut_off.headway.get_execution("running").phase is Phase.CANCELLING


class TestRefused:
    def test_unknown(self, server: MountedApp) -> None:
        """404, as for reading it."""
        assert_problem(cancel(server, "nobody"), 404, "Execution 'nobody' not found")

    def test_obeyed_at_once(self, server: MountedApp, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run that ends by this very wish before it is read again was cancelled by it: no
        conflict.
        """
        ask = server.store.request_cancel

        def obeyed(execution_id: str, at: datetime) -> Snapshot | None:
            ask(execution_id, at)
            server.end(execution_id, "REVOKED", None)
            return server.store.read([execution_id])[0]

        with monkeypatch.context() as patched:
            patched.setattr(server.store, "request_cancel", obeyed)
            answer = cancel(server, "running")
        assert (answer.status_code, answer.get_json()["status"]) == (202, "cancelled")
        assert "Retry-After" not in answer.headers  # it has ended: there's nothing to come back for
        server.clock.tick(1)
        assert_problem(cancel(server, "running"), 409, "is cancelled already")

    @pytest.mark.parametrize(
        ("execution_id", "word"), [("done", "completed"), ("failed", "failed")]
    )
    def test_ended(self, server: MountedApp, execution_id: str, word: str) -> None:
        """409 for what has ended: it stays what it is."""
        assert_problem(cancel(server, execution_id), 409, f"is {word} already")
        assert server.headway.get_execution(execution_id).status.value == word

    @pytest.mark.parametrize("published", [True, False])
    def test_ended_by_a_worker_without_headway(
        self, server: MountedApp, workers: Workers, published: bool
    ) -> None:
        """An end that only the result backend knows is an end: 409 at the first call, and nothing
        waits for the id's next run.
        """
        if published:
            server.publish("theirs")
        server.store.put_result("theirs", {"task_id": "theirs", "status": "SUCCESS", "result": 1})
        assert_problem(cancel(server, "theirs", {"terminate": True}), 409, "is completed already")
        record = server.store.read(["theirs"])[0].record
        assert record is None or record.cancel_requested_at is None
        assert workers.told() == []

    def test_the_store_is_away(self, server: MountedApp, workers: Workers) -> None:
        """503: nothing was asked, and nobody was told."""
        server.store.away = True
        response = cancel(server, "running", {"terminate": True})
        server.store.away = False
        assert response.status_code == 503
        assert server.headway.get_execution("running").phase is Phase.RUNNING
        assert workers.told() == []

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            ({"terminate": 1}, "true or false"),
            ({"terminate": "yes"}, "true or false"),
            ({"force": True}, "'force'"),
            ([], "JSON object"),
        ],
    )
    def test_a_wrong_body(self, server: MountedApp, body: Any, sentence: str) -> None:
        """422 says what is wrong, and nothing is asked."""
        assert_problem(cancel(server, "running", body), 422, sentence)
        assert server.headway.get_execution("running").phase is Phase.RUNNING

    def test_an_empty_body_is_none(self, server: MountedApp) -> None:
        """`{}`, no body, and an empty one say the same."""
        for sent in (
            {"json": {}},
            {},
            {"data": b""},
            {"data": b"", "content_type": "application/json"},
        ):
            assert (
                server.client.post("/api/v1/executions/running/cancel", **sent).status_code == 202
            )

    def test_get_is_no_cancel(self, server: MountedApp) -> None:
        """A link can't cancel."""
        assert_problem(server.client.get("/api/v1/executions/running/cancel"), 405)

    def test_a_foreign_page(self, server: MountedApp) -> None:
        """Another site's page can't cancel."""
        assert_problem(cancel(server, "running", headers={"Origin": "https://evil.example"}), 403)
        assert server.headway.get_execution("running").phase is Phase.RUNNING


class TestWhoMay:
    def test_the_apps_own_rule(self) -> None:
        """`authorize` is asked for CANCEL and this execution, before the body is read."""
        asked = []

        def rule(who: Identity, action: Action, execution_id: str | None) -> bool:
            asked.append((action, execution_id))
            return action is not Action.CANCEL

        with mounted_app(authorize=rule) as server:
            fill(server)
            assert_problem(
                cancel(server, "running", data=b"not json"),
                403,
                "Not allowed to cancel execution 'running'",
            )
        assert asked == [(Action.CANCEL, "running")]

    def test_a_token(self) -> None:
        """Where tokens are set, this wants one; a stream's ticket won't do."""
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
        """An installed app whose store is the server's."""
        headway.install(server.celery, store=server.store)
        return server.celery

    def test_asked(self, app: Celery, server: MountedApp, workers: Workers) -> None:
        """`headway.cancel` does what the API does, and returns the execution."""
        execution = headway.cancel(app, "queued")
        assert (execution.status, execution.phase) == (Status.PENDING, Phase.CANCELLING)
        headway.cancel(app, "running", terminate=True)
        assert workers.told() == [("queued", False), ("running", True)]

    def test_refused(self, app: Celery, server: MountedApp) -> None:
        """Each refusal is an error of its own."""
        with pytest.raises(ExecutionNotFound):
            headway.cancel(app, "nobody")
        with pytest.raises(ExecutionConflict, match="completed already"):
            headway.cancel(app, "done")
        server.store.away = True
        with pytest.raises(Unavailable):
            headway.cancel(app, "running")

    def test_an_app_without_results(self) -> None:
        """Where no other process could read it, the error says what to set."""
        with pytest.raises(ConfigurationError, match="result_backend"):
            headway.cancel(Celery("none", broker="memory://", set_as_current=False), "x")
