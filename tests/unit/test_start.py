"""Starting work over HTTP, over the fakes: who may, what is published, and what is known of it
afterwards.
"""

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
    """What lies in the broker's queue, taken out: task, args and kwargs of each message."""
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
    """The broker in memory is the whole process's: what other tests published lies there too, in
    whatever form.
    """
    with (
        server.celery.connection_for_read() as connection,
        connection.SimpleQueue("celery") as queue,
    ):
        queue.clear()


class TestStarted:
    def test_the_answer(self, server: MountedApp) -> None:
        """202 with the id, where to look, and the word pending."""
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

    def test_it_is_known_at_once(self, server: MountedApp) -> None:
        """The next GET of the answered address knows it: pending, of this task, with no progress."""
        where = start(server, "tasks.add", 1).headers["Location"]
        shown = server.client.get(where).get_json()
        assert (shown["status"], shown["phase"], shown["task"]) == (
            "pending",
            "queued",
            "tasks.add",
        )
        assert server.client.get(f"{where}/progress").status_code == 204

    def test_it_is_published(self, server: MountedApp) -> None:
        """The message that reaches the broker has this id, task, args and kwargs."""
        execution_id = start(server, "tasks.add", 1, wide=True).get_json()["execution_id"]
        assert messages(server) == [(execution_id, "tasks.add", ([1], {"wide": True}))]

    def test_it_is_registered_before_it_is_published(self, server: MountedApp) -> None:
        """No worker can be faster than the registry."""
        known: list[bool] = []

        def look(execution_id: str = "", **_: Any) -> None:
            known.append(server.store.read([execution_id])[0].record is not None)

        with mock.patch.object(
            type(server.celery), "send_task", lambda _, *args, task_id, **kw: look(task_id)
        ):
            start(server, "elsewhere.only")
        assert known == [True]

    def test_a_task_that_only_the_worker_knows(self, server: MountedApp) -> None:
        """A name on the list that isn't registered in this process is sent as it is."""
        execution_id = start(server, "elsewhere.only", 1, 2, 3, any="thing").get_json()[
            "execution_id"
        ]
        assert messages(server) == [(execution_id, "elsewhere.only", ([1, 2, 3], {"any": "thing"}))]

    def test_args_and_kwargs_can_be_left_out(self, server: MountedApp) -> None:
        """A body with the task alone starts it with nothing."""
        assert server.client.post(URL, json={"task": "tasks.loose"}).status_code == 202

    def test_below_another_root(self, server: MountedApp) -> None:
        """Behind a server that mounts the app below a path, the address leads there."""
        response = server.client.post(
            URL, json={"task": "tasks.loose"}, base_url="http://localhost/inner"
        )
        assert response.headers["Location"].startswith(f"/inner{URL}/")


class TestRefused:
    def test_a_task_that_isnt_on_the_list(self, server: MountedApp) -> None:
        """403, whether there is such a task or not: the answer doesn't tell."""
        for task in ("tasks.secret", "tasks.nothing", "celery.backend_cleanup"):
            assert_problem(start(server, task), 403, task)
        assert messages(server) == []

    def test_off_unless_tasks_are_named(self) -> None:
        """With no list nothing is started, and the answer says what to set."""
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
    def test_arguments_that_it_doesnt_take(
        self, server: MountedApp, task: str, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        """422 that names the task and what doesn't fit; nothing is published or registered."""
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
    def test_malformed_bodies(self, server: MountedApp, body: str) -> None:
        """Whatever isn't an order is a 422 that says so, never a 500."""
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
    def test_only_json(self, server: MountedApp, content_type: str | None) -> None:
        """What a form of a foreign page can send isn't taken: 415."""
        assert_problem(
            server.client.post(URL, data='{"task": "tasks.loose"}', content_type=content_type), 415
        )

    def test_too_large(self) -> None:
        """A body over the limit is a 413."""
        with mounted_app(celery=celery_app(), startable_tasks=STARTABLE, max_body=100) as server:
            assert start(server, "tasks.loose").status_code == 202
            assert_problem(start(server, "tasks.loose", "x" * 100), 413, "100")

    @pytest.mark.parametrize(
        ("word", "length"),
        [
            ("chunked", ""),
            ("Chunked", ""),
            ("gzip, CHUNKED", ""),
            ("chunked", "2"),
            ("Chunked", "2"),
            (None, ""),
        ],
    )
    def test_no_length(self, server: MountedApp, word: str | None, length: str) -> None:
        """A body whose length nobody said, or said beside an encoding that overrules it, isn't
        read.
        """
        sent = BytesIO(b"x" * 1000)
        environ = {"wsgi.input_terminated": True, "CONTENT_LENGTH": length, "wsgi.input": sent}
        encoding = {} if word is None else {"HTTP_TRANSFER_ENCODING": word}
        response = server.client.post(
            URL, content_type="application/json", environ_overrides=environ | encoding
        )
        assert_problem(response, 411 if word else 422)
        assert sent.tell() == 0


class TestAway:
    def test_the_registry(self, server: MountedApp) -> None:
        """Where the id couldn't be found afterwards, nothing is published: 503."""
        server.store.away = True
        response = start(server, "tasks.add", 1)
        assert_problem(response, 503)
        assert response.headers["Retry-After"]
        assert messages(server) == []

    def test_the_backend_behind_the_registry(self) -> None:
        """Publishing wants nothing of the result backend: one that goes away right after it was
        told is no hindrance.

        Celery alone would subscribe to the result and try twenty times; the worker is told of
        ``ignore_result`` as ever.
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

    def test_the_broker(self, server: MountedApp) -> None:
        """503 without the driver's text, and the registered id doesn't stay queued for ever."""
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
        [(EncodeError("Decimal"), 422), (RuntimeError("a fault"), 500), (OSError("x"), 503)],
    )
    def test_whatever_went_wrong(self, server: MountedApp, failure: Exception, status: int) -> None:
        """However publishing fails, the registered id doesn't stay queued for ever."""
        with (
            mock.patch.object(server.store, "register", wraps=server.store.register) as spy,
            broker_away(failure),
        ):
            assert_problem(start(server, "tasks.add", 1), status)
        execution_id = spy.call_args.args[0][0].task_id
        assert server.client.get(f"{URL}/{execution_id}").get_json()["status"] == "failed"


class Died(BaseException):
    """Stands for the end of the process."""


def die() -> None:
    raise Died


def before(what: str, act: Callable[[], None]) -> Any:
    """Have something happen right before the registry, or the broker, is told."""
    owner: type = {"register": MemoryStore, "send": TaskStarter}[what]
    name = {"register": "register", "send": "_send"}[what]
    real = getattr(owner, name)

    def delayed(*args: Any) -> None:
        with mock.patch.object(owner, name, real):
            act()
            real(*args)

    return mock.patch.object(owner, name, delayed)


def in_step(store: Store, method: str, calls: int) -> Any:
    """Let none of ten threads pass its call of a method before all have made theirs, for so many
    calls in all.
    """
    together, count, real = threading.Barrier(10), itertools.count(), getattr(store, method)

    def stepping(*args: Any, **kwargs: Any) -> Any:
        number, answer = next(count), real(*args, **kwargs)
        if number < calls:
            together.wait(60)
        return answer

    return mock.patch.object(store, method, stepping)


def broker_away(failure: Exception | None = None) -> Any:
    failure = failure or OperationalError("redis://user:password@host refused")
    return mock.patch("kombu.messaging.Producer.publish", side_effect=failure)


class TestIdempotency:
    def test_a_repeated_call_returns_the_first_execution(self, server: MountedApp) -> None:
        """The same key and order: one message, one id, and the status that it has by now."""
        first = start(server, "tasks.add", 1, key="k").get_json()
        assert start(server, "tasks.add", 1, key="k").get_json() == first
        assert len(messages(server)) == 1
        server.begin(first["execution_id"])
        again = start(server, "tasks.add", 1, key="k")
        assert again.status_code == 202
        assert again.get_json() == {**first, "status": "running"}

    def test_the_same_order_in_other_words(self, server: MountedApp) -> None:
        """Spaces and the order of keys don't make another order."""
        bodies = [
            '{"task":"tasks.add","kwargs":{"x":1,"y":2}}',
            '{ "kwargs": {"y": 2, "x": 1}, "args": [], "task": "tasks.add" }',
        ]
        answers = [
            server.client.post(
                URL, data=body, content_type="application/json", headers={"Idempotency-Key": "k"}
            ).get_json()
            for body in bodies
        ]
        assert answers[0] == answers[1]

    @pytest.mark.parametrize(
        "other", [("tasks.add", 2), ("tasks.loose", 1), ("tasks.add", 1.5), ("tasks.add", "1")]
    )
    def test_another_order_under_the_same_key(
        self, server: MountedApp, other: tuple[Any, ...]
    ) -> None:
        """The same key for something else is a mistake: 422."""
        start(server, "tasks.add", 1, key="k")
        assert_problem(start(server, *other, key="k"), 422, "Idempotency-Key")
        assert len(messages(server)) == 1

    def test_other_keys_and_none(self, server: MountedApp) -> None:
        """Another key is another execution, and so is every call without one."""
        ids = {
            start(server, "tasks.add", 1, key=key).get_json()["execution_id"]
            for key in ("k", "K", None, None)
        }
        assert len(ids) == 4

    def test_a_key_belongs_to_its_caller(self) -> None:
        """Two callers may think of the same key, and neither learns the other's id."""
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

    def test_a_key_of_nobody(self) -> None:
        """Callers whom the app's own rule lets in without a token can't be told apart, so no key is
        theirs: 422.
        """
        with mounted_app(
            celery=celery_app(), startable_tasks=STARTABLE, authorize=lambda *_: True
        ) as server:
            assert_problem(start(server, "tasks.loose", key="k"), 422, "Idempotency-Key", "token")
            assert messages(server) == []
            assert start(server, "tasks.loose").status_code == 202

    def test_a_found_execution_that_may_not_be_read(self) -> None:
        """What a key finds is shown to those who may read it: 403 for others, though they may
        start.
        """
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
    def test_a_malformed_key(self, server: MountedApp, key: str) -> None:
        """A key that can't be one is a 422."""
        assert_problem(start(server, "tasks.add", 1, key=key), 422, "Idempotency-Key")

    def test_a_key_is_remembered_for_a_day(self, server: MountedApp) -> None:
        """After its lifetime the same key starts anew."""
        first = start(server, "tasks.add", 1, key="k").get_json()
        server.clock.tick(86399)
        assert start(server, "tasks.add", 1, key="k").get_json() == first
        server.clock.tick(1)
        assert start(server, "tasks.add", 1, key="k").get_json() != first

    def test_a_try_that_failed_can_be_repeated(self, server: MountedApp) -> None:
        """A key whose task never got out starts it at the next call, once."""
        with broker_away():
            assert_problem(start(server, "tasks.add", 1, key="k"), 503)
            assert_problem(start(server, "tasks.add", 1, key="k"), 503)
        first = start(server, "tasks.add", 1, key="k").get_json()
        assert first["status"] == "pending"
        assert start(server, "tasks.add", 1, key="k").get_json() == first
        assert [task for _, task, _ in messages(server)] == ["tasks.add"]

    def test_failures_leave_one_claim(self, server: MountedApp) -> None:
        """A broker that is away for long doesn't grow a row of claims."""
        with broker_away():
            for _ in range(5):
                assert_problem(start(server, "tasks.add", 1, key="k"), 503)
        assert len(server.store._claims) == 1

    @pytest.mark.parametrize("when", ["register", "send"])
    def test_one_that_is_being_published_now(self, server: MountedApp, when: str) -> None:
        """A second call while the first one is on its way, however slow, finds its id: pending, and
        publishes nothing.
        """
        inner: list[TestResponse] = []

        def slow() -> None:
            server.clock.tick(60)
            inner.append(start(server, "tasks.add", 1, key="k"))

        with before(when, slow):
            first = start(server, "tasks.add", 1, key="k")
        assert [each.get_json() for each in inner] == [first.get_json()]
        assert len(messages(server)) == 1

    @pytest.mark.parametrize("when", ["register", "send"])
    def test_one_that_died(self, server: MountedApp, when: str) -> None:
        """What a call left behind that died before it published is published under its id, and by
        one of ten repeats at once.
        """
        with before(when, die), pytest.raises(Died):
            start(server, "tasks.add", 1, key="k")
        soon = start(server, "tasks.add", 1, key="k").get_json()
        assert (soon["status"], messages(server)) == ("pending", [])
        server.clock.tick(81)
        with (
            ThreadPoolExecutor(10) as pool,
            in_step(server.store, "read", 10),
            in_step(server.store, "claim_key", 20),
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

    def test_one_that_got_through_and_could_not_say_so(self, server: MountedApp) -> None:
        """The registry went away behind the message: what has begun by the time of a repeat isn't
        published again.
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

    def test_one_that_has_expired(self, server: MountedApp) -> None:
        """The first execution is answered although its result isn't kept any more."""
        first = start(server, "tasks.add", 1, key="k").get_json()
        server.begin(first["execution_id"])
        server.end(first["execution_id"])
        server.store._results.clear()
        assert_problem(server.client.get(first["status_url"]), 410)
        again = start(server, "tasks.add", 1, key="k")
        assert (again.status_code, again.get_json()) == (202, {**first, "status": "completed"})

    def test_the_registry_is_away(self, server: MountedApp) -> None:
        """Without the registry no key can be claimed: 503, nothing published."""
        with mock.patch.object(server.store, "claim_key", side_effect=Unavailable()):
            assert_problem(start(server, "tasks.add", 1, key="k"), 503)
        assert messages(server) == []


def test_who_may_is_asked_first() -> None:
    """A stranger's body isn't read: no token is 401, whatever was sent."""
    with mounted_app(
        celery=celery_app(), startable_tasks=STARTABLE, tokens="a-token", max_body=10
    ) as server:
        for body in ("{", "x" * 100, json.dumps({"task": "tasks.secret"})):
            assert_problem(server.client.post(URL, data=body, content_type="application/json"), 401)
