"""Executions from the result backend of a Celery app, without a server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from headway.backends import feed_for, store_for
from headway.cancellation import request_cancel
from headway.cli.source import SourceError, Update
from headway.core.registry import Snapshot
from headway.core.states import resolve
from headway.errors import ExecutionExpired, ExecutionNotFound, Unavailable
from headway.feeds.base import Feed
from headway.models import Execution, History, Query
from headway.stores.base import Store
from headway.stores.result_backend import check_readable

#: Executions per page of the store, and per read.
PAGE_SIZE = 200
#: Seconds between two reads of all executions: no message reports that heartbeats have stopped (as
#: in ``server/streams/hub.py``).
SWEEP_INTERVAL = 2.0
#: Seconds between two attempts during an outage.
RETRY_INTERVAL = 1.0


class BackendSource:
    """An `ExecutionSource` over store, feed and cancellation. ``allow_pickle`` is the server's
    setting; ``store``, ``feed`` and ``clock`` are arguments for tests.

    Raises ``ConfigurationError`` for a backend that other processes can't read.
    """

    def __init__(
        self,
        app: Any,
        *,
        allow_pickle: bool = False,
        store: Store | None = None,
        feed: Feed | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if store is None:
            check_readable(app, allow_pickle=allow_pickle)
        self._app = app
        self._store = store if store is not None else store_for(app, allow_pickle=allow_pickle)
        self._feed = feed
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._store.close()

    def get(self, execution_id: str) -> Execution:
        """See `ExecutionSource.get`."""
        return resolve(self._store.read([execution_id])[0], self._clock())

    def history(self, execution_id: str) -> History:
        """See `ExecutionSource.history`."""
        return self._store.history(execution_id)

    def list(self, query: Query, limit: int | None) -> Iterator[Execution]:
        """See `ExecutionSource.list`."""
        remaining = limit
        while remaining is None or remaining > 0:
            page_size = PAGE_SIZE if remaining is None else min(remaining, PAGE_SIZE)
            page = self._store.query(replace(query, limit=page_size))
            for snapshot in page.snapshots:
                try:
                    yield resolve(snapshot, self._clock())
                except (ExecutionNotFound, ExecutionExpired):
                    continue  # it expired while the page was read
            remaining = None if remaining is None else remaining - len(page.snapshots)
            if page.cursor is None:
                return
            query = replace(query, cursor=page.cursor)

    def cancel(self, execution_id: str, *, terminate: bool) -> Execution:
        """See `ExecutionSource.cancel`."""
        return request_cancel(
            self._app, self._store, execution_id, terminate=terminate, at=self._clock()
        )

    def follow(self, execution_ids: Sequence[str]) -> Iterator[Update]:
        """See `ExecutionSource.follow`."""
        feed = self._feed if self._feed is not None else feed_for(self._app, self._store)
        inbox = _Inbox(execution_ids)
        feed.listen(inbox)
        current: dict[str, Execution | None] = dict.fromkeys(execution_ids)
        unavailable = False
        try:
            for execution_id in current:
                try:
                    feed.watch(execution_id)
                except Unavailable:
                    inbox.lost()  # the feed watches it after it has reconnected
            while current:
                changed = inbox.take(RETRY_INTERVAL if unavailable else SWEEP_INTERVAL)
                try:
                    if inbox.disconnected:
                        raise Unavailable
                    snapshots = self._read([each for each in changed or current if each in current])
                except Unavailable as exc:
                    if not unavailable:
                        yield SourceError(f"{exc}; trying again")
                    unavailable = True
                    continue
                unavailable = False
                for snapshot in snapshots:
                    try:
                        execution = resolve(snapshot, self._clock())
                    except (ExecutionNotFound, ExecutionExpired) as exc:
                        del current[snapshot.task_id]
                        yield SourceError.of(exc)
                        continue
                    execution_id = execution.execution_id
                    before, current[execution_id] = current[execution_id], execution
                    if execution.status.terminal:
                        del current[execution_id]
                        feed.unwatch(execution_id)
                    if execution != before:
                        yield execution
        finally:
            feed.close()

    def _read(self, ids: Sequence[str]) -> Sequence[Snapshot]:
        parts = [ids[start : start + PAGE_SIZE] for start in range(0, len(ids), PAGE_SIZE)]
        return [snapshot for part in parts for snapshot in self._store.read(part)]


class _Inbox:
    """Collects the ids of changed executions; a `feeds.base.Listener`."""

    def __init__(self, execution_ids: Sequence[str]) -> None:
        self._condition = threading.Condition()
        self._all = dict.fromkeys(execution_ids)
        self._changed = dict(self._all)
        #: The feed has no connection. What the store returns may become stale without a message.
        self.disconnected = False

    def take(self, timeout: float) -> Sequence[str]:
        """The ids that changed since the last call; empty after ``timeout`` seconds without one."""
        with self._condition:
            if not self._changed:
                self._condition.wait(timeout)
            changed, self._changed = list(self._changed), {}
            return changed

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """See `feeds.base.Listener`."""
        with self._condition:
            self._changed[task_id] = None
            self._condition.notify()

    def lost(self) -> None:
        """See `feeds.base.Listener`."""
        self._set(disconnected=True)

    def restored(self) -> None:
        """See `feeds.base.Listener`."""
        self._set(disconnected=False)

    def _set(self, *, disconnected: bool) -> None:
        with self._condition:
            self.disconnected = disconnected
            self._changed |= self._all
            self._condition.notify()
