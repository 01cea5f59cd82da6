"""Web processes over one store, in this process: the whole server with its sockets, on the fakes or
on Redis.
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
from tests.support.stores import slow_tolerant
from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.valkey import ValkeyServer
from tests.support.wait import until
from tests.support.wsgi_server import WsgiServer

#: Seconds between two sweeps of the hub, which find changes that no message announces.
SWEEP = 0.1


def slow_tolerant_feed(results: ResultBackend, **options: Any) -> RedisFeed:
    """The feed of a result backend in Redis. It tolerates a slow server, unless ``options`` set
    shorter time limits.
    """
    waits = dict.fromkeys(("timeout", "ping_interval", "pong_within"), RESPONSE_TIMEOUT)
    return RedisFeed(
        lambda: connect(results.backend, timeout=RESPONSE_TIMEOUT),
        results.key,
        results.decode,
        **(waits | options),
    )


class InprocessWeb:
    """An app with Headway over real sockets: what one web process has."""

    def __init__(self, celery: Celery, store: Store, feed: Feed, **settings: Any) -> None:
        app = Flask("inprocess")
        self.headway = Headway(app, celery, store=store, feed=feed, **settings)
        self.headway.hub.sweep_interval = SWEEP
        self._server = WsgiServer(app).start()

    @property
    def url(self) -> str:
        """Its address."""
        return self._server.url

    @property
    def viewers(self) -> int:
        """The number of open streams."""
        return self.headway.hub.limiter.in_use

    def subscribe_feed(self, execution_id: str) -> bool:
        """Subscribe the feed to an execution, and return whether it succeeded.

        A viewer's first frames don't prove a subscription: they may come from a sweep.
        """
        try:
            self.headway.hub.feed.watch(execution_id)
        except Unavailable:
            return False
        return True

    def drop_connections(self) -> None:
        """Break every connection without a close."""
        self._server.drop_connections()

    def close(self) -> None:
        """Stop the server and all threads."""
        self.headway.hub.close()
        self._server.stop()


class InprocessServer:
    """``webs`` web processes over one store, and a fake worker that writes to it."""

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
        self.worker = FakeWorker(store, encode)
        self.feeds: list[Any] = [feed() for _ in range(webs)]
        self.webs = [InprocessWeb(celery, store, feed, **settings) for feed in self.feeds]

    @property
    def url(self) -> str:
        """The address of the first web process."""
        return self.webs[0].url

    def disconnect(self) -> None:
        """Make the backend unavailable."""
        raise NotImplementedError

    def reconnect(self, then: Callable[[], object]) -> None:
        """Make the backend available, and call ``then`` at once: mostly before a viewer notices."""
        raise NotImplementedError

    def wait_until_disconnected(self) -> None:
        """Wait until every hub has noticed the outage: it would notice after the reconnect else."""
        until(
            lambda: all(
                web.headway.hub._disconnected
                for web, feed in zip(self.webs, self.feeds, strict=True)
                if feed._thread is not None
            ),
            what="the hubs to notice the outage",
        )

    def expire(self, execution_id: str) -> None:
        """Remove the result of an execution, but not its record in the registry."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the web processes."""
        for web in self.webs:
            web.close()
        until(lambda: not any(web.viewers for web in self.webs), what="the viewers to go")


class MemoryInprocessServer(InprocessServer):
    """Over the fakes."""

    store: MemoryStore

    def __init__(self, **options: Any) -> None:
        store = MemoryStore()
        celery = Celery("inprocess", broker="memory://", set_as_current=False)
        super().__init__(
            celery,
            store,
            lambda: MemoryFeed(store),
            lambda meta: json.dumps(meta).encode(),
            **options,
        )

    def disconnect(self) -> None:
        self.store.away = True
        self._each(MemoryFeed.disconnect)

    def reconnect(self, then: Callable[[], object]) -> None:
        self.wait_until_disconnected()
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
    """Over a real server that is durable."""

    def __init__(self, server: ValkeyServer, **options: Any) -> None:
        celery = Celery("inprocess", broker="memory://", backend=server.url, set_as_current=False)
        self._server, self._results = server, ResultBackend(celery)
        super().__init__(
            celery,
            slow_tolerant(store_for(celery)),
            lambda: slow_tolerant_feed(self._results),
            self._results.encode,
            **options,
        )

    def disconnect(self) -> None:
        self._server.stop()

    def reconnect(self, then: Callable[[], object]) -> None:
        self.wait_until_disconnected()
        self._server.start().keep()  # the fixture of the server outlives the test
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
    """A server over ``server``, or over the fakes without one."""
    with ExitStack() as stack:
        made = (
            MemoryInprocessServer(**options)
            if server is None
            else RedisInprocessServer(server, **options)
        )
        stack.callback(made.close)
        for web in made.webs:
            web.headway.hub.first_read = RESPONSE_TIMEOUT  # a busy machine may need more than 5 s
        yield made
