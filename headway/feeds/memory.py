"""The fake: changes are put in by hand (or by a `stores.memory.MemoryStore`), and the line can be
cut and mended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from headway.errors import Unavailable
from headway.feeds.base import Feed, Listener, SafeListener
from headway.stores.memory import MemoryStore

#: How long `MemoryFeed.close` waits for the thread to end, in seconds.
JOIN_TIMEOUT = 5.0


class MemoryFeed(Feed):
    """A feed within one process, for tests: its own thread tells what `publish` was given, in that
    order.

    With ``store``, what that publishes is told as well.
    """

    def __init__(self, store: MemoryStore | None = None) -> None:
        self._store = store
        self._unsubscribe: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._listener: SafeListener | None = None
        self._watched: set[str] = set()
        self._cut = False
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
            if self._cut:
                raise Unavailable("The feed is cut off")

    def unwatch(self, task_id: str) -> None:
        with self._lock:
            self._watched.discard(task_id)

    @property
    def watched(self) -> frozenset[str]:
        """What is watched now: a test's way to see that nothing was left behind."""
        with self._lock:
            return frozenset(self._watched)

    def publish(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """Say that a task changed, as the result backend would; lost while cut off, like Redis'
        own.
        """
        with self._lock:
            listener = self._listener
            if listener is not None and task_id in self._watched and not self._cut:
                self._queue.put(lambda: listener.changed(task_id, meta))

    def cut(self) -> None:
        """Cut the line: nothing arrives until `mend`."""
        with self._lock:
            if not self._cut and self._listener is not None:
                self._cut = True
                self._queue.put(self._listener.lost)

    def mend(self) -> None:
        """Mend the line."""
        with self._lock:
            if self._cut and self._listener is not None:
                self._cut = False
                self._queue.put(self._listener.restored)

    def ping(self) -> None:
        if self._cut:
            raise Unavailable("The feed is cut off")

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
        while (tell := self._queue.get()) is not None:
            tell()
