"""Web processes over one store, in this process: the whole server with its sockets, at the speed of
the fakes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from celery import Celery
from flask import Flask

from headway.backends import store_for
from headway.errors import Unavailable
from headway.feeds.base import Feed
from headway.feeds.memory import MemoryFeed
from headway.feeds.redis import RedisFeed
from headway.server import Headway
from headway.stores.base import Store
from headway.stores.memory import MemoryStore
from headway.stores.redis_connection import connect
from headway.stores.result_backend import ResultBackend
from tests.support.fake_worker import FakeWorker
from tests.support.stores import PATIENCE, slow_tolerant
from tests.support.valkey import ValkeyServer
from tests.support.wait import until
from tests.support.wsgi_server import WsgiServer

#: Seconds between two sweeps of the hub: what no message tells of is to be seen soon.
SWEEP = 0.1


def slow_tolerant_feed(results: ResultBackend, **options: Any) -> RedisFeed:
    """The feed of a result backend in Redis; a server that is only slow isn't away for it, unless
    ``options`` say so.
    """
    waits = dict.fromkeys(("timeout", "ping_interval", "pong_within"), PATIENCE)
    return RedisFeed(
        lambda: connect(results.backend, timeout=PATIENCE),
        results.key,
        results.decode,
        **(waits | options),
    )


class Web:
    """One web process's worth: an app with Headway, over real sockets."""

    def __init__(self, celery: Celery, store: Store, feed: Feed, **settings: Any) -> None:
        app = Flask("house")
        self.headway = Headway(app, celery, store=store, feed=feed, **settings)
        self.headway.hub.sweep_interval = SWEEP
        self._serving = WsgiServer(app).start()

    @property
    def url(self) -> str:
        """Its address."""
        return self._serving.url

    @property
    def viewers(self) -> int:
        """Seats taken."""
        return self.headway.hub.limiter.in_use

    def hears(self, execution_id: str) -> bool:
        """Have the feed listen to it; whether it does by now. A viewer's first frames don't tell:
        they may come from a sweep.
        """
        try:
            self.headway.hub.feed.watch(execution_id)
        except Unavailable:
            return False
        return True

    def cut(self) -> None:
        """Break every connection, without a word."""
        self._serving.cut()

    def close(self) -> None:
        """End it with all its threads."""
        self.headway.hub.close()
        self._serving.stop()


class InprocessServer:
    """One store, as many web processes as are asked for, and a hand that does what workers would."""

    def __init__(
        self,
        celery: Celery,
        store: Store,
        feed: Callable[[], Feed],
        encode: Callable[[Mapping[str, Any]], bytes],
        *,
        webs: int = 1,
        **settings: Any,
    ) -> None:
        self.celery, self.store = celery, store
        self.runs = FakeWorker(store, encode)
        self.feeds = [feed() for _ in range(webs)]
        self.webs = [Web(celery, store, feed, **settings) for feed in self.feeds]

    @property
    def url(self) -> str:
        """The address of the first."""
        return self.webs[0].url

    def cut(self) -> None:
        """The backend goes away."""
        raise NotImplementedError

    def mend(self, then: Callable[[], object]) -> None:
        """It comes back; ``then`` happens as soon as it can be written to, and mostly before a
        viewer could hear of it.
        """
        raise NotImplementedError

    def all_know(self) -> None:
        """Wait until every hub has been told that the backend is away: else it would be told of it
        when it is back.
        """
        until(
            lambda: all(
                web.headway.hub._disconnected
                for web in self.webs
                if web.headway.hub.feed._thread is not None
            )
        )

    def expire(self, execution_id: str) -> None:
        """The result of an execution is gone, while it is known that there was one."""
        raise NotImplementedError

    def close(self) -> None:
        """End the web processes."""
        for web in self.webs:
            web.close()
        until(lambda: not any(web.viewers for web in self.webs), what="the viewers to go")


class MemoryInprocessServer(InprocessServer):
    """Over the fakes."""

    store: MemoryStore

    def __init__(self, **options: Any) -> None:
        store = MemoryStore()
        celery = Celery("house", broker="memory://", set_as_current=False)
        super().__init__(
            celery,
            store,
            lambda: MemoryFeed(store),
            lambda meta: json.dumps(meta).encode(),
            **options,
        )

    def cut(self) -> None:
        self.store.away = True
        self._each(MemoryFeed.disconnect)

    def mend(self, then: Callable[[], object]) -> None:
        self.all_know()
        self.store.away = False
        then()
        self._each(MemoryFeed.reconnect)

    def expire(self, execution_id: str) -> None:
        del self.store._results[execution_id]

    def _each(self, act: Callable[[MemoryFeed], None]) -> None:
        for feed in self.feeds:
            assert isinstance(feed, MemoryFeed)
            act(feed)


class RedisInprocessServer(InprocessServer):
    """Over a real server, which must keep its data."""

    def __init__(self, server: ValkeyServer, **options: Any) -> None:
        celery = Celery("house", broker="memory://", backend=server.url, set_as_current=False)
        self._server, self._results, store = (
            server,
            ResultBackend(celery),
            slow_tolerant(store_for(celery)),
        )
        super().__init__(
            celery,
            store,
            lambda: slow_tolerant_feed(self._results),
            self._results.encode,
            **options,
        )

    def cut(self) -> None:
        self._server.stop()

    def mend(self, then: Callable[[], object]) -> None:
        self.all_know()
        self._server.start().keep()  # it outlives the test, as the one before it would have
        then()

    def expire(self, execution_id: str) -> None:
        assert self._server.command("DEL", self._results.key(execution_id)) == 1

    def close(self) -> None:
        super().close()
        self.store.close()


@contextmanager
def inprocess_server(
    server: ValkeyServer | None = None, **options: Any
) -> Iterator[InprocessServer]:
    """A house over ``server``, or over the fakes where none is given."""
    with ExitStack() as stack:
        made = (
            MemoryInprocessServer(**options)
            if server is None
            else RedisInprocessServer(server, **options)
        )
        stack.callback(made.close)
        for web in made.webs:
            web.headway.hub.first_read = PATIENCE  # a busy machine may take longer than 5 s
        yield made
