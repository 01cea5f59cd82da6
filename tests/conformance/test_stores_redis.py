"""Redis only: keys and their lifetimes, published messages, faults and the client."""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions
from celery import Celery
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import SoftTimeLimitExceeded

from headway.backends import store_for
from headway.core import states
from headway.core.registry import AttemptStart, Registration, StateWrite
from headway.errors import ConfigurationError, Unavailable
from headway.models import Progress, Query, Status
from headway.stores.base import REGISTRY_RETENTION
from headway.stores.redis import RedisStore
from headway.stores.redis_connection import (
    COMMAND_ERRORS,
    CONNECTION_ERRORS,
    TIMEOUT,
    connect,
    translate_errors,
)
from headway.stores.result_backend import ResultBackend, check_readable
from tests.support import stores
from tests.support.stores import DictBackend, StoreUnderTest, at, report
from tests.support.valkey import ValkeyServer
from tests.support.wait import until

#: Seconds: longer than any timeout of Headway, and much shorter than Celery's 120 s.
SOON = 60.0
#: Milliseconds: tolerance of lifetime checks, and a lifetime that a renewal must replace.
TOLERANCE = 600_000

KEY, HASH = b"celery-task-meta-a", b"hw:{celery-task-meta-a}"
HISTORY = HASH + b":history"


@pytest.fixture
def own(own_valkey: ValkeyServer, tmp_path: Path) -> Iterator[StoreUnderTest]:
    """Return a store on a server that only this test uses."""
    subject = stores.make("redis", tmp_path, own_valkey.url)
    yield subject
    subject.store.close()


@pytest.fixture
def default_timeout(own_valkey: ValkeyServer, tmp_path: Path) -> Iterator[StoreUnderTest]:
    """Return a store with the default timeout, which may be too short on a busy machine."""
    subject = stores.make("redis", tmp_path, own_valkey.url, timeout=TIMEOUT)
    yield subject
    subject.store.close()


def answers(subject: StoreUnderTest) -> bool:
    try:
        subject.store.ping()
    except Unavailable:
        return False
    return True


def client_of(subject: StoreUnderTest) -> Any:
    assert subject.app is not None
    return subject.app.backend.client


def calls(subject: StoreUnderTest) -> list[Callable[[], object]]:
    """Return every call of the port."""
    store = subject.store
    return [
        lambda: store.register([Registration("a", "tasks.t", at(0))]),
        lambda: store.start_attempt(AttemptStart("a", "tasks.t", at(0))),
        lambda: store.write(StateWrite("a", "PROGRESS", at(1), attempt=1)),
        lambda: store.read(["a"]),
        lambda: store.heartbeat(["a"], "w", 60),
        lambda: store.request_cancel("a", at(1)),
        lambda: store.query(Query()),
        store.counts,
        lambda: store.history("a"),
        lambda: store.claim_key("k", "a", 60),
        store.ping,
    ]


def assert_all_calls_unavailable(subject: StoreUnderTest) -> None:
    """Check that every call soon raises ``Unavailable`` with its cause."""
    with ThreadPoolExecutor(1) as pool:
        for call in calls(subject):
            with pytest.raises(Unavailable) as caught:
                pool.submit(call).result(timeout=SOON)
            assert isinstance(caught.value.__cause__, redis.exceptions.RedisError | OSError)


class TestKeys:
    def test_record_and_history_share_slot_with_result(self, redis: StoreUnderTest) -> None:
        """The store writes hash and history in the cluster slot of the result, and two indexes."""
        redis.open("a")
        redis.write("a", "PROGRESS", attempt=1, result=report())
        assert sorted(client_of(redis).keys("*")) == [
            KEY,
            b"hw:in:running",
            b"hw:of:tasks.t",
            HASH,
            HISTORY,
        ]
        redis.store.heartbeat(["a"], "w", 600)
        assert client_of(redis).exists(HASH + b":life")

    def test_all_keys_start_with_global_prefix(self, redis_url: str, tmp_path: Path) -> None:
        """Every key starts with the global key prefix, to which the server may limit a user."""
        subject = stores.make("redis-prefix", tmp_path, redis_url)
        subject.open("a")
        subject.write("a", "SUCCESS", attempt=1)
        subject.store.claim_key("k", "a", 600)
        names = sorted(client_of(subject).keys("*"))
        ours = [b"claim:k", b"in:completed", b"of:tasks.t", b"{proj:celery-task-meta-a}"]
        assert names == [b"proj:celery-task-meta-a", *(b"proj:hw:" + name for name in ours)]
        subject.store.close()

    def test_each_write_renews_lifetime_of_keys(self, redis: StoreUnderTest) -> None:
        """Each write renews the hash lifetime, and an end lives as long as Celery's setting.

        Other results live as long as the hash: a job may be silent for longer than results are kept
        (celery-facts#expiry-restarts-at-each-write).
        """
        longer = (24 * 3600 + REGISTRY_RETENTION.total_seconds()) * 1000
        client = client_of(redis)
        steps: list[Callable[[], object]] = [
            lambda: redis.store.register([Registration("a", "tasks.t", at(0))]),
            lambda: redis.open("a"),
            lambda: redis.write("a", "PROGRESS", 1, attempt=1, result=report()),
            lambda: redis.write("a", "PROGRESS", 2, attempt=1, result=report()),
            lambda: redis.write("a", "SUCCESS", 3, attempt=1),
        ]
        for step in steps:
            step()
            assert longer - TOLERANCE < client.pttl(HASH) <= longer
            client.pexpire(HASH, TOLERANCE)
            if client.exists(HISTORY):
                assert longer - TOLERANCE < client.pttl(HISTORY) <= longer
                client.pexpire(HISTORY, TOLERANCE)
            if redis.record("a").state == "PROGRESS":
                assert longer - TOLERANCE < client.pttl(KEY) <= longer
                client.pexpire(KEY, TOLERANCE)
        assert 3600_000 - TOLERANCE < client.pttl(KEY) <= 3600_000
        assert client.exists(HISTORY)

    def test_delayed_task_is_kept_until_after_its_eta(self, redis: StoreUnderTest) -> None:
        """The store keeps a delayed task for the usual lifetime after its eta, also in retry."""
        longer, month = (24 * 3600 + REGISTRY_RETENTION.total_seconds()) * 1000, 30 * 24 * 3600
        client = client_of(redis)
        waiting = Registration("a", "tasks.t", at(0), owner="ann", expected_by=at(month))
        redis.store.register([waiting, Registration("b", "tasks.t", at(0), owner="ann")])
        assert client.pttl(HASH) > longer + month * 1000 - TOLERANCE
        redis.store.request_cancel("a", at(1))
        assert client.pttl(HASH) > longer + month * 1000 - TOLERANCE
        redis.open("a", 2)
        redis.store.register([replace(waiting, created_at=at(3))])
        redis.write("a", "RETRY", 4, attempt=1)
        for key in (HASH, b"hw:of:tasks.t", b"hw:by:ann"):
            assert client.pttl(key) > longer + month * 1000 - TOLERANCE, key
        redis.open("a", 5, retries=1)
        redis.store.heartbeat(["a"], "w1", 20)
        assert client.pttl(HASH) <= longer
        assert client.pttl(b"hw:by:ann") > longer

    def test_new_members_remove_expired_ones_from_indexes(self, redis: StoreUnderTest) -> None:
        """Each addition removes expired members; an old member that still exists stays."""
        client, names = client_of(redis), [f"old{n}" for n in range(20)]
        old, new = 0, 30 * 24 * 3600
        redis.store.register(
            Registration(name, "tasks.t", at(old + n), owner="ann") for n, name in enumerate(names)
        )
        for name in names[1:]:
            client.delete(HASH.replace(b"-a}", b"-" + name.encode() + b"}"))
        redis.store.register(
            Registration(f"new{n}", "tasks.t", at(new + n), owner="ann") for n in range(100)
        )
        for index in (b"hw:in:pending", b"hw:of:tasks.t", b"hw:by:ann"):
            members = client.zrange(index, 0, -1)
            assert len(members) == 101
            assert members[0].endswith(b"old0")
        assert client.pttl("hw:by:ann") > 0

    def test_history_lives_as_long_as_hash_with_heartbeats(self, redis: StoreUnderTest) -> None:
        """Heartbeats keep the history as long as the hash, also after thinning or eviction."""
        client = client_of(redis)
        redis.open("a", worker="w", heartbeat_ttl=600.0)
        for number in range(400):
            redis.write(
                "a", "PROGRESS", number, attempt=1, result=report(number, message="m" * 100)
            )
        assert not redis.store.history("a").complete
        assert client.pttl(HISTORY) > 7 * 24 * 3600_000
        client.delete(HISTORY)
        redis.write("a", "PROGRESS", 100_000, attempt=1, result=report())
        assert client.pttl(HISTORY) > 7 * 24 * 3600_000
        client.pexpire(HISTORY, TOLERANCE)
        redis.store.heartbeat(["a"], "w", 600.0)
        assert abs(client.pttl(HISTORY) - client.pttl(HASH)) < TOLERANCE

    def test_end_releases_spare_memory_of_history(self, redis: StoreUnderTest) -> None:
        """The end of an attempt releases the spare memory of its history."""
        client = client_of(redis)
        redis.open("a")
        for number in range(100):
            redis.write("a", "PROGRESS", number, attempt=1, result=report(number, message="m" * 60))
        before = client.memory_usage(HISTORY)
        redis.write("a", "SUCCESS", 101, attempt=1)
        assert client.memory_usage(HISTORY) < before
        assert client.memory_usage(HISTORY) < client.strlen(HISTORY) * 1.25 + 200

    def test_keys_of_results_without_expiry_never_expire(
        self, redis_url: str, tmp_path: Path
    ) -> None:
        """Hash and history have no expiry if results have none."""
        subject = stores.make("redis-forever", tmp_path, redis_url)
        subject.store.register([Registration("a", "tasks.t", at(0))])
        subject.open("a")
        subject.write("a", "PROGRESS", attempt=1, result=report())
        subject.store.write(
            StateWrite(
                "a",
                "SUCCESS",
                at(1),
                attempt=1,
                result=subject.encode("a", "SUCCESS", 1),
                expires=0,
            )
        )
        client = client_of(subject)
        assert (client.pttl(KEY), client.pttl(HASH), client.pttl(HISTORY)) == (-1, -1, -1)
        subject.store.close()

    def test_hash_outlives_failure_with_longer_lifetime(self, redis: StoreUnderTest) -> None:
        """The hash outlives the result, even if failures are kept longer than other results."""
        redis.open("a")
        month = 30 * 24 * 3600.0
        redis.store.write(
            StateWrite(
                "a",
                "FAILURE",
                at(1),
                attempt=1,
                result=redis.encode("a", "FAILURE", None),
                expires=month,
            )
        )
        assert client_of(redis).pttl(HASH) > client_of(redis).pttl(KEY)

    def test_record_remains_after_result_expires(self, redis: StoreUnderTest) -> None:
        """The record remains and shows that a result was stored after the result expires."""
        redis.open("a")
        redis.write("a", "SUCCESS", attempt=1)
        redis.forget("a")
        assert redis.record("a").result_stored
        assert redis.meta("a") is None


class TestPublished:
    def test_accepted_writes_are_published_once_in_order(self, redis: StoreUnderTest) -> None:
        """The store publishes each accepted write once, in order, as a record that Celery reads
        (celery-facts#redis-publishes-every-state).
        """
        assert redis.app is not None
        pubsub = client_of(redis).pubsub()
        pubsub.subscribe(KEY)
        assert pubsub.get_message(timeout=SOON)["type"] == "subscribe"
        redis.open("a")
        redis.write("a", "PROGRESS", attempt=1, result=report())
        redis.store.write(StateWrite("a", "IGNORED", at(2), attempt=1))
        redis.write("a", "PROGRESS", 3, attempt=1, result=report(9))
        redis.put("a", "MARK")
        metas = []
        while not metas or metas[-1]["status"] != "MARK":
            message = pubsub.get_message(timeout=SOON)
            assert message is not None
            metas.append(redis.app.backend.decode_result(message["data"]))
        pubsub.close()
        assert [meta["status"] for meta in metas] == ["STARTED", "PROGRESS", "IGNORED", "MARK"]
        assert metas[1]["result"] == report()

    def test_async_result_reads_state_and_info(self, redis: StoreUnderTest) -> None:
        """``AsyncResult`` reads state and info of the store's writes."""
        assert redis.app is not None
        redis.open("a")
        redis.write("a", "PROGRESS", attempt=1, result=report())
        result = redis.app.AsyncResult("a")
        assert (result.state, result.info["current"]) == ("PROGRESS", 3)
        redis.write("a", "SUCCESS", attempt=1, result=42)
        assert redis.app.AsyncResult("a").get(timeout=SOON) == 42


class TestFaults:
    def test_calls_are_unavailable_while_server_is_down(
        self, own: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """Every call soon raises ``Unavailable`` without a server and works after its return."""
        own.open("a")
        own_valkey.crash()
        assert_all_calls_unavailable(own)
        own_valkey.start()
        assert own.open("a").attempt == 2

    def test_calls_are_unavailable_while_server_hangs(
        self, default_timeout: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """A server that accepts connections but never answers is unavailable."""
        until(lambda: answers(default_timeout))
        own_valkey.pause()
        try:
            assert_all_calls_unavailable(default_timeout)
        finally:
            own_valkey.resume()
        until(lambda: answers(default_timeout))

    def test_each_wait_of_write_is_half_a_second(self, redis_url: str) -> None:
        """A write waits at most 0.5 s each for a free connection, the connect and the answer."""
        store = store_for(Celery("usual", backend=redis_url, set_as_current=False))
        assert isinstance(store, RedisStore)
        until(lambda: answers(StoreUnderTest(store)))
        (pool,) = store._pools.values()
        (connection,) = pool._idle
        assert (pool._wait, connection.socket_connect_timeout, connection.socket_timeout) == (
            0.5,
            0.5,
            0.5,
        )
        assert connection.retry.get_retries() == 0
        store.close()

    def test_concurrent_callers_time_out_together(
        self, default_timeout: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """Concurrent callers of a hanging server do not wait for each other's timeouts."""
        until(lambda: answers(default_timeout))
        own_valkey.pause()
        try:
            with ThreadPoolExecutor(100) as pool:
                pending = [pool.submit(default_timeout.store.ping) for _ in range(100)]
                faults = [each.exception(timeout=SOON) for each in pending]
        finally:
            own_valkey.resume()
        assert {type(fault) for fault in faults} == {Unavailable}

    def test_server_restart_between_calls_causes_no_error(
        self, own: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """Connections that a server restart closed cause no error, however many there are."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: own.open(f"t{n}"), range(64)))
        own_valkey.stop()
        own_valkey.start()
        assert [own.open(f"t{n}").attempt for n in range(32)] == [2] * 32

    def test_closed_connection_is_opened_again(
        self, own: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """The store reconnects after the server closes its connection."""
        for _ in range(3):
            own.open("a")
            own_valkey.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        assert own.open("a").attempt == 4

    def test_interrupted_call_leaves_no_answer_for_next_call(
        self, redis: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A soft time limit during a read leaves no answer for the next caller."""
        redis.open("a")
        store = redis.store
        assert isinstance(store, RedisStore)
        (connection,) = next(iter(store._pools.values()))._idle

        def raise_time_limit(*args: Any, **kwargs: Any) -> None:
            raise SoftTimeLimitExceeded

        monkeypatch.setattr(connection, "read_response", raise_time_limit)
        with pytest.raises(SoftTimeLimitExceeded):
            redis.store.claim_key("k", "wrong", 60)
        monkeypatch.undo()
        assert redis.open("a").attempt == 2

    def test_sequential_calls_use_one_connection(self, redis: StoreUnderTest) -> None:
        """Sequential calls use one connection."""
        for _ in range(20):
            redis.open("a")
        store = redis.store
        assert isinstance(store, RedisStore)
        assert len(next(iter(store._pools.values()))._idle) == 1

    def test_fence_survives_server_restart_with_data(
        self, own: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """The fence survives a restart, although the server has lost the scripts."""
        own.open("a")
        own.write("a", "FAILURE", attempt=1)
        own_valkey.stop()
        own_valkey.start()
        assert not own.write("a", "PROGRESS", attempt=1, result=report())
        assert own.open("a").attempt == 2

    def test_open_attempt_restores_fence_after_data_loss(
        self, own: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """The store accepts the open attempt's next report and then refuses earlier attempts."""
        own.open("a")
        own.open("a")
        own_valkey.stop()
        own_valkey.start(fresh=True)
        assert own.write("a", "PROGRESS", attempt=2, result=report())
        assert not own.write("a", "PROGRESS", attempt=1, result=report())
        assert own.write("a", "SUCCESS", attempt=2)

    def test_flushed_scripts_are_loaded_again(self, redis: StoreUnderTest) -> None:
        """The store loads the scripts again, for one call and for a batch."""
        for call in calls(redis):
            client_of(redis).script_flush()
            call()
        client_of(redis).script_flush()
        redis.store.register(Registration(f"t{n}", "tasks.t", at(n)) for n in range(3))
        assert all(snapshot.record for snapshot in redis.store.read(["a", "t0", "t1", "t2"]))

    def test_key_of_wrong_type_is_unavailable_and_logged(
        self, redis: StoreUnderTest, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A key of the wrong type raises ``Unavailable`` and is logged."""
        client_of(redis).set(HASH, "taken")
        with pytest.raises(Unavailable, match="refused"):
            redis.open("a")
        with pytest.raises(Unavailable, match="refused"):
            redis.store.register([Registration("a", "tasks.t", at(0))])
        assert "WRONGTYPE" in caplog.text

    def test_full_server_refuses_writes_but_not_reads(
        self, own: StoreUnderTest, own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A write to a full server raises ``Unavailable`` and is logged, and reads still work."""
        own.open("a")
        own_valkey.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(Unavailable):
            own.write("a", "PROGRESS", attempt=1, result=report())
        assert "OutOfMemoryError" in caplog.text
        assert own.record("a").state == "STARTED"

    def test_refused_login_is_unavailable_and_logged(
        self, own: StoreUnderTest, own_valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A refused login raises ``Unavailable``, and the log names the reason."""
        own_valkey.command("CONFIG", "SET", "requirepass", "secret")
        with pytest.raises(Unavailable):
            own.open("a")
        assert "refused the login" in caplog.text
        with own_valkey.client(password="secret") as client:
            client.execute_command("CONFIG", "SET", "requirepass", "")

    def test_read_only_replica_is_unavailable(
        self, own: StoreUnderTest, own_valkey: ValkeyServer
    ) -> None:
        """A write to a server that has become a replica raises ``Unavailable``."""
        with ValkeyServer() as primary:
            own_valkey.command("REPLICAOF", "127.0.0.1", primary.port)
            with pytest.raises(Unavailable):
                own.open("a")

    def test_every_driver_error_becomes_unavailable(self) -> None:
        """Every error class of the driver becomes ``Unavailable`` with that error as its cause."""
        module = redis.exceptions
        kinds = [
            each
            for _, each in inspect.getmembers(module, inspect.isclass)
            if issubclass(each, Exception)
        ]
        assert len(kinds) > 20
        programming = {"IncorrectPolicyType"}  # only the cluster client's constructor raises it
        for kind in [*kinds, ConnectionResetError, TimeoutError]:
            if kind.__name__ in programming:
                continue
            assert issubclass(kind, CONNECTION_ERRORS + COMMAND_ERRORS), kind
            fault = kind.__new__(kind)
            with pytest.raises(Unavailable) as caught, translate_errors():
                raise fault
            assert caught.value.__cause__ is fault


class TestClient:
    def test_many_callers_share_few_connections(self, redis_url: str) -> None:
        """300 callers share a few connections without an error (web-facts#backend-per-thread)."""
        app = Celery("many", backend=redis_url, set_as_current=False)
        store = RedisStore(app, connections=4, timeout=stores.PATIENCE)
        with ThreadPoolExecutor(300) as pool:
            answers = list(
                pool.map(
                    lambda n: store.start_attempt(AttemptStart(f"t{n}", "t", at(n))).attempt,
                    range(300),
                )
            )
        assert answers == [1] * 300
        ours = [
            each for each in app.backend.client.client_list() if each["cmd"] in ("evalsha", "eval")
        ]
        assert 1 <= len(ours) <= 4
        store.close()

    def test_forked_process_uses_own_connections(self, redis: StoreUnderTest) -> None:
        """Parent and child continue after a fork, each with its own connections."""
        redis.open("a")

        def child(answer: Any) -> None:
            answer.send(redis.open("a").attempt)
            redis.store.close()

        ours, theirs = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
        process.start()
        assert ours.poll(SOON)
        assert ours.recv() == 2
        process.join()
        assert redis.open("a").attempt == 3

    @pytest.mark.parametrize(
        ("url", "conf", "expected"),
        [
            (
                "redis://u:p@h:7/3",
                {},
                {"host": "h", "port": 7, "db": 3, "username": "u", "password": "p"},
            ),
            ("rediss://h/1?ssl_cert_reqs=required", {}, {"host": "h", "db": 1}),
            (
                "redis+socket:///run/redis.sock?virtual_host=2",
                {},
                {"path": "/run/redis.sock", "db": 2},
            ),
            ("redis://h", {"redis_client_name": "me"}, {"client_name": "me"}),
        ],
    )
    def test_connection_uses_backend_settings_with_own_timeouts(
        self, url: str, conf: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        """A connection has the backend's address and credentials, short timeouts and no retries."""
        app = Celery("client", backend=url, set_as_current=False)
        app.conf.update(conf)
        backend = ResultBackend(app).backend
        assert isinstance(backend, RedisBackend)
        pool = connect(backend).connection_pool
        made = pool.connection_kwargs
        assert {name: made[name] for name in expected} == expected
        assert pool.connection_class is backend.client.connection_pool.connection_class
        assert made["socket_timeout"] == 0.5
        assert made.get("socket_connect_timeout", 0.5) == 0.5
        connection = pool.connection_class(**made)  # accepts every argument and does not connect
        assert (connection.retry.get_retries(), connection.retry_on_timeout) == (0, False)
        assert (
            connect(backend, timeout=None).connection_pool.connection_kwargs["socket_timeout"]
            == 120.0
        )

    def test_sentinel_connections_have_short_timeouts_without_retries(self) -> None:
        """Connections to the sentinels also have short timeouts and no retries."""
        app = Celery(
            "client", backend="sentinel://a:26379/1;sentinel://b:26380/1", set_as_current=False
        )
        app.conf.result_backend_transport_options = {"master_name": "mymaster"}
        backend = ResultBackend(app).backend
        assert isinstance(backend, SentinelBackend)
        pool = connect(backend).connection_pool
        assert pool.service_name == "mymaster"
        assert pool.connection_kwargs["socket_timeout"] == 0.5
        sentinels = [
            each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels
        ]
        assert [(each["host"], each["port"], each["socket_timeout"]) for each in sentinels] == [
            ("a", 26379, 0.5),
            ("b", 26380, 0.5),
        ]
        assert {each["retry"].get_retries() for each in sentinels} == {0}

    def test_store_works_over_unix_socket(self, tmp_path: Path) -> None:
        """A store over a UNIX socket works as over TCP."""
        with tempfile.TemporaryDirectory(
            prefix="hw-"
        ) as directory:  # pytest's path may be too long for a socket
            path = f"{directory}/valkey.sock"

            class Listening(ValkeyServer):
                argv = property(
                    lambda self: [*self._argv, "--unixsocket", path],
                    lambda self, value: setattr(self, "_argv", value),
                )

            with Listening():
                subject = stores.make("redis", tmp_path, f"redis+socket://{path}")
                assert subject.open("a").attempt == 1
                assert (
                    subject.store.start_attempt(
                        AttemptStart("a", "t", at(1)), full_timeout=True
                    ).attempt
                    == 2
                )
                subject.store.close()


class TestResults:
    def test_pickled_result_is_not_read_without_setting(self, redis_url: str) -> None:
        """The store loads no pickle by default, and the error names the setting
        (celery-facts#pickle-results-run-code).
        """
        app = Celery("pickled", backend=redis_url, set_as_current=False)
        app.conf.update(result_serializer="pickle", accept_content=["pickle"])
        store = stores.slow_tolerant(store_for(app))
        assert isinstance(store, RedisStore)
        assert (
            store.start_attempt(AttemptStart("a", "t", at(0))).attempt == 1
        )  # a worker may still write
        bomb = StateWrite("a", "SUCCESS", at(1), attempt=1, result=pickle.dumps(Bomb()))
        assert store.write(bomb)
        with pytest.raises(ConfigurationError, match="allow_pickle=True"):
            store.read(["a"])
        with pytest.raises(ConfigurationError, match="result_serializer"):
            check_readable(app)
        check_readable(app, allow_pickle=True)
        store.close()
        assert not Bomb.exploded

    def test_allowed_pickled_exception_is_plain_data(self, redis_url: str, tmp_path: Path) -> None:
        """An exception reads with ``allow_pickle`` as it does from JSON."""
        app = Celery("pickled", backend=redis_url, set_as_current=False)
        app.conf.update(result_serializer="pickle", accept_content=["pickle"])
        subject = StoreUnderTest(stores.slow_tolerant(store_for(app, allow_pickle=True)), app)
        subject.open("a")
        subject.write("a", "PROGRESS", attempt=1, result=report())
        subject.write("a", "FAILURE", attempt=1, result=ValueError("no"))
        execution = states.resolve(subject.snapshot("a"), at(2))
        assert (execution.status, execution.progress) == (Status.FAILED, Progress(3, 10))
        assert execution.error is not None
        assert (execution.error.type, execution.error.message) == ("ValueError", "no")
        subject.store.close()

    def test_unreadable_result_is_logged_and_keeps_status(
        self, redis: StoreUnderTest, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An unreadable result is logged, and the status comes from the registry."""
        redis.open("a")
        redis.write("a", "SUCCESS", attempt=1)
        for garbage in (
            b"\xff\x00",
            b"[1]",
            b"\x00celery-compressed\x00application/x-gzip\x00rubbish",
        ):
            client_of(redis).set(KEY, garbage)
            assert states.resolve(redis.snapshot("a"), at(2)).status is Status.COMPLETED
        assert "unreadable" in caplog.text

    @pytest.mark.parametrize(
        ("url", "conf", "message"),
        [
            ("rpc://", {}, "rpc://"),
            (None, {}, "No result backend"),
            ("cache+memory://", {}, "memory of one process"),
            ("db+sqlite://", {}, "memory of one process"),
            ("db+sqlite:///:memory:", {}, "memory of one process"),
            (
                "redis://h",
                {"result_serializer": "pickle", "accept_content": ["pickle"]},
                "allow_pickle",
            ),
            ("redis://h", {"result_serializer": "yaml"}, "result_accept_content"),
            ("nonsense://h", {}, "cannot be used"),
            ("nonsense://u:se/cr@et@h", {}, r"'nonsense://u:\*\*@h' cannot be used"),
            ("redis://:secret@h:port", {}, r"'redis://:\*\*@h:port' cannot be used"),
        ],
    )
    def test_unreadable_backend_is_configuration_error_with_help(
        self, url: str | None, conf: dict[str, Any], message: str
    ) -> None:
        """The error names the wrong setting and its correct value
        (celery-facts#rpc-results-are-private).
        """
        app = Celery("unreadable", backend=url, set_as_current=False)
        app.conf.update(conf)
        with pytest.raises(ConfigurationError, match=message):
            check_readable(app)

    @pytest.mark.parametrize(
        "url",
        [
            "redis://h",
            "rediss://h?ssl_cert_reqs=none",
            "redis+socket:///run/r.sock",
            "db+sqlite:////tmp/x",
        ],
    )
    def test_shared_backend_passes_check_without_connection(self, url: str) -> None:
        """A shared backend passes the check, which opens no connection."""
        check_readable(Celery("readable", backend=url, set_as_current=False))


class TestSelect:
    @pytest.mark.parametrize("url", ["rpc://", None])
    def test_app_without_backend_has_no_store(self, url: str | None) -> None:
        """An app without a shared backend has no store."""
        with pytest.raises(ConfigurationError):
            store_for(Celery("none", backend=url, set_as_current=False))

    def test_each_app_has_one_store(self) -> None:
        """An app has one store in a process, and two apps have two."""
        one = Celery("one", backend="redis://h", set_as_current=False)
        two = Celery("two", backend="redis://h", set_as_current=False)
        assert store_for(one) is store_for(one)
        assert store_for(one) is not store_for(two)
        assert store_for(one) is not store_for(one, allow_pickle=True)

    def test_backend_url_selects_store_class(self, tmp_path: Path) -> None:
        """Redis, SQL, key-value backends and all others each have a store class."""
        names = {
            "redis://h": "RedisStore",
            "sentinel://h": "RedisStore",
            "db+sqlite:////tmp/x": "SqlStore",
            f"file://{tmp_path}": "KeyValueStore",
            "cache+memory://": "KeyValueStore",
            f"{DictBackend.__module__}:{DictBackend.__qualname__}": "TaskMetaStore",
        }
        made = {
            url: type(store_for(Celery("x", backend=url, set_as_current=False))).__name__
            for url in names
        }
        assert made == names


class Bomb:
    """A hostile result."""

    exploded = False

    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    """Record that pickle called this function."""
    Bomb.exploded = True
