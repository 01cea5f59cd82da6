"""The fake: changes come from `publish` (or from a `MemoryStore`), and it can be disconnected."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from headway.errors import Unavailable
from headway.feeds.base import Feed, Listener, SafeListener
from headway.stores.memory import MemoryStore

#: Seconds that `MemoryFeed.close` waits for the thread to end.
JOIN_TIMEOUT = 5.0


class MemoryFeed(Feed):
    """A feed within one process, for tests. Its own thread reports what is published, in order.

    With ``store``, it also reports what that store publishes.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self._store = store
        self._unsubscribe: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._listener: SafeListener | None = None
        self._watched: set[str] = set()
        self._disconnected = False
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def listen(self, listener: Listener) -> None:
        self._listener = SafeListener(listener)
        if self._store is not None:
            self._unsubscribe = self._store.subscribe(self.publish)

    def watch(self, task_id: str) -> None:
        with self._lock:
            self._start()
            self._watched.add(task_id)
            if self._disconnected:
                raise Unavailable("The feed is disconnected")

    def unwatch(self, task_id: str) -> None:
        with self._lock:
            self._watched.discard(task_id)

    @property
    def watched(self) -> frozenset[str]:
        """The ids that are watched now, for tests."""
        with self._lock:
            return frozenset(self._watched)

    def publish(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """Report a change, as the result backend would. Lost while disconnected, like in Redis."""
        with self._lock:
            listener = self._listener
            if listener is not None and task_id in self._watched and not self._disconnected:
                self._queue.put(lambda: listener.changed(task_id, meta))

    def disconnect(self) -> None:
        """Disconnect: nothing arrives until `reconnect`."""
        with self._lock:
            if not self._disconnected and self._listener is not None:
                self._disconnected = True
                self._queue.put(self._listener.lost)

    def reconnect(self) -> None:
        """Connect again."""
        with self._lock:
            if self._disconnected and self._listener is not None:
                self._disconnected = False
                self._queue.put(self._listener.restored)

    def ping(self) -> None:
        if self._disconnected:
            raise Unavailable("The feed is disconnected")

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._watched.clear()
            unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe()
        if thread is not None:
            self._queue.put(None)
            thread.join(JOIN_TIMEOUT)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="headway-feed", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while (call := self._queue.get()) is not None:
            call()
