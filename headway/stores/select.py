"""Which store goes with an app's result backend."""

from __future__ import annotations

from typing import Any

from headway.stores.base import Store
from headway.stores.redis import RedisStore
from headway.stores.results import Results


def store_for(app: Any, *, allow_pickle: bool = False) -> Store:
    """The store of a Celery app in this process, the same one at each call.

    It hangs on the app itself: it goes when the app goes, and a child process inherits it unconnected.
    """
    app = getattr(app, "_get_current_object", lambda: app)()
    stores: dict[bool, Store] = app.__dict__.setdefault("_headway_stores", {})
    if allow_pickle not in stores:
        stores.setdefault(allow_pickle, _make(app, allow_pickle=allow_pickle))
    return stores[allow_pickle]


def _make(app: Any, *, allow_pickle: bool) -> Store:
    results = Results(app, allow_pickle=allow_pickle)
    return RedisStore(app, results=results)
