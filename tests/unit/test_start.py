"""POST /executions, over the fakes: permissions, the message, and the registered execution."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any
from unittest import mock

import pytest
from celery import Celery
from kombu.exceptions import EncodeError, OperationalError
from werkzeug.test import TestResponse

from headway.errors import Unavailable
from headway.server.api.start import TaskStarter
from headway.server.auth import Action, Identity
from headway.stores.base import Store
from headway.stores.memory import MemoryStore
from tests.support.flask_app import MountedApp, mounted_app
from tests.unit.test_problems import assert_problem

URL = "/api/v1/executions"


def celery_app() -> Celery:
    app = Celery("starting", broker="memory://", set_as_current=False)

    @app.task(shared=False, name="tasks.add")
    def add(x: int, y: int = 1, *, wide: bool = False) -> int:
        return x + y

    @app.task(shared=False, name="tasks.bound", bind=True)
    def bound(self: Any, path: str) -> None: ...

    @app.task(shared=False, name="tasks.loose", typing=False)
    def loose() -> None: ...

    @app.task(shared=False, name="tasks.secret")
    def secret() -> None: ...

    return app


STARTABLE = ("tasks.add", "tasks.bound", "tasks.loose", "elsewhere.only")


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app(celery=celery_app(), startable_tasks=STARTABLE) as made:
        yield made


def start(
    server: MountedApp,
    task: str = "tasks.add",
    *args: Any,
    key: str | None = None,
    headers: Any = (),
    **kwargs: Any,
) -> TestResponse:
    sent = dict(headers) | ({} if key is None else {"Idempotency-Key": key})
    return server.client.post(
        URL, json={"task": task, "args": list(args), "kwargs": kwargs}, headers=sent
    )


def messages(server: MountedApp) -> list[tuple[str, Any, Any]]:
    """Take all messages from the broker's queue: id, task, and arguments."""
    taken = []
    with (
        server.celery.connection_for_read() as connection,
        connection.SimpleQueue("celery") as queue,
    ):
        while queue.qsize():
            message = queue.get_nowait()
            args, kwargs, _ = message.payload
            taken.append((message.headers["id"], message.headers["task"], (args, kwargs)))
            message.ack()
    return taken


@pytest.fixture(autouse=True)
def empty_queue(server: MountedApp) -> None:
    """Remove what other tests have published: the in-memory broker is shared by the process."""
    with (
        server.celery.connection_for_read() as connection,
        connection.SimpleQueue("celery") as queue,
    ):
        queue.clear()


class TestStarted:
    def test_response_has_id_url_and_pending(self, server: MountedApp) -> None:
        """202 with the id, the status URL and ``pending``."""
        response = start(server, "tasks.add", 1, y=2)
        assert response.status_code == 202
        body = response.get_json()
        where = f"{URL}/{body['execution_id']}"
        assert body == {
            "execution_id": body["execution_id"],
            "status": "pending",
            "status_url": where,
        }
        assert response.headers["Location"] == where

    def test_started_execution_is_known_at_once(self, server: MountedApp) -> None:
        """The next GET of the status URL finds it: pending, of this task, without progress."""
        where = start(server, "tasks.add", 1).headers["Location"]
        shown = server.client.get(where).get_json()
        assert (shown["status"], shown["phase"], shown["task"]) == (
            "pending",
            "queued",
            "tasks.add",
        )
        assert server.client.get(f"{where}/progress").status_code == 204

    def test_message_has_id_task_and_arguments(self, server: MountedApp) -> None:
        """The published message has the id, the task, and its arguments."""
        execution_id = start(server, "tasks.add", 1, wide=True).get_json()["execution_id"]
        assert messages(server) == [(execution_id, "tasks.add", ([1], {"wide": True}))]

    def test_task_is_registered_before_it_is_published(self, server: MountedApp) -> None:
        """No worker can run a task that is not registered yet."""
        known: list[bool] = []

        def check_registered(execution_id: str = "", **_: Any) -> None:
            known.append(server.store.read([execution_id])[0].record is not None)

        with mock.patch.object(
            type(server.celery),
            "send_task",
            lambda _, *args, task_id, **kw: check_registered(task_id),
        ):
            start(server, "elsewhere.only")
        assert known == [True]

    def test_task_unknown_to_this_process_is_sent_by_name(self, server: MountedApp) -> None:
        """A startable task that this process does not know is sent by its name."""
        execution_id = start(server, "elsewhere.only", 1, 2, 3, any="thing").get_json()[
            "execution_id"
        ]
        assert messages(server) == [(execution_id, "elsewhere.only", ([1, 2, 3], {"any": "thing"}))]

    def test_arguments_are_optional(self, server: MountedApp) -> None:
        """A body with only the task starts it without arguments."""
        assert server.client.post(URL, json={"task": "tasks.loose"}).status_code == 202

    def test_location_includes_the_root_path(self, server: MountedApp) -> None:
        """If the server mounts the app below a path, the URL contains that path."""
        response = server.client.post(
            URL, json={"task": "tasks.loose"}, base_url="http://localhost/inner"
        )
        assert response.headers["Location"].startswith(f"/inner{URL}/")


class TestRefused:
    def test_task_that_is_not_startable_is_403(self, server: MountedApp) -> None:
        """403 whether the task exists or not: the response does not reveal it."""
        for task in ("tasks.secret", "tasks.nothing", "celery.backend_cleanup"):
            assert_problem(start(server, task), 403, task)
        assert messages(server) == []

    def test_without_startable_tasks_start_is_403(self) -> None:
        """Without startable tasks nothing is started, and the error names the setting."""
        with mounted_app(celery=celery_app()) as server:
            assert_problem(start(server, "tasks.add", 1), 403, "startable")

    @pytest.mark.parametrize(
        ("task", "args", "kwargs"),
        [
            ("tasks.add", [], {}),
            ("tasks.add", [1, 2, 3], {}),
            ("tasks.add", [1], {"x": 1}),
            ("tasks.add", [1], {"z": 1}),
            ("tasks.bound", [], {}),
            ("tasks.bound", ["a", "b"], {}),
        ],
    )
    def test_wrong_arguments_are_422(
        self, server: MountedApp, task: str, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        """422 names the task and the wrong argument; nothing is published."""
        assert_problem(
            server.client.post(URL, json={"task": task, "args": args, "kwargs": kwargs}), 422, task
        )
        assert messages(server) == []

    @pytest.mark.parametrize(
        "body",
        [
            "",
            "{",
            "[]",
            "null",
            '"tasks.add"',
            "{}",
            '{"task": 5}',
            '{"task": ""}',
            '{"task": "tasks.add", "args": {}}',
            '{"task": "tasks.add", "args": "ab"}',
            '{"task": "tasks.add", "kwargs": []}',
            '{"task": "tasks.add", "kwargs": null}',
            '{"task": "tasks.add", "args": [NaN]}',
            '{"task": "tasks.add", "args": [Infinity]}',
            '{"task": "tasks.loose", "queue": "x"}',
            '{"task": "tasks.add", "args": ["\\ud800"]}',
            "\xff",
            "[" * 100000,
            "9" * 5000,
        ],
    )
    def test_malformed_body_is_422(self, server: MountedApp, body: str) -> None:
        """A malformed body is a 422 with the reason, never a 500."""
        response = server.client.post(
            URL, data=body.encode("latin-1"), content_type="application/json"
        )
        assert_problem(response, 422)

    @pytest.mark.parametrize(
        "content_type",
        [
            None,
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ],
    )
    def test_other_content_type_is_415(self, server: MountedApp, content_type: str | None) -> None:
        """What a foreign page's form can send is a 415."""
        assert_problem(
            server.client.post(URL, data='{"task": "tasks.loose"}', content_type=content_type), 415
        )

    def test_body_over_the_limit_is_413(self) -> None:
        """A body over the limit is a 413."""
        with mounted_app(celery=celery_app(), startable_tasks=STARTABLE, max_body=100) as server:
            assert start(server, "tasks.loose").status_code == 202
            assert_problem(start(server, "tasks.loose", "x" * 100), 413, "100")

    @pytest.mark.parametrize(
        ("encoding", "length"),
        [
            ("chunked", ""),
            ("Chunked", ""),
            ("gzip, CHUNKED", ""),
            ("chunked", "2"),
            ("Chunked", "2"),
            (None, ""),
        ],
    )
    def test_body_without_valid_length_is_not_read(
        self, server: MountedApp, encoding: str | None, length: str
    ) -> None:
        """A body without a length, or with an encoding that overrides it, is not read."""
        sent = BytesIO(b"x" * 1000)
        environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": length, "wsgi.input": sent}
        overrides = {} if encoding is None else {"HTTP_TRANSFER_ENCODING": encoding}
        response = server.client.post(
            URL, content_type="application/json", environ_overrides=environ | overrides
        )
        assert_problem(response, 411 if encoding else 422)
        assert sent.tell() == 0


class TestUnavailable:
    def test_registry_outage_is_503_and_publishes_nothing(self, server: MountedApp) -> None:
        """If the id could not be found afterwards, nothing is published: 503."""
        server.store.away = True
        response = start(server, "tasks.add", 1)
        assert_problem(response, 503)
        assert response.headers["Retry-After"]
        assert messages(server) == []

    def test_publishing_needs_no_result_backend(self) -> None:
        """Publishing does not subscribe to the result, as Celery would
        (celery-facts#publishing-subscribes). The worker still gets the task's own
        ``ignore_result``.
        """
        celery = celery_app()
        celery.conf.result_backend = "redis://127.0.0.1:1/0"
        celery.tasks["tasks.loose"].ignore_result = True
        with (
            mounted_app(celery=celery, startable_tasks=STARTABLE) as server,
            celery.connection_for_read() as connection,
        ):
            for task, ignored in (
                ("tasks.add", False),
                ("tasks.loose", True),
                ("elsewhere.only", None),
            ):
                assert start(server, task, *([1] if task == "tasks.add" else [])).status_code == 202
                with connection.SimpleQueue("celery") as queue:
                    message = queue.get_nowait()
                    message.ack()
                assert (message.headers["task"], message.headers["ignore_result"]) == (
                    task,
                    ignored,
                )

    def test_broker_outage_is_503_and_ends_the_execution(self, server: MountedApp) -> None:
        """503 without the driver's message; the registered id does not stay queued."""
        registered: list[str] = []
        register = server.store.register

        def remember(registrations: Any) -> None:
            registered.extend(each.task_id for each in registrations)
            register(registrations)

        with mock.patch.object(server.store, "register", remember), broker_away():
            response = start(server, "tasks.add", 1)
        assert_problem(response, 503, "broker")
        assert b"password" not in response.data
        assert server.client.get(f"{URL}/{registered[0]}").get_json()["status"] == "failed"

    @pytest.mark.parametrize(
        ("failure", "status"),
        [(EncodeError("Decimal"), 422), (RuntimeError("unexpected"), 500), (OSError("x"), 503)],
    )
    def test_failed_publication_ends_the_execution(
        self, server: MountedApp, failure: Exception, status: int
    ) -> None:
        """However publishing fails, the registered id does not stay queued."""
        with (
            mock.patch.object(server.store, "register", wraps=server.store.register) as spy,
            broker_away(failure),
        ):
            assert_problem(start(server, "tasks.add", 1), status)
        execution_id = spy.call_args.args[0][0].task_id
        assert server.client.get(f"{URL}/{execution_id}").get_json()["status"] == "failed"


class ProcessDied(BaseException):
    """Stands for the death of the process."""


def die() -> None:
    raise ProcessDied


def call_before(what: str, act: Callable[[], None]) -> Any:
    """Call ``act`` right before the registration or the publication."""
    owner: type = {"register": MemoryStore, "send": TaskStarter}[what]
    name = {"register": "register", "send": "_send"}[what]
    real = getattr(owner, name)

    def delayed(*args: Any) -> None:
        with mock.patch.object(owner, name, real):
            act()
            real(*args)

    return mock.patch.object(owner, name, delayed)


def synchronized(store: Store, method: str, calls: int) -> Any:
    """Ten threads call a method in step: none returns before all have called it."""
    together, count, real = threading.Barrier(10), itertools.count(), getattr(store, method)

    def stepping(*args: Any, **kwargs: Any) -> Any:
        number, result = next(count), real(*args, **kwargs)
        if number < calls:
            together.wait(60)
        return result

    return mock.patch.object(store, method, stepping)


def broker_away(failure: Exception | None = None) -> Any:
    failure = failure or OperationalError("redis://user:password@host refused")
    return mock.patch("kombu.messaging.Producer.publish", side_effect=failure)


class TestIdempotency:
    def test_repeated_call_returns_the_first_execution(self, server: MountedApp) -> None:
        """The same key and body: one message, one id, and its current status."""
        first = start(server, "tasks.add", 1, key="k").get_json()
        assert start(server, "tasks.add", 1, key="k").get_json() == first
        assert len(messages(server)) == 1
        server.begin(first["execution_id"])
        again = start(server, "tasks.add", 1, key="k")
        assert again.status_code == 202
        assert again.get_json() == {**first, "status": "running"}

    def test_equivalent_json_is_the_same_request(self, server: MountedApp) -> None:
        """Spaces and the order of keys make no difference."""
        bodies = [
            '{"task":"tasks.add","kwargs":{"x":1,"y":2}}',
            '{ "kwargs": {"y": 2, "x": 1}, "args": [], "task": "tasks.add" }',
        ]
        responses = [
            server.client.post(
                URL, data=body, content_type="application/json", headers={"Idempotency-Key": "k"}
            ).get_json()
            for body in bodies
        ]
        assert responses[0] == responses[1]

    @pytest.mark.parametrize(
        "other", [("tasks.add", 2), ("tasks.loose", 1), ("tasks.add", 1.5), ("tasks.add", "1")]
    )
    def test_same_key_with_another_request_is_422(
        self, server: MountedApp, other: tuple[Any, ...]
    ) -> None:
        """The same key for another task or other arguments is a 422."""
        start(server, "tasks.add", 1, key="k")
        assert_problem(start(server, *other, key="k"), 422, "Idempotency-Key")
        assert len(messages(server)) == 1

    def test_other_key_or_no_key_starts_another_execution(self, server: MountedApp) -> None:
        """Another key starts another execution, and so does every call without a key."""
        ids = {
            start(server, "tasks.add", 1, key=key).get_json()["execution_id"]
            for key in ("k", "K", None, None)
        }
        assert len(ids) == 4

    def test_key_belongs_to_its_caller(self) -> None:
        """Two callers may use the same key; neither learns the other's id."""
        with mounted_app(
            celery=celery_app(), startable_tasks=STARTABLE, tokens=["one-token", "two-token"]
        ) as server:
            ids = {
                start(
                    server, "tasks.loose", key="k", headers={"Authorization": f"Bearer {token}"}
                ).get_json()["execution_id"]
                for token in ("one-token", "two-token")
            }
            assert len(ids) == 2

    def test_key_without_identity_is_422(self) -> None:
        """Callers without a token are not distinguishable, so they cannot use a key: 422."""
        with mounted_app(
            celery=celery_app(), startable_tasks=STARTABLE, authorize=lambda *_: True
        ) as server:
            assert_problem(start(server, "tasks.loose", key="k"), 422, "Idempotency-Key", "token")
            assert messages(server) == []
            assert start(server, "tasks.loose").status_code == 202

    def test_found_execution_needs_read_permission(self) -> None:
        """A key's execution is returned only to a caller that may read it: 403 for others."""
        readable: set[str | None] = set()

        def rule(_: Identity, action: Action, execution_id: str | None) -> bool:
            return action is Action.START or execution_id in readable

        with mounted_app(
            celery=celery_app(), startable_tasks=STARTABLE, tokens="a-token", authorize=rule
        ) as server:
            bearer = {"Authorization": "Bearer a-token"}
            first = start(server, "tasks.loose", key="k", headers=bearer).get_json()
            refused = start(server, "tasks.loose", key="k", headers=bearer)
            assert_problem(refused, 403, "Not allowed to read")
            readable.add(first["execution_id"])
            assert start(server, "tasks.loose", key="k", headers=bearer).get_json() == first
            assert len(messages(server)) == 1

    @pytest.mark.parametrize("key", ["", "x" * 256, "a\x7fb"])
    def test_malformed_key_is_422(self, server: MountedApp, key: str) -> None:
        """An invalid key is a 422."""
        assert_problem(start(server, "tasks.add", 1, key=key), 422, "Idempotency-Key")

    def test_key_expires_after_its_lifetime(self, server: MountedApp) -> None:
        """After its lifetime the same key starts a new execution."""
        first = start(server, "tasks.add", 1, key="k").get_json()
        server.clock.tick(86399)
        assert start(server, "tasks.add", 1, key="k").get_json() == first
        server.clock.tick(1)
        assert start(server, "tasks.add", 1, key="k").get_json() != first

    def test_call_after_failed_publication_starts_once(self, server: MountedApp) -> None:
        """If the publication failed, the next call with the key starts the task, once."""
        with broker_away():
            assert_problem(start(server, "tasks.add", 1, key="k"), 503)
            assert_problem(start(server, "tasks.add", 1, key="k"), 503)
        first = start(server, "tasks.add", 1, key="k").get_json()
        assert first["status"] == "pending"
        assert start(server, "tasks.add", 1, key="k").get_json() == first
        assert [task for _, task, _ in messages(server)] == ["tasks.add"]

    def test_repeated_failures_keep_one_claim(self, server: MountedApp) -> None:
        """Calls during a long broker outage do not accumulate claims."""
        with broker_away():
            for _ in range(5):
                assert_problem(start(server, "tasks.add", 1, key="k"), 503)
        assert len(server.store._claims) == 1

    @pytest.mark.parametrize("when", ["register", "send"])
    def test_concurrent_call_returns_the_pending_id(self, server: MountedApp, when: str) -> None:
        """A second call during the first one, however slow, only returns its id."""
        inner: list[TestResponse] = []

        def slow() -> None:
            server.clock.tick(60)
            inner.append(start(server, "tasks.add", 1, key="k"))

        with call_before(when, slow):
            first = start(server, "tasks.add", 1, key="k")
        assert [each.get_json() for each in inner] == [first.get_json()]
        assert len(messages(server)) == 1

    @pytest.mark.parametrize("when", ["register", "send"])
    def test_call_that_died_is_taken_over_once(self, server: MountedApp, when: str) -> None:
        """If a call died before its publication, one of ten later calls publishes its id."""
        with call_before(when, die), pytest.raises(ProcessDied):
            start(server, "tasks.add", 1, key="k")
        soon = start(server, "tasks.add", 1, key="k").get_json()
        assert (soon["status"], messages(server)) == ("pending", [])
        server.clock.tick(81)
        with (
            ThreadPoolExecutor(10) as pool,
            synchronized(server.store, "read", 10),
            synchronized(server.store, "claim_key", 20),
        ):
            late = [
                future.result().get_json()
                for future in [
                    pool.submit(start, server, "tasks.add", 1, key="k") for _ in range(10)
                ]
            ]
        assert late == [soon] * 10
        assert messages(server) == [(soon["execution_id"], "tasks.add", ([1], {}))]
        server.clock.tick(81)
        assert start(server, "tasks.add", 1, key="k").get_json() == soon
        assert messages(server) == []

    def test_published_execution_without_mark_is_not_repeated(self, server: MountedApp) -> None:
        """If the registry failed after the publication, an execution that has begun is not
        repeated.
        """

        def leave(*_: Any) -> None:
            server.store.away = True

        with mock.patch.object(
            server.headway.metrics.started, "labels", side_effect=lambda _: mock.Mock(inc=leave)
        ):
            first = start(server, "tasks.add", 1, key="k")
        assert first.status_code == 202
        server.store.away = False
        server.begin(first.get_json()["execution_id"])
        server.clock.tick(81)
        assert start(server, "tasks.add", 1, key="k").get_json() == {
            **first.get_json(),
            "status": "running",
        }
        assert len(messages(server)) == 1

    def test_expired_execution_is_still_returned(self, server: MountedApp) -> None:
        """The first execution is returned although its result has expired."""
        first = start(server, "tasks.add", 1, key="k").get_json()
        server.begin(first["execution_id"])
        server.end(first["execution_id"])
        server.store._results.clear()
        assert_problem(server.client.get(first["status_url"]), 410)
        again = start(server, "tasks.add", 1, key="k")
        assert (again.status_code, again.get_json()) == (202, {**first, "status": "completed"})

    def test_registry_outage_with_key_is_503(self, server: MountedApp) -> None:
        """Without the registry no key can be claimed: 503, and nothing is published."""
        with mock.patch.object(server.store, "claim_key", side_effect=Unavailable()):
            assert_problem(start(server, "tasks.add", 1, key="k"), 503)
        assert messages(server) == []


def test_authorization_precedes_the_body() -> None:
    """The body of an unauthorized request is not read: 401 for any body."""
    with mounted_app(
        celery=celery_app(), startable_tasks=STARTABLE, tokens="a-token", max_body=10
    ) as server:
        for body in ("{", "x" * 100, json.dumps({"task": "tasks.secret"})):
            assert_problem(server.client.post(URL, data=body, content_type="application/json"), 401)
