"""The feed for backends that tell nothing: all that is watched is read again at an interval, in one
call.
"""

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

#: Seconds between two looks.
INTERVAL = 1.0
#: How many ids one call of the store is asked for: a bound on the size of one SQL statement.
BATCH = 500
JOIN_TIMEOUT = 5.0


@dataclass(slots=True)
class _Watch:
    #: What the last look showed; None before the first.
    seen: Snapshot | None = None


class PollingFeed(Feed):
    """Reads what is watched every ``interval`` seconds and tells what differs from the time before.

    `watch` needs no acknowledgement: the first look after it always counts as a change, so nothing
    between the caller's own snapshot and that look is lost.
    """

    def __init__(self, store: Store, *, interval: float = INTERVAL) -> None:
        self._store = store
        self._interval = interval
        self._lock = threading.Lock()
        self._listener: SafeListener | None = None
        self._watched: dict[str, _Watch] = {}
        self._cut = False
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()

    def listen(self, listener: Listener) -> None:
        self._listener = SafeListener(listener)

    def watch(self, task_id: str) -> None:
        with self._lock:
            self._watched.setdefault(task_id, _Watch())
            if self._thread is None:
                self._closing.clear()
                self._thread = threading.Thread(target=self._run, name="headway-feed", daemon=True)
                self._thread.start()
            self._wake.set()
            if self._cut:
                raise Unavailable

    def unwatch(self, task_id: str) -> None:
        with self._lock:
            self._watched.pop(task_id, None)

    def ping(self) -> None:
        if self._cut:
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
                self._wake.wait()  # nobody watches: nothing is asked
                continue
            for start in range(0, len(ids), BATCH):
                if self._closing.is_set() or not self._look(ids[start : start + BATCH]):
                    break

    def _look(self, ids: Sequence[str]) -> bool:
        """Read some and tell what changed; False where the backend is away."""
        assert self._listener is not None
        try:
            snapshots = self._store.read(ids)
        except HeadwayError as exc:
            if not self._cut:
                log.warning(
                    "The result backend can't be read; trying again every %g s: %s",
                    self._interval,
                    exc,
                )
                self._cut = True
                self._listener.lost()
            return False
        if self._cut:
            self._cut = False
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
        # Where the registry moved too, its word is needed and the meta alone would mislead.
        same_record = before is not None and before.record == snapshot.record
        self._listener.changed(snapshot.task_id, snapshot.meta if same_record else None)
