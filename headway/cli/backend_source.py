"""Executions from the result backend of a Celery app: its store, its feed, its control. No server
is needed.
"""

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
from headway.core.states import resolve
from headway.errors import ExecutionExpired, ExecutionNotFound, Unavailable
from headway.feeds.base import Feed
from headway.models import Execution, History, Query
from headway.stores.base import Store
from headway.stores.result_backend import check_readable

#: Executions of one page of the store, and of one read.
PAGE = 200
#: Seconds between two looks at everything: no message tells that signs of life have stopped (as in
#: ``server/hub.py``).
SWEEP = 2.0
#: Seconds until a result backend that is away is asked again.
RETRY = 1.0


def utc_now() -> datetime:
    """The clock, unless another one is given."""
    return datetime.now(UTC)


class Direct:
    """See the module's text. ``allow_pickle`` as the server's setting; ``store``, ``feed`` and
    ``clock`` are for tests.

    Raises ``ConfigurationError`` for a backend that no other process can read.
    """

    def __init__(
        self,
        app: Any,
        *,
        allow_pickle: bool = False,
        store: Store | None = None,
        feed: Feed | None = None,
        clock: Callable[[], datetime] = utc_now,
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
        """See `Source.get`."""
        return resolve(self._store.read([execution_id])[0], self._clock())

    def history(self, execution_id: str) -> History:
        """See `Source.history`."""
        return self._store.history(execution_id)

    def list(self, query: Query, limit: int | None) -> Iterator[Execution]:
        """See `Source.list`."""
        left = limit
        while left is None or left > 0:
            page = self._store.query(
                replace(query, limit=PAGE if left is None else min(left, PAGE))
            )
            for snapshot in page.snapshots:
                try:
                    yield resolve(snapshot, self._clock())
                except (ExecutionNotFound, ExecutionExpired):
                    continue  # it went while the page was made
            left = None if left is None else left - len(page.snapshots)
            if page.cursor is None:
                return
            query = replace(query, cursor=page.cursor)

    def cancel(self, execution_id: str, *, terminate: bool) -> Execution:
        """See `Source.cancel`."""
        return request_cancel(
            self._app, self._store, execution_id, terminate=terminate, at=self._clock()
        )

    def follow(self, execution_ids: Sequence[str]) -> Iterator[Update]:
        """See `Source.follow`."""
        feed = self._feed if self._feed is not None else feed_for(self._app, self._store)
        inbox = _Inbox(execution_ids)
        feed.listen(inbox)
        shown: dict[str, Execution | None] = dict.fromkeys(execution_ids)
        away = False
        try:
            for execution_id in shown:
                try:
                    feed.watch(execution_id)
                except Unavailable:
                    inbox.lost()  # it is watched all the same once the feed is back
            while shown:
                stale = [
                    execution_id
                    for execution_id in inbox.take(RETRY if away else SWEEP) or shown
                    if execution_id in shown
                ]
                try:
                    if inbox.cut:
                        raise Unavailable
                    parts = [stale[start : start + PAGE] for start in range(0, len(stale), PAGE)]
                    snapshots = [snapshot for part in parts for snapshot in self._store.read(part)]
                except Unavailable as exc:
                    if not away:
                        yield SourceError(f"{exc}; trying again")
                    away = True
                    continue
                away = False
                for snapshot in snapshots:
                    try:
                        execution = resolve(snapshot, self._clock())
                    except (ExecutionNotFound, ExecutionExpired) as exc:
                        del shown[snapshot.task_id]
                        yield SourceError.of(exc)
                        continue
                    changed, shown[execution.execution_id] = (
                        execution != shown[execution.execution_id],
                        execution,
                    )
                    if execution.status.terminal:
                        del shown[execution.execution_id]
                        feed.unwatch(execution.execution_id)
                    if changed:
                        yield execution
        finally:
            feed.close()


class _Inbox:
    """What has changed since it was last asked; a `feeds.base.Listener`."""

    def __init__(self, execution_ids: Sequence[str]) -> None:
        self._changed = threading.Condition()
        self._stale = dict.fromkeys(execution_ids)
        #: The feed is cut off: what the store says may be old the next moment, and nobody would
        #: tell.
        self.cut = False
        self._all = dict.fromkeys(execution_ids)

    def take(self, within: float) -> Sequence[str]:
        """What is to be read; nothing after that many seconds without a word."""
        with self._changed:
            if not self._stale:
                self._changed.wait(within)
            found, self._stale = list(self._stale), {}
            return found

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            self._stale[task_id] = None
            self._changed.notify()

    def lost(self) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            self.cut = True
            self._stale |= self._all
            self._changed.notify()

    def restored(self) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            self.cut = False
            self._stale |= self._all
            self._changed.notify()
