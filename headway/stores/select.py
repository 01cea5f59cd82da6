"""Which store goes with an app's result backend."""

from __future__ import annotations

from typing import Any

from headway.stores.base import Store
from headway.stores.keyvalue import KeyValueStore, TaskMetaStore
from headway.stores.redis import RedisStore
from headway.stores.results import Results, check_readable


def store_for(app: Any, *, allow_pickle: bool = False) -> Store:
    """The store of a Celery app in this process, the same one at each call.

    It hangs on the app itself: it goes when the app goes, and a child process inherits it unconnected. Raises
    ``ConfigurationError`` where the app has no result backend that another process could read.
    """
    app = getattr(app, "_get_current_object", lambda: app)()
    stores: dict[bool, Store] = app.__dict__.setdefault("_headway_stores", {})
    if allow_pickle not in stores:
        stores.setdefault(allow_pickle, _make(app, allow_pickle=allow_pickle))
    return stores[allow_pickle]


def _make(app: Any, *, allow_pickle: bool) -> Store:
    """By the names of Celery's classes: to import them all would ask for every driver."""
    results = Results(app, allow_pickle=allow_pickle)
    names = {cls.__name__ for cls in type(results.backend).__mro__}
    if "RedisBackend" in names:
        return RedisStore(app, results=results)
    if "DatabaseBackend" in names and hasattr(
        results.backend, "session_manager"
    ):  # django-celery-results has one of that name, too
        from headway.stores.sql import SqlStore  # noqa: PLC0415  SQLAlchemy is an extra

        return SqlStore(app, results=results)
    if "KeyValueStoreBackend" in names:
        return KeyValueStore(app, results=results)
    if "DisabledBackend" in names or "RPCBackend" in names:
        check_readable(app, allow_pickle=True)  # raises, and says what to set
    return TaskMetaStore(app, results=results)
