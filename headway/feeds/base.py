"""The port: where changes come from.

A feed brings changes of watched executions from the result backend to one listener (the hub). It
keeps no state of an execution. Redis pushes (``redis.py``: the backend publishes every stored state
on a channel named like its key, celery-facts#redis-publishes-every-state). Every other backend is
polled (``polling.py``). ``memory.py`` is the fake; the same suite tests all of them
(``tests/conformance/test_feeds.py``).

Obligations of every feed:

* One instance per process. Its threads start on first use, never at import or in a constructor
  (web-facts#no-locks-before-fork); `close` ends them.
* `watch` returns when the subscription is active (Redis: acknowledged), so that a snapshot read
  afterwards misses nothing (celery-facts#subscribe-before-snapshot). It raises ``Unavailable`` if
  that takes longer than its timeout, and at once while the feed is disconnected. The id stays
  watched then, and `restored` covers it. A second call for the same id waits for the same
  acknowledgement.
* The feed's own thread calls the listener, one call at a time, in the order of the writes. An
  exception of the listener is logged and does not end the feed. The listener must not block.
* After a gap (a reconnect, a hung server: web-facts#reconnects-are-silent,
  web-facts#hung-server-looks-idle) the listener gets `lost` once, and `restored` once after every
  watched id is subscribed again. Then it reads everything that it watches.
* After `unwatch` has returned, at most one change that was on the way still arrives.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Receives changes. The feed's thread makes all calls."""

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """The task's record changed. ``meta`` is Celery's record as plain data; None means: read
        it.
        """

    def lost(self) -> None:
        """The feed is disconnected; nothing arrives until `restored`. Called once per outage."""

    def restored(self) -> None:
        """The feed works again and may have missed changes: read everything that is watched."""


class Feed(ABC):
    """A source of changes. See the module's docstring for the obligations."""

    @abstractmethod
    def listen(self, listener: Listener) -> None:
        """Set the listener. Called once, before the first `watch`."""

    @abstractmethod
    def watch(self, task_id: str) -> None:
        """Start to report changes of this task."""

    @abstractmethod
    def unwatch(self, task_id: str) -> None:
        """Stop reporting changes of this task. An id that is not watched is ignored."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the feed is connected, or could be; otherwise raise ``Unavailable``."""

    @abstractmethod
    def close(self) -> None:
        """End the feed's threads and connections. A second call does nothing."""


class SafeListener:
    """A listener whose exceptions are logged: they must not end the feed."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """See `Listener.changed`."""
        self._call(lambda: self._listener.changed(task_id, meta))

    def lost(self) -> None:
        """See `Listener.lost`."""
        self._call(self._listener.lost)

    def restored(self) -> None:
        """See `Listener.restored`."""
        self._call(self._listener.restored)

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            log.exception("The listener of the feed failed; the feed continues")
