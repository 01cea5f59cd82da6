"""The port: where changes come from.

A feed carries hints and news about executions that somebody watches, from the result backend to one
listener (the hub). It holds no state of an execution. Redis pushes (``redis.py``: the backend
publishes every stored state on a channel named as its key, fact 22); any other backend is asked at
intervals (``polling.py``). ``memory.py`` is the fake; one suite for all
(``tests/conformance/test_feeds.py``).

Obligations of every feed:

* One instance a process. Its threads are made on first use, never at import or in a constructor
  (web fact 22), and `close` ends them.
* `watch` returns after the subscription is in force (Redis: acknowledged), so that a snapshot read
  afterwards misses nothing (fact 23); it raises ``Unavailable`` if that takes longer than its
  timeout, or at once while the feed is cut off. The id stays wanted all the same, and `restored`
  covers it. A second call for the same id is fine: it waits for the same acknowledgement.
* The listener is called from the feed's own thread, one call at a time, in the order of the writes;
  an exception it raises is logged and doesn't end the feed. It must not block.
* After any gap (a reconnect, a server that hung: web facts 16, 18) the listener is told `lost` once
  and then `restored` once, after every watched id is subscribed again: it then reads again all that
  it watches.
* After `unwatch` returned, at most one change that was under way still arrives.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told. All three are called by the feed's thread."""

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """The task's record changed. ``meta`` is Celery's record as plain data, or None: something
        changed, read it.
        """

    def lost(self) -> None:
        """The feed is cut off; nothing arrives until `restored`. Told once an outage."""

    def restored(self) -> None:
        """The feed works again, and may have missed anything: read again all that is watched."""


class Feed(ABC):
    """Where changes come from. See the module's text for what every implementation owes."""

    @abstractmethod
    def listen(self, listener: Listener) -> None:
        """Name the one listener; called once, before the first `watch`."""

    @abstractmethod
    def watch(self, task_id: str) -> None:
        """Begin to tell of this task."""

    @abstractmethod
    def unwatch(self, task_id: str) -> None:
        """Stop telling of this task. An id that isn't watched is fine."""

    @abstractmethod
    def ping(self) -> None:
        """Return if the feed is connected, or nothing is watched and it could be; else raise
        ``Unavailable``.
        """

    @abstractmethod
    def close(self) -> None:
        """End the feed's threads and connections. A second call does nothing."""


class SafeListener:
    """A listener whose exceptions are logged and go no further: observers may not kill the
    observed.
    """

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

    def _call(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            log.exception("A listener of the feed failed; the feed goes on")
