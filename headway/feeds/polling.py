"""The feed for backends without push: it polls everything that is watched, in one call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from headway.core.registry import Snapshot
from headway.errors import HeadwayError, Unavailable
from headway.feeds.base import Feed, Listener, SafeListener
from headway.stores.base import Store

log = logging.getLogger(__name__)

#: Seconds between two polls.
INTERVAL = 1.0
#: Ids per call of the store: limits the size of an SQL statement.
BATCH = 500
JOIN_TIMEOUT = 5.0


@dataclass(slots=True)
class _Subscription:
    #: The last snapshot; None before the first poll.
    seen: Snapshot | None = None


class PollingFeed(Feed):
    """Reads what is watched every ``interval`` seconds and reports the differences.

    `watch` needs no acknowledgement: the first poll after it always counts as a change, so nothing
    between the caller's own snapshot and that poll is lost.
    """

    def __init__(self, store: Store, *, interval: float = INTERVAL) -> None:
        self._store = store
        self._interval = interval
        self._lock = threading.Lock()
        self._listener: SafeListener | None = None
        self._watched: dict[str, _Subscription] = {}
        self._disconnected = False
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()

    def listen(self, listener: Listener) -> None:
        self._listener = SafeListener(listener)

    def watch(self, task_id: str) -> None:
        with self._lock:
            self._watched.setdefault(task_id, _Subscription())
            if self._thread is None:
                self._closing.clear()
                self._thread = threading.Thread(target=self._run, name="headway-feed", daemon=True)
                self._thread.start()
            self._wake.set()
            if self._disconnected:
                raise Unavailable

    def unwatch(self, task_id: str) -> None:
        with self._lock:
            self._watched.pop(task_id, None)

    def ping(self) -> None:
        if self._disconnected:
            raise Unavailable
        self._store.ping()

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._watched.clear()
        if thread is not None:
            self._closing.set()
            self._wake.set()
            thread.join(JOIN_TIMEOUT)

    def _run(self) -> None:
        while not self._closing.wait(self._interval):
            with self._lock:
                ids = list(self._watched)
                if not ids:
                    self._wake.clear()
            if not ids:
                self._wake.wait()  # nothing is watched
                continue
            for start in range(0, len(ids), BATCH):
                if self._closing.is_set() or not self._poll(ids[start : start + BATCH]):
                    break

    def _poll(self, ids: Sequence[str]) -> bool:
        """Read some ids and report changes. Returns False if the backend is unavailable."""
        assert self._listener is not None
        try:
            snapshots = self._store.read(ids)
        except HeadwayError as exc:
            if not self._disconnected:
                log.warning(
                    "The result backend is unavailable; retrying every %g s: %s",
                    self._interval,
                    exc,
                )
                self._disconnected = True
                self._listener.lost()
            return False
        if self._disconnected:
            self._disconnected = False
            self._listener.restored()
        for snapshot in snapshots:
            self._compare(snapshot)
        return True

    def _compare(self, snapshot: Snapshot) -> None:
        assert self._listener is not None
        with self._lock:
            watch = self._watched.get(snapshot.task_id)
            if watch is None or watch.seen == snapshot:
                return
            before, watch.seen = watch.seen, snapshot
        # If the registry changed too, the meta alone would be misleading.
        same_record = before is not None and before.record == snapshot.record
        self._listener.changed(snapshot.task_id, snapshot.meta if same_record else None)
