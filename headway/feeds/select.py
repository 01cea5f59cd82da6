"""Which feed belongs to an app's result backend."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from headway.feeds.base import Feed
from headway.feeds.memory import MemoryFeed
from headway.feeds.polling import INTERVAL, PollingFeed
from headway.stores.base import Store
from headway.stores.memory import MemoryStore
from headway.stores.results import Results

if TYPE_CHECKING:
    from redis import Redis


def feed_for(app: Any, store: Store, *, poll_interval: float = INTERVAL, allow_pickle: bool = False) -> Feed:
    """The feed that tells of what ``store`` holds: Redis' own publish (fact 22), or looking every ``poll_interval`` seconds.

    ``allow_pickle``: as for the store. Makes no connection. A new feed at each call: it has one listener.
    """
    if isinstance(store, MemoryStore):
        return MemoryFeed(store)
    results = Results(app, allow_pickle=allow_pickle)
    # By name: importing Celery's Redis backend to ask for its class would want redis-py on a machine that has no use for it.
    if not any(cls.__name__ == "RedisBackend" for cls in type(results.backend).__mro__):
        return PollingFeed(store, interval=poll_interval)
    from headway.feeds.redis import RedisFeed  # noqa: PLC0415 - see above
    from headway.stores.client import connect  # noqa: PLC0415

    @cache
    def client() -> Redis:
        return connect(results.backend)

    return RedisFeed(client, results.key, results.decode)
