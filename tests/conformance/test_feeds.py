"""One suite for every feed: what ``feeds/base.py`` promises."""

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


class Ear:
    """A listener that writes down what it is told, and by whom."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.threads: set[str] = set()
        self.fails = False
        #: Done as soon as an outage is told, by the thread that tells.
        self.then: Callable[[], object] = lambda: None

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        self._hear("changed", task_id, meta)

    def lost(self) -> None:
        self._hear("lost")
        self.then()

    def restored(self) -> None:
        self._hear("restored")

    def _hear(self, *what: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.heard.append(what if len(what) > 1 else (what[0], None))
        if self.fails:
            raise RuntimeError("this listener was told to fail")

    def changes(self, task_id: str) -> list[Any]:
        """What was told of one task, in order."""
        return [what[2] for what in self.heard if what[0] == "changed" and what[1] == task_id]  # type: ignore[misc]

    @property
    def gaps(self) -> list[str]:
        """The outages, in order."""
        return [what[0] for what in self.heard if what[0] != "changed"]


class Bench:
    """A feed, and the backend that it tells of."""

    def __init__(
        self,
        make: Callable[[], Feed],
        store: Callable[[str, str, Any], None],
        cut: Callable[[], None],
        mend: Callable[[], None],
    ):
        self.feed = make()
        self.ear = Ear()
        self.feed.listen(self.ear)
        self.store, self.cut, self.mend = store, cut, mend
        #: Whether each change is told, with what it was; else only that there was one.
        self.pushes = not isinstance(self.feed, PollingFeed)

    def heard(self, task_id: str, result: Any) -> bool:
        """Whether the listener can know by now that the task's result is this."""
        changes = self.ear.changes(task_id)
        return bool(changes) and (changes[-1] is None or changes[-1]["result"] == result)


@pytest.fixture(params=["memory", "polling", "redis"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with ExitStack() as stack:
        if request.param == "redis":
            server = stack.enter_context(ValkeyServer(durable=True))
            bench = redis_bench(server)
        else:
            store = MemoryStore()

            def put(task_id: str, state: str, result: Any) -> None:
                store.put_result(task_id, {"status": state, "result": result, "task_id": task_id})

            def away(value: bool) -> None:
                store.away = value

            if request.param == "memory":
                feed = MemoryFeed(store)
                bench = Bench(lambda: feed, put, feed.disconnect, feed.reconnect)
            else:
                bench = Bench(
                    lambda: PollingFeed(store, interval=0.02),
                    put,
                    lambda: away(True),
                    lambda: away(False),
                )
        stack.callback(bench.feed.close)
        yield bench


def redis_bench(server: ValkeyServer, **options: Any) -> Bench:
    app = Celery("feeds", backend=server.url)
    results = ResultBackend(app)
    writer = connect(results.backend, timeout=PATIENCE)

    def store(task_id: str, state: str, result: Any) -> None:
        raw = results.encode({"status": state, "result": result, "task_id": task_id})
        writer.set(results.key(task_id), raw)
        writer.publish(results.key(task_id), raw)

    feed = slow_tolerant_feed(results, **options)
    return Bench(lambda: feed, store, server.stop, server.start)


def new_id() -> str:
    return uuid.uuid4().hex


def test_tells_what_changed_after_watch(bench: Bench) -> None:
    """What is stored after `watch` returned is told, and the last word told is the last word
    stored.
    """
    task_id = new_id()
    bench.feed.watch(task_id)
    for number in range(50):
        bench.store(task_id, "PROGRESS", {"current": number})
    until(lambda: bench.heard(task_id, {"current": 49}))


def test_tells_in_order(bench: Bench) -> None:
    """Changes arrive in the order of the writes, and a feed that pushes drops none."""
    task_id = new_id()
    bench.feed.watch(task_id)
    for number in range(200):
        bench.store(task_id, "PROGRESS", {"current": number})
    until(lambda: bench.heard(task_id, {"current": 199}))
    told = [meta["result"]["current"] for meta in bench.ear.changes(task_id) if meta is not None]
    assert told == sorted(told)
    if bench.pushes:
        assert told == list(range(200))


def test_watch_has_no_hole(bench: Bench) -> None:
    """Of many tasks that are stored to while they are being watched, each write after its `watch`
    is told (celery-facts#subscribe-before-snapshot).
    """
    ids = [new_id() for _ in range(50)]
    for task_id in ids:
        bench.feed.watch(task_id)
        bench.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: all(bench.heard(task_id, {"current": 1}) for task_id in ids))


def test_tells_only_of_what_is_watched(bench: Bench) -> None:
    """No change is reported for a task that is not watched, or no longer after `unwatch`."""
    watched, other, former = new_id(), new_id(), new_id()
    bench.feed.watch(watched)
    bench.feed.watch(former)
    bench.feed.unwatch(former)
    bench.feed.unwatch(other)  # never watched, and fine
    bench.store(watched, "PROGRESS", {"current": 0})
    until(lambda: bench.heard(watched, {"current": 0}))
    for number in range(1, 20):
        bench.store(other, "PROGRESS", {"current": number})
        bench.store(former, "PROGRESS", {"current": number})
        bench.store(watched, "PROGRESS", {"current": number})
    until(lambda: bench.heard(watched, {"current": 19}))
    assert bench.ear.changes(other) == []
    assert len(bench.ear.changes(former)) <= 1, "one may have been under way"


def test_watch_again_after_unwatch(bench: Bench) -> None:
    """A task that was dropped and wanted again is told of, however quickly that went."""
    task_id = new_id()
    for number in range(30):
        bench.feed.watch(task_id)
        bench.feed.watch(task_id)  # a second call is fine
        bench.store(task_id, "PROGRESS", {"current": number})
        until(lambda number=number: bench.heard(task_id, {"current": number}))
        bench.feed.unwatch(task_id)


def test_one_thread_tells(bench: Bench) -> None:
    """The listener is called from one thread, the feed's own, which exists only once something is
    watched.
    """
    assert not [t for t in threading.enumerate() if t.name == "headway-feed"]
    task_id = new_id()
    bench.feed.watch(task_id)
    bench.store(task_id, "STARTED", None)
    until(lambda: bench.heard(task_id, None))
    assert bench.ear.threads == {"headway-feed"}


def test_a_listener_that_fails_changes_nothing(bench: Bench) -> None:
    """An exception of the listener doesn't end the feed."""
    task_id = new_id()
    bench.feed.watch(task_id)
    bench.ear.fails = True
    bench.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: bench.heard(task_id, {"current": 1}))
    bench.ear.fails = False
    bench.store(task_id, "PROGRESS", {"current": 2})
    until(lambda: bench.heard(task_id, {"current": 2}))


def test_a_gap_is_told(bench: Bench) -> None:
    """An outage is told as `lost` once and `restored` once; afterwards everything watched is told
    of again.
    """
    ids = [new_id(), new_id()]
    for task_id in ids:
        bench.feed.watch(task_id)
    bench.store(ids[0], "PROGRESS", {"current": 1})
    until(lambda: bench.heard(ids[0], {"current": 1}))
    bench.feed.ping()
    bench.cut()
    until(lambda: bench.ear.gaps == ["lost"])
    with pytest.raises(Unavailable):
        bench.feed.ping()
    bench.mend()
    until(lambda: bench.ear.gaps == ["lost", "restored"])
    bench.feed.ping()
    for task_id in ids:
        bench.store(task_id, "PROGRESS", {"current": 2})
    until(lambda: all(bench.heard(task_id, {"current": 2}) for task_id in ids))
    assert bench.ear.gaps == ["lost", "restored"]


def test_a_ping_says_what_was_told(bench: Bench) -> None:
    """Who asks as soon as an outage is told is told the same."""
    answers: list[str] = []

    def ask() -> None:
        try:
            bench.feed.ping()
            answers.append("connected")
        except Unavailable:
            answers.append("away")

    bench.ear.then = ask
    bench.feed.watch(new_id())
    bench.cut()
    until(lambda: answers)
    assert answers == ["away"]


def test_watch_during_an_outage(bench: Bench) -> None:
    """`watch` raises ``Unavailable`` while the backend is away, and the task is told of once it is
    back all the same.
    """
    bench.feed.watch(new_id())
    bench.cut()
    until(lambda: bench.ear.gaps == ["lost"])
    task_id = new_id()
    with pytest.raises(Unavailable):
        bench.feed.watch(task_id)
    bench.mend()
    until(lambda: bench.ear.gaps == ["lost", "restored"])
    bench.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: bench.heard(task_id, {"current": 1}))


def test_close_ends_the_threads(bench: Bench) -> None:
    """`close` ends the thread; a second call does nothing."""
    bench.feed.watch(new_id())
    assert [t for t in threading.enumerate() if t.name == "headway-feed"]
    bench.feed.close()
    # It waits for its thread, but not without end.
    until(lambda: not [t for t in threading.enumerate() if t.name == "headway-feed"])
    bench.feed.close()


# What only Redis can show.


@pytest.fixture
def own(own_valkey: ValkeyServer) -> Iterator[Bench]:
    """A Redis feed on a server of the test's own."""
    bench = redis_bench(own_valkey)
    yield bench
    bench.feed.close()


def test_redis_server_that_hangs(own_valkey: ValkeyServer) -> None:
    """A server that is stopped but not gone is found out, though no read of ours fails
    (web-facts#hung-server-looks-idle); then all is well again.
    """
    # It asks at once whether a silent server lives. On a busy machine that is too soon now and
    # then, and a change is lost.
    hasty, task_id = redis_bench(own_valkey, ping_interval=0.1, pong_within=0.3), new_id()

    def told() -> bool:
        hasty.store(task_id, "PROGRESS", {"current": 1})
        return hasty.heard(task_id, {"current": 1})

    try:
        with suppress(Unavailable):  # wanted it is all the same
            hasty.feed.watch(task_id)
        own_valkey.pause()
        until(lambda: hasty.ear.gaps[-1:] == ["lost"])
        own_valkey.resume()
        until(lambda: "restored" in hasty.ear.gaps)
        until(told)
    finally:
        own_valkey.resume()
        hasty.feed.close()


def test_redis_feed_that_is_held_up(
    own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that came in time, to a thread that looks at it too late, is an answer."""
    asked, late = 0, 0.0

    class Held(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            nonlocal late
            ready = super().select(timeout)
            late += 100 if ready else 0
            return ready

    def patience(line: Any) -> float | None:
        nonlocal asked, late
        if line._ping_sent_at is not None:
            return None
        late, asked = late + 100, asked + 1  # nothing comes: it is time to ask
        return 0.0

    monkeypatch.setattr(
        redis_feed, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late)
    )
    monkeypatch.setattr(
        redis_feed,
        "selectors",
        SimpleNamespace(DefaultSelector=Held, EVENT_READ=selectors.EVENT_READ),
    )
    monkeypatch.setattr(redis_feed._PubSubConnection, "_select_timeout", patience)
    bench = redis_bench(own_valkey, ping_interval=60.0, pong_within=60.0)
    try:
        bench.feed.watch(new_id())
        until(lambda: asked > 50)
        assert bench.ear.gaps == []
    finally:
        bench.feed.close()


def test_redis_connection_killed(own_valkey: ValkeyServer) -> None:
    """A connection that the server cuts, again and again, is a gap each time, and no subscription
    is lost (web-facts#pubsub-has-one-owner, web-facts#reconnects-are-silent).
    """
    bench = redis_bench(own_valkey)
    ids = [new_id() for _ in range(20)]
    try:
        for task_id in ids:
            bench.feed.watch(task_id)
        for round_ in range(1, 6):
            assert own_valkey.command("CLIENT", "KILL", "TYPE", "PUBSUB") >= 1
            until(lambda round_=round_: bench.ear.gaps == ["lost", "restored"] * round_)
            for task_id in ids:
                bench.store(task_id, "PROGRESS", {"current": round_})
            until(
                lambda round_=round_: all(
                    bench.heard(task_id, {"current": round_}) for task_id in ids
                )
            )
    finally:
        bench.feed.close()


def test_redis_away_from_the_start(own_valkey: ValkeyServer) -> None:
    """A feed whose server was never there says so within its time limit, and works when the server
    comes.
    """
    bench = redis_bench(own_valkey)
    own_valkey.stop()
    task_id = new_id()
    try:
        with pytest.raises(Unavailable):
            bench.feed.ping()
        with pytest.raises(Unavailable):
            bench.feed.watch(task_id)
        until(lambda: bench.ear.gaps == ["lost"])
        own_valkey.start()
        until(lambda: bench.ear.gaps == ["lost", "restored"])
        bench.store(task_id, "PROGRESS", {"current": 1})
        until(lambda: bench.heard(task_id, {"current": 1}))
    finally:
        bench.feed.close()


def test_redis_payloads_that_say_nothing(own: Bench, own_valkey: ValkeyServer) -> None:
    """What can't be decoded, or is too large to be a report, is told as "read it"; it doesn't hurt
    what follows.
    """
    task_id = new_id()
    key = ResultBackend(Celery("feeds", backend=own_valkey.url)).key(task_id)
    own.feed.watch(task_id)
    own_valkey.command("PUBLISH", key, b"\xff\xfe no record")
    own_valkey.command("PUBLISH", key, b"[1, 2]")
    own.store(task_id, "SUCCESS", "x" * 1_000_000)
    own.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: len(own.ear.changes(task_id)) == 4)
    assert own.ear.changes(task_id)[:3] == [None, None, None]
    assert own.ear.changes(task_id)[3]["result"] == {"current": 1}


def test_redis_watchers_in_many_threads(own: Bench) -> None:
    """Watching and dropping from many threads at once leaves exactly what is wanted, and no call
    without an answer.
    """
    faults: list[BaseException] = []
    kept = [new_id() for _ in range(8)]

    def work(task_id: str) -> None:
        try:
            for _ in range(50):
                own.feed.watch(task_id)
                own.feed.unwatch(task_id)
            own.feed.watch(task_id)
        except BaseException as exc:  # told below
            faults.append(exc)

    threads = [threading.Thread(target=work, args=(task_id,)) for task_id in kept]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults
    for task_id in kept:
        own.store(task_id, "PROGRESS", {"current": 1})
    until(lambda: all(own.heard(task_id, {"current": 1}) for task_id in kept))


def test_redis_costs_one_connection(own: Bench, own_valkey: ValkeyServer) -> None:
    """However many are watched, the feed holds one connection."""
    for _ in range(100):
        own.feed.watch(new_id())
    clients = [
        line for line in own_valkey.command("CLIENT", "LIST", "TYPE", "PUBSUB").splitlines() if line
    ]
    assert len(clients) == 1
    assert b"sub=100" in clients[0]


def test_polling_reads_nothing_without_watched_ids() -> None:
    """While nothing is watched, the store isn't asked."""

    class Counting(MemoryStore):
        reads = 0

        def read(self, task_ids: Any) -> Any:
            self.reads += 1
            return super().read(task_ids)

    store = Counting()
    feed = PollingFeed(store, interval=0.005)
    feed.listen(Ear())
    task_id = new_id()
    try:
        feed.watch(task_id)
        until(lambda: store.reads)
        feed.unwatch(task_id)
        thread = next(t for t in threading.enumerate() if t.name == "headway-feed")
        until(lambda: not feed._wake.is_set(), what="the thread to lie down")
        before, begun = store.reads, time.monotonic()
        until(lambda: time.monotonic() - begun > 0.1)
        assert store.reads == before
        assert thread.is_alive()
    finally:
        feed.close()


def test_the_right_feed(redis_url: str, tmp_path: Any) -> None:
    """Redis pushes; any other backend is asked; the fake store has the fake feed."""
    redis_app = Celery("a", backend=redis_url)
    other = Celery("b", backend=f"db+sqlite:///{tmp_path}/r.sqlite")
    assert isinstance(feed_for(redis_app, MemoryStore()), MemoryFeed)
    assert isinstance(feed_for(redis_app, store_for(redis_app)), RedisFeed)
    assert isinstance(feed_for(other, store_for(other)), PollingFeed)


def test_pickles_are_heard_of_where_they_are_read(redis_url: str) -> None:
    """What the setting allows the store it allows the feed: a change that carries its record is
    told with it.
    """
    app = Celery("pickled", backend=redis_url, set_as_current=False)
    app.conf.update(result_serializer="pickle", accept_content=["pickle"])
    feed, ear = (
        slow_tolerant(feed_for(app, store_for(app, allow_pickle=True), allow_pickle=True)),
        Ear(),
    )
    feed.listen(ear)
    try:
        feed.watch("a")
        app.backend.store_result("a", {"current": 1}, "PROGRESS")
        until(lambda: ear.changes("a"), what="the feed to hear of it")
        assert ear.changes("a")[-1]["result"] == {"current": 1}
    finally:
        feed.close()
