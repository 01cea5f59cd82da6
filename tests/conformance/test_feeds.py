"""Contract of every feed (``feeds/base.py``): one suite, each feed in turn."""

from __future__ import annotations

import selectors
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from headway.backends import feed_for, store_for
from headway.errors import Unavailable
from headway.feeds import redis as redis_feed
from headway.feeds.base import Feed
from headway.feeds.memory import MemoryFeed
from headway.feeds.polling import PollingFeed
from headway.feeds.redis import RedisFeed
from headway.stores.memory import MemoryStore
from headway.stores.redis_connection import connect
from headway.stores.result_backend import ResultBackend
from tests.support.inprocess_server import slow_tolerant_feed
from tests.support.stores import PATIENCE, slow_tolerant
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


class RecordingListener:
    """A listener that records its calls and their threads."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.threads: set[str] = set()
        self.fails = False
        #: The feed thread calls this directly after it has reported an outage.
        self.on_lost: Callable[[], object] = lambda: None

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        self._record("changed", task_id, meta)

    def lost(self) -> None:
        self._record("lost")
        self.on_lost()

    def restored(self) -> None:
        self._record("restored")

    def _record(self, *what: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.append(what if len(what) > 1 else (what[0], None))
        if self.fails:
            raise RuntimeError("the listener fails on purpose")

    def changes(self, task_id: str) -> list[Any]:
        """Return the reported changes of one task, in order."""
        return [what[2] for what in self.calls if what[0] == "changed" and what[1] == task_id]  # type: ignore[misc]

    @property
    def outages(self) -> list[str]:
        """Return the reported outages and recoveries, in order."""
        return [what[0] for what in self.calls if what[0] != "changed"]


class FeedUnderTest:
    """A feed with its listener and with control of its backend."""

    def __init__(
        self,
        make: Callable[[], Feed],
        store: Callable[[str, str, Any], None],
        cut: Callable[[], None],
        mend: Callable[[], None],
    ):
        self.feed = make()
        self.listener = RecordingListener()
        self.feed.listen(self.listener)
        self.store, self.cut, self.mend = store, cut, mend
        #: Whether the feed reports each change with its record, instead of only that one happened.
        self.pushes = not isinstance(self.feed, PollingFeed)

    def has_reported(self, task_id: str, result: Any) -> bool:
        """Return whether the listener can know this result of the task."""
        changes = self.listener.changes(task_id)
        return bool(changes) and (changes[-1] is None or changes[-1]["result"] == result)


@pytest.fixture(params=["memory", "polling", "redis"])
def subject(request: pytest.FixtureRequest) -> Iterator[FeedUnderTest]:
    with ExitStack() as stack:
        if request.param == "redis":
            server = stack.enter_context(ValkeyServer(durable=True))
            subject = redis_feed_under_test(server)
        else:
            store = MemoryStore()

            def put(task_id: str, state: str, result: Any) -> None:
                store.put_result(task_id, {"status": state, "result": result, "task_id": task_id})

            def away(value: bool) -> None:
                store.away = value

            if request.param == "memory":
                feed = MemoryFeed(store)
                subject = FeedUnderTest(lambda: feed, put, feed.disconnect, feed.reconnect)
            else:
                subject = FeedUnderTest(
                    lambda: PollingFeed(store, interval=0.02),
                    put,
                    lambda: away(True),
                    lambda: away(False),
                )
        stack.callback(subject.feed.close)
        yield subject


def redis_feed_under_test(server: ValkeyServer, **options: Any) -> FeedUnderTest:
    app = Celery("feeds", backend=server.url)
    results = ResultBackend(app)
    writer = connect(results.backend, timeout=PATIENCE)

    def store(task_id: str, state: str, result: Any) -> None:
        raw = results.encode({"status": state, "result": result, "task_id": task_id})
        writer.set(results.key(task_id), raw)
        writer.publish(results.key(task_id), raw)

    feed = slow_tolerant_feed(results, **options)
    return FeedUnderTest(lambda: feed, store, server.stop, server.start)


def new_id() -> str:
    return uuid.uuid4().hex


def test_change_after_watch_is_reported(subject: FeedUnderTest) -> None:
    """The feed reports changes after `watch`, and its last report is the last stored result."""
    task_id = new_id()
    subject.feed.watch(task_id)
    for number in range(50):
        subject.store(task_id, "PROGRESS", {"current": number})
    until(lambda: subject.has_reported(task_id, {"current": 49}))


def test_changes_are_reported_in_write_order(subject: FeedUnderTest) -> None:
    """Changes arrive in the order of the writes, and a feed that pushes drops none."""
    task_id = new_id()
    subject.feed.watch(task_id)
    for number in range(200):
        subject.store(task_id, "PROGRESS", {"current": number})
    until(lambda: subject.has_reported(task_id, {"current": 199}))
    reported = [
        meta["result"]["current"] for meta in subject.listener.changes(task_id) if meta is not None
    ]
    assert reported == sorted(reported)
    if subject.pushes:
        assert reported == list(range(200))


def test_write_directly_after_watch_is_reported(subject: FeedUnderTest) -> None:
    """The feed reports each write after `watch`, also while it adds many other tasks
    (celery-facts#subscribe-before-snapshot).
    """
    ids = [new_id() for _ in range(50)]
    for task_id in ids:
        subject.feed.watch(task_id)
        subject.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: all(subject.has_reported(task_id, {"current": 1}) for task_id in ids))


def test_change_of_unwatched_task_is_not_reported(subject: FeedUnderTest) -> None:
    """The feed reports no change of a task that was never watched or is no longer watched."""
    watched, other, former = new_id(), new_id(), new_id()
    subject.feed.watch(watched)
    subject.feed.watch(former)
    subject.feed.unwatch(former)
    subject.feed.unwatch(other)  # never watched, which is valid
    subject.store(watched, "PROGRESS", {"current": 0})
    until(lambda: subject.has_reported(watched, {"current": 0}))
    for number in range(1, 20):
        subject.store(other, "PROGRESS", {"current": number})
        subject.store(former, "PROGRESS", {"current": number})
        subject.store(watched, "PROGRESS", {"current": number})
    until(lambda: subject.has_reported(watched, {"current": 19}))
    assert subject.listener.changes(other) == []
    assert len(subject.listener.changes(former)) <= 1, "one change may have been in transit"


def test_change_after_second_watch_is_reported(subject: FeedUnderTest) -> None:
    """The feed reports changes of a task that is watched again directly after `unwatch`."""
    task_id = new_id()
    for number in range(30):
        subject.feed.watch(task_id)
        subject.feed.watch(task_id)  # a second call is valid
        subject.store(task_id, "PROGRESS", {"current": number})
        until(lambda number=number: subject.has_reported(task_id, {"current": number}))
        subject.feed.unwatch(task_id)


def test_listener_is_called_from_feed_thread_only(subject: FeedUnderTest) -> None:
    """The feed calls the listener from its own thread, which the first `watch` starts."""
    assert not [t for t in threading.enumerate() if t.name == "headway-feed"]
    task_id = new_id()
    subject.feed.watch(task_id)
    subject.store(task_id, "STARTED", None)
    until(lambda: subject.has_reported(task_id, None))
    assert subject.listener.threads == {"headway-feed"}


def test_failing_listener_does_not_stop_feed(subject: FeedUnderTest) -> None:
    """An exception of the listener does not stop the feed."""
    task_id = new_id()
    subject.feed.watch(task_id)
    subject.listener.fails = True
    subject.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: subject.has_reported(task_id, {"current": 1}))
    subject.listener.fails = False
    subject.store(task_id, "PROGRESS", {"current": 2})
    until(lambda: subject.has_reported(task_id, {"current": 2}))


def test_outage_is_reported_as_lost_and_restored(subject: FeedUnderTest) -> None:
    """The feed reports an outage once as `lost` and once as `restored`, then new changes."""
    ids = [new_id(), new_id()]
    for task_id in ids:
        subject.feed.watch(task_id)
    subject.store(ids[0], "PROGRESS", {"current": 1})
    until(lambda: subject.has_reported(ids[0], {"current": 1}))
    subject.feed.ping()
    subject.cut()
    until(lambda: subject.listener.outages == ["lost"])
    with pytest.raises(Unavailable):
        subject.feed.ping()
    subject.mend()
    until(lambda: subject.listener.outages == ["lost", "restored"])
    subject.feed.ping()
    for task_id in ids:
        subject.store(task_id, "PROGRESS", {"current": 2})
    until(lambda: all(subject.has_reported(task_id, {"current": 2}) for task_id in ids))
    assert subject.listener.outages == ["lost", "restored"]


def test_ping_during_reported_outage_is_unavailable(subject: FeedUnderTest) -> None:
    """A ping raises ``Unavailable`` as soon as the feed has reported an outage."""
    answers: list[str] = []

    def ping() -> None:
        try:
            subject.feed.ping()
            answers.append("connected")
        except Unavailable:
            answers.append("away")

    subject.listener.on_lost = ping
    subject.feed.watch(new_id())
    subject.cut()
    until(lambda: answers)
    assert answers == ["away"]


def test_watch_during_outage_is_unavailable_but_kept(subject: FeedUnderTest) -> None:
    """`watch` raises ``Unavailable`` in an outage, and the feed reports the task afterwards."""
    subject.feed.watch(new_id())
    subject.cut()
    until(lambda: subject.listener.outages == ["lost"])
    task_id = new_id()
    with pytest.raises(Unavailable):
        subject.feed.watch(task_id)
    subject.mend()
    until(lambda: subject.listener.outages == ["lost", "restored"])
    subject.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: subject.has_reported(task_id, {"current": 1}))


def test_close_ends_feed_thread(subject: FeedUnderTest) -> None:
    """`close` ends the thread; a second call does nothing."""
    subject.feed.watch(new_id())
    assert [t for t in threading.enumerate() if t.name == "headway-feed"]
    subject.feed.close()
    # `close` waits for the thread only for a limited time.
    until(lambda: not [t for t in threading.enumerate() if t.name == "headway-feed"])
    subject.feed.close()


# Tests of the Redis feed only.


@pytest.fixture
def own(own_valkey: ValkeyServer) -> Iterator[FeedUnderTest]:
    """Return a Redis feed on a server that only this test uses."""
    subject = redis_feed_under_test(own_valkey)
    yield subject
    subject.feed.close()


def test_redis_feed_detects_hanging_server(own_valkey: ValkeyServer) -> None:
    """The feed detects a hanging server without a failed read, and recovers after it
    (web-facts#hung-server-looks-idle).
    """
    # A short ping interval detects the outage soon. On a busy machine it may also report a false
    # outage and lose a change, so each check stores the change again.
    impatient = redis_feed_under_test(own_valkey, ping_interval=0.1, pong_within=0.3)
    task_id = new_id()

    def change_is_reported() -> bool:
        impatient.store(task_id, "PROGRESS", {"current": 1})
        return impatient.has_reported(task_id, {"current": 1})

    try:
        with suppress(Unavailable):  # the feed keeps the task as watched
            impatient.feed.watch(task_id)
        own_valkey.pause()
        until(lambda: impatient.listener.outages[-1:] == ["lost"])
        own_valkey.resume()
        until(lambda: "restored" in impatient.listener.outages)
        until(change_is_reported)
    finally:
        own_valkey.resume()
        impatient.feed.close()


def test_redis_pong_read_late_is_accepted(
    own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delayed feed thread accepts an answer that arrived in time."""
    pings, late = 0, 0.0

    class DelayedSelector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            nonlocal late
            ready = super().select(timeout)
            late += 100 if ready else 0
            return ready

    def select_timeout(connection: Any) -> float | None:
        nonlocal pings, late
        if connection._ping_sent_at is not None:
            return None
        late, pings = late + 100, pings + 1  # no data arrived: the next ping is due
        return 0.0

    monkeypatch.setattr(
        redis_feed, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    )
    monkeypatch.setattr(
        redis_feed,
        "selectors",
        SimpleNamespace(DefaultSelector=DelayedSelector, EVENT_READ=selectors.EVENT_READ),
    )
    monkeypatch.setattr(redis_feed._PubSubConnection, "_select_timeout", select_timeout)
    subject = redis_feed_under_test(own_valkey, ping_interval=60.0, pong_within=60.0)
    try:
        subject.feed.watch(new_id())
        until(lambda: pings > 50)
        assert subject.listener.outages == []
    finally:
        subject.feed.close()


def test_redis_killed_connection_keeps_subscriptions(own_valkey: ValkeyServer) -> None:
    """Each closed connection is one outage, and the feed loses no subscription
    (web-facts#pubsub-has-one-owner, web-facts#reconnects-are-silent).
    """
    subject = redis_feed_under_test(own_valkey)
    ids = [new_id() for _ in range(20)]
    try:
        for task_id in ids:
            subject.feed.watch(task_id)
        for round_ in range(1, 6):
            assert own_valkey.command("CLIENT", "KILL", "TYPE", "PUBSUB") >= 1
            until(lambda round_=round_: subject.listener.outages == ["lost", "restored"] * round_)
            for task_id in ids:
                subject.store(task_id, "PROGRESS", {"current": round_})
            until(
                lambda round_=round_: all(
                    subject.has_reported(task_id, {"current": round_}) for task_id in ids
                )
            )
    finally:
        subject.feed.close()


def test_redis_feed_recovers_when_server_starts_late(own_valkey: ValkeyServer) -> None:
    """A feed without a server raises ``Unavailable`` in time and works after the server starts."""
    subject = redis_feed_under_test(own_valkey)
    own_valkey.stop()
    task_id = new_id()
    try:
        with pytest.raises(Unavailable):
            subject.feed.ping()
        with pytest.raises(Unavailable):
            subject.feed.watch(task_id)
        until(lambda: subject.listener.outages == ["lost"])
        own_valkey.start()
        until(lambda: subject.listener.outages == ["lost", "restored"])
        subject.store(task_id, "PROGRESS", {"current": 1})
        until(lambda: subject.has_reported(task_id, {"current": 1}))
    finally:
        subject.feed.close()


def test_redis_unreadable_payload_is_reported_without_record(
    own: FeedUnderTest, own_valkey: ValkeyServer
) -> None:
    """The feed reports an unreadable or large payload without its record, and continues."""
    task_id = new_id()
    key = ResultBackend(Celery("feeds", backend=own_valkey.url)).key(task_id)
    own.feed.watch(task_id)
    own_valkey.command("PUBLISH", key, b"\xff\xfe no record")
    own_valkey.command("PUBLISH", key, b"[1, 2]")
    own.store(task_id, "SUCCESS", "x" * 1_000_000)
    own.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: len(own.listener.changes(task_id)) == 4)
    assert own.listener.changes(task_id)[:3] == [None, None, None]
    assert own.listener.changes(task_id)[3]["result"] == {"current": 1}


def test_redis_concurrent_watch_and_unwatch_keep_last_state(own: FeedUnderTest) -> None:
    """Concurrent `watch` and `unwatch` calls all return and leave the last state."""
    faults: list[BaseException] = []
    kept = [new_id() for _ in range(8)]

    def work(task_id: str) -> None:
        try:
            for _ in range(50):
                own.feed.watch(task_id)
                own.feed.unwatch(task_id)
            own.feed.watch(task_id)
        except BaseException as exc:  # asserted below
            faults.append(exc)

    threads = [threading.Thread(target=work, args=(task_id,)) for task_id in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults
    for task_id in kept:
        own.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: all(own.has_reported(task_id, {"current": 1}) for task_id in kept))


def test_redis_feed_holds_one_connection(own: FeedUnderTest, own_valkey: ValkeyServer) -> None:
    """The feed holds one connection for any number of watched tasks."""
    for _ in range(100):
        own.feed.watch(new_id())
    clients = [
        line for line in own_valkey.command("CLIENT", "LIST", "TYPE", "PUBSUB").splitlines() if line
    ]
    assert len(clients) == 1
    assert b"sub=100" in clients[0]


def test_polling_reads_nothing_without_watched_ids() -> None:
    """A polling feed does not read the store while no task is watched."""

    class Counting(MemoryStore):
        reads = 0

        def read(self, task_ids: Any) -> Any:
            self.reads += 1
            return super().read(task_ids)

    store = Counting()
    feed = PollingFeed(store, interval=0.005)
    feed.listen(RecordingListener())
    task_id = new_id()
    try:
        feed.watch(task_id)
        until(lambda: store.reads)
        feed.unwatch(task_id)
        thread = next(t for t in threading.enumerate() if t.name == "headway-feed")
        until(lambda: not feed._wake.is_set(), what="the thread to become idle")
        before, started_at = store.reads, time.monotonic()
        until(lambda: time.monotonic() - started_at > 0.1)
        assert store.reads == before
        assert thread.is_alive()
    finally:
        feed.close()


def test_feed_class_follows_result_backend(redis_url: str, tmp_path: Any) -> None:
    """Redis has a feed that pushes, other backends are polled, and memory has its own feed."""
    redis_app = Celery("a", backend=redis_url)
    other = Celery("b", backend=f"db+sqlite:///{tmp_path}/r.sqlite")
    assert isinstance(feed_for(redis_app, MemoryStore()), MemoryFeed)
    assert isinstance(feed_for(redis_app, store_for(redis_app)), RedisFeed)
    assert isinstance(feed_for(other, store_for(other)), PollingFeed)


def test_allowed_pickle_is_reported_with_record(redis_url: str) -> None:
    """The feed reports a pickled change with its record if the setting allows pickle."""
    app = Celery("pickled", backend=redis_url, set_as_current=False)
    app.conf.update(result_serializer="pickle", accept_content=["pickle"])
    feed, listener = (
        slow_tolerant(feed_for(app, store_for(app, allow_pickle=True), allow_pickle=True)),
        RecordingListener(),
    )
    feed.listen(listener)
    try:
        feed.watch("a")
        app.backend.store_result("a", {"current": 1}, "PROGRESS")
        until(lambda: listener.changes("a"), what="the feed to report the change")
        assert listener.changes("a")[-1]["result"] == {"current": 1}
    finally:
        feed.close()
