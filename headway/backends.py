"""Which store and which feed go with an app's result backend."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from headway.feeds.base import Feed
from headway.feeds.memory import MemoryFeed
from headway.feeds.polling import INTERVAL, PollingFeed
from headway.stores.base import Store
from headway.stores.keyvalue import KeyValueStore, TaskMetaStore
from headway.stores.memory import MemoryStore
from headway.stores.redis import RedisStore
from headway.stores.result_backend import ResultBackend, check_readable

if TYPE_CHECKING:
    from redis import Redis


def store_for(app: Any, *, allow_pickle: bool = False) -> Store:
    """Return the store of a Celery app in this process, the same one at each call.

    The store is kept on the app itself: it goes when the app goes, and a child process inherits it
    unconnected. Raises ``ConfigurationError`` if the app has no result backend that another process
    can read.
    """
    app = getattr(app, "_get_current_object", lambda: app)()
    stores: dict[bool, Store] = app.__dict__.setdefault("_headway_stores", {})
    if allow_pickle not in stores:
        stores.setdefault(allow_pickle, _make_store(app, allow_pickle=allow_pickle))
    return stores[allow_pickle]


def set_store(app: Any, store: Store) -> None:
    """Let `store_for` return this store for the app (``install(store=...)``)."""
    app.__dict__["_headway_stores"] = {False: store, True: store}


def feed_for(
    app: Any, store: Store, *, poll_interval: float = INTERVAL, allow_pickle: bool = False
) -> Feed:
    """Return a new feed of the changes in ``store``. It has one listener and makes no connection
    yet.

    On Redis the feed subscribes to what Celery publishes with each result
    (celery-facts#redis-publishes-every-state); elsewhere it polls every ``poll_interval`` seconds.
    """
    if isinstance(store, MemoryStore):
        return MemoryFeed(store)
    results = ResultBackend(app, allow_pickle=allow_pickle)
    if "RedisBackend" not in _class_names(results.backend):
        return PollingFeed(store, interval=poll_interval)
    # Imported here: these modules need redis-py, which other backends do not.
    from headway.feeds.redis import RedisFeed  # noqa: PLC0415
    from headway.stores.redis_connection import connect  # noqa: PLC0415

    @cache
    def client() -> Redis:
        return connect(results.backend)

    return RedisFeed(client, results.key, results.decode)


def _make_store(app: Any, *, allow_pickle: bool) -> Store:
    results = ResultBackend(app, allow_pickle=allow_pickle)
    names = _class_names(results.backend)
    if "RedisBackend" in names:
        return RedisStore(app, results=results)
    # django-celery-results has a DatabaseBackend too; that one has no session manager.
    if "DatabaseBackend" in names and hasattr(results.backend, "session_manager"):
        from headway.stores.sql import SqlStore  # noqa: PLC0415  SQLAlchemy is an extra

        return SqlStore(app, results=results)
    if "KeyValueStoreBackend" in names:
        return KeyValueStore(app, results=results)
    if "DisabledBackend" in names or "RPCBackend" in names:
        check_readable(
            app, allow_pickle=True
        )  # raises ConfigurationError with the setting to change
    return TaskMetaStore(app, results=results)


def _class_names(backend: Any) -> set[str]:
    """Class names instead of isinstance: importing Celery's backends would import every driver."""
    return {cls.__name__ for cls in type(backend).__mro__}
