"""The hub: one per web process, with one upstream subscription per watched execution.

One thread owns what is known of every watched execution. The feed's thread and the viewers' threads
only enqueue executions (something changed, a viewer came) and wake it. It reads what must be read
in one batch, resolves each execution once, encodes each frame once, and delivers it to every
viewer. So no read needs a lock, the order is the order of one thread, and changes that come faster
than they can be delivered are merged.

A report of the open attempt is delivered without a read. Every other message is only a hint: Celery
itself stores late states (celery-facts#celery-undoes-its-own-ends), so the store is read.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from prometheus_client import Histogram

from headway.core import frames, states
from headway.core.meta import progress_from_meta
from headway.core.registry import Snapshot
from headway.errors import ExecutionExpired, ExecutionNotFound, HeadwayError, Unavailable
from headway.feeds.base import Feed
from headway.models import Execution
from headway.server.counters import Count, Counts
from headway.server.streams.changes import Change, Frame, ProgressChange, Viewer
from headway.server.streams.fanout import Fanout
from headway.server.streams.limits import ConnectionLimiter, Transport
from headway.server.streams.long_poll import LongPoll
from headway.server.streams.supervisor import StreamSupervisor
from headway.stores.base import Store

log = logging.getLogger(__name__)

#: Seconds between two sweeps, at most. A sweep is one pipelined read of everything that is watched
#: and not terminal. It finds lost messages (pub/sub guarantees no delivery), and heartbeats that
#: have stopped, which no message reports.
SWEEP_INTERVAL = 5.0
#: Executions in one read.
BATCH = 200
#: Seconds until a failed read is retried.
RETRY_AFTER = 1.0
#: Seconds that a known execution may be missing from the store before its viewers are refused: a
#: Redis that restarted without its data has it again after the attempt's next write.
MISSING_GRACE = 60.0
JOIN_TIMEOUT = 5.0
#: Seconds that the first read may take; then a held poll or an event stream responds without it.
FIRST_READ = 5.0
#: Seconds. A healthy feed takes milliseconds, and a worker may hold a report for its interval. A
#: longer lag is a fault.
LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def utc_now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class _Watched:
    """One watched execution.

    The hub's lock guards the fields up to ``subscribed``; the rest belongs to the hub's thread.
    """

    execution_id: str
    viewers: set[Viewer] = field(default_factory=set)
    #: Viewers that have received nothing yet.
    new_viewers: set[Viewer] = field(default_factory=set)
    #: Those of them that were there when the current batch was taken. Later ones may have seen
    #: newer state than the batch has read.
    admissible: set[Viewer] = field(default_factory=set)
    #: The feed's last message that was not processed yet.
    inbox: Mapping[str, Any] | None = None
    #: The store must be read, whatever the inbox says.
    needs_read: bool = True
    #: A message may have been lost since the last delivery.
    missed_changes: bool = False
    queued: bool = False
    #: `Feed.watch` was called.
    subscribed: bool = False

    #: What the viewers were last shown; None before the first read.
    execution: Execution | None = None
    #: An ``error`` frame reported that the backend is unavailable: a ``status`` frame must follow.
    reported_unavailable: bool = False
    missing_since: float | None = None


class Hub:
    """See the module's docstring.

    The extension makes one per process. Its thread starts with the first viewer.
    ``sweep_interval``, ``retry_after``, ``missing_grace`` and ``first_read`` in seconds; what they
    limit is said at the constants of the same names.
    """

    def __init__(
        self,
        store: Store,
        feed: Feed,
        *,
        max_viewers: int = 0,
        clock: Callable[[], datetime] = utc_now,
        sweep_interval: float = SWEEP_INTERVAL,
        retry_after: float = RETRY_AFTER,
        missing_grace: float = MISSING_GRACE,
        first_read: float = FIRST_READ,
    ) -> None:
        self.store = store
        self.feed = feed
        self.clock = clock
        self.limiter = ConnectionLimiter(max_viewers)
        self.supervisor = StreamSupervisor()
        self.first_read = first_read
        self.sweep_interval = sweep_interval
        self._retry_after, self._missing_grace = retry_after, missing_grace
        self._changed = threading.Condition()
        self._watched: dict[str, _Watched] = {}
        self._queue: list[_Watched] = []
        self._retry: set[_Watched] = set()
        self._retry_at: float | None = None
        self._sweep_at = 0.0
        self._disconnected = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self.counts = Counts()
        self._fanout = Fanout(self.counts)
        self.lag = Histogram(
            "headway_feed_lag_seconds",
            "Seconds from a report in its task to its delivery to the viewers",
            buckets=LAG_BUCKETS,
            registry=None,
        )
        feed.listen(self)

    # -- for viewers: from any thread

    def attach(self, execution_id: str, viewer: Viewer, *, fresh: bool = False) -> None:
        """Add a viewer. The hub's thread delivers ``status`` to it first, or refuses it.

        ``fresh``: read the store before anything is sent. A reconnecting client may already have
        seen newer state from another process.

        Returns when the feed watches the execution (celery-facts#subscribe-before-snapshot), or is
        unavailable: then the viewer receives an ``error`` frame, and the state later. Raises
        ``Unavailable`` while the hub closes.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("The server is going down")
            self._start()
            watched = self._watched.get(execution_id)
            if watched is None:
                watched = self._watched[execution_id] = _Watched(execution_id)
            watched.new_viewers.add(viewer)
            first, watched.subscribed = not watched.subscribed, True
            watched.needs_read |= fresh
            if not first:
                self._enqueue(watched)
                return
        missed_changes = False
        try:
            self.feed.watch(execution_id)
        except Unavailable:
            missed_changes = True
        with self._changed:
            watched.missed_changes |= missed_changes
            watched.needs_read = True
            if self._watched.get(execution_id) is watched:
                self._enqueue(watched)
            elif execution_id not in self._watched:
                # The last viewer left while the feed subscribed.
                self.feed.unwatch(execution_id)
            closed = self._closed
        if closed:
            self.detach(execution_id, viewer)
            # `close` came before the subscription: nothing else would end what it started.
            self.feed.close()
            raise Unavailable("The server is going down")

    def detach(self, execution_id: str, viewer: Viewer) -> None:
        """Remove a viewer; the last one ends the feed's subscription. Idempotent."""
        with self._changed:
            watched = self._watched.get(execution_id)
            if watched is None:
                return
            watched.viewers.discard(viewer)
            watched.new_viewers.discard(viewer)
            watched.admissible.discard(viewer)
            if not watched.viewers and not watched.new_viewers:
                del self._watched[execution_id]
                # Under the lock, so that a new viewer's subscription of the same id comes after it.
                self.feed.unwatch(execution_id)

    def wait(
        self, execution_id: str, accept: Callable[[Execution], bool], timeout: float
    ) -> Execution:
        """Return the first state that ``accept`` accepts; after ``timeout`` seconds, the newest.

        Raises what `states.resolve` raises, ``Unavailable``, and ``TooManyRequests`` if the limit
        of viewers is reached.
        """
        poll = LongPoll(self.first_read)
        with self.limiter.slot(Transport.POLL), self.supervisor.supervise(poll):
            self.attach(execution_id, poll, fresh=True)
            try:
                return poll.wait(accept, timeout)
            finally:
                self.detach(execution_id, poll)

    @property
    def watched(self) -> frozenset[str]:
        """The ids of the executions that have viewers."""
        with self._changed:
            return frozenset(self._watched)

    def close(self) -> None:
        """Close all streams, end the hub's thread and the feed. A second call does nothing."""
        self.supervisor.close_all()
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join(JOIN_TIMEOUT)
        self.feed.close()

    # -- for the feed: from its thread

    def changed(self, task_id: str, meta: Mapping[str, Any] | None) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            watched = self._watched.get(task_id)
            if watched is None:
                return
            before = watched.inbox
            # A late report must not hide a terminal state that is still in the inbox.
            watched.needs_read |= meta is None or (
                before is not None and before.get("status") != meta.get("status")
            )
            watched.inbox = meta
            self._enqueue(watched)

    def lost(self) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            self._disconnected = True
            self.counts.add(Count.OUTAGES)
            for watched in self._watched.values():
                watched.missed_changes = True
                self._enqueue(watched)

    def restored(self) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            self._disconnected = False
            self.counts.add(Count.RECONNECTS)
            for watched in self._watched.values():
                watched.missed_changes = watched.needs_read = True
                self._enqueue(watched)

    # -- the hub's thread

    def _start(self) -> None:
        """Called with the lock held."""
        if self._thread is None:
            self._sweep_at = self._next_sweep()
            self._thread = threading.Thread(target=self._run, name="headway-hub", daemon=True)
            self._thread.start()

    def _enqueue(self, watched: _Watched) -> None:
        """Called with the lock held."""
        if not watched.queued:
            watched.queued = True
            self._queue.append(watched)
            self._changed.notify()

    def _next_sweep(self) -> float:
        """With jitter, so that many web processes do not read at the same time."""
        return time.monotonic() + self.sweep_interval * random.uniform(0.7, 1.0)  # noqa: S311 - no secret

    def _run(self) -> None:
        with self._fanout:
            self._run_loop()

    def _run_loop(self) -> None:
        while self._wait_and_process():
            pass

    def _wait_and_process(self) -> bool:
        """Wait for something to do, and do it. Returns False when the hub closes.

        A function of its own, so that its locals end with the work: a waiting frame would keep the
        last execution and its viewers alive until the next change.
        """
        with self._changed:
            while not self._queue and not self._closed and (wait := self._seconds_until_due()) > 0:
                self._changed.wait(wait)
            if self._closed:
                return False
            self._collect_due()
            batch, self._queue = self._queue, []
            for watched in batch:
                watched.queued = False
        try:
            self._process(batch)
        except Exception:  # every viewer depends on this thread: one failure must not end it
            log.exception("The hub failed to process %d executions; it continues", len(batch))
        return True

    def _seconds_until_due(self) -> float:
        return (
            min(self._sweep_at, self._retry_at if self._retry_at is not None else self._sweep_at)
            - time.monotonic()
        )

    def _collect_due(self) -> None:
        """Enqueue what is due for a read. Called with the lock held."""
        now = time.monotonic()
        if self._retry_at is not None and now >= self._retry_at:
            for watched in self._retry:
                self._enqueue(watched)
            self._retry, self._retry_at = set(), None
        if now >= self._sweep_at:
            self._sweep_at = self._next_sweep()
            self.counts.add(Count.SWEEPS)
            for watched in self._watched.values():
                if watched.subscribed and (
                    watched.execution is None or not watched.execution.status.terminal
                ):
                    watched.needs_read = True
                    self._enqueue(watched)

    def _process(self, batch: Iterable[_Watched]) -> None:
        to_read = []
        for watched in batch:
            with self._changed:
                inbox, needs_read, missed_changes = (
                    watched.inbox,
                    watched.needs_read,
                    watched.missed_changes,
                )
                watched.inbox, watched.missed_changes = None, False
                watched.admissible = set(watched.new_viewers)
                disconnected = self._disconnected
                watched.needs_read = needs_read and disconnected
                if not watched.viewers and not watched.new_viewers:
                    continue
            if missed_changes or disconnected:
                self._report_outage(watched)
            if disconnected:
                continue
            if (
                needs_read
                or watched.execution is None
                or (inbox is not None and not self._apply_report(watched, inbox))
            ):
                to_read.append(watched)
            elif inbox is None:
                self._publish(watched, watched.execution)  # a new viewer, no change
        for start in range(0, len(to_read), BATCH):
            self._read(to_read[start : start + BATCH])

    def _apply_report(self, watched: _Watched, meta: Mapping[str, Any]) -> bool:
        """Deliver a report of the open attempt without a read. Returns False if a read is needed.

        The message may be older than the last read, which can overtake it. Their own times
        decide; if those are equal, or a clock jumped back, the store is read.
        """
        shown = watched.execution
        if (
            shown is None
            or watched.reported_unavailable
            or not states.is_current_report(shown, meta)
        ):
            return False
        progress = progress_from_meta(meta["status"], meta["result"])
        if progress is None or progress.timestamp is None:
            return False
        if shown.progress is not None and (
            shown.progress.timestamp is None or progress.timestamp <= shown.progress.timestamp
        ):
            return False
        # The clocks of two machines: a negative lag counts as 0.
        self.lag.observe(max(0.0, (self.clock() - progress.timestamp).total_seconds()))
        updated_at = max(progress.timestamp, shown.updated_at or progress.timestamp)
        self.counts.add(Count.REPORTS)
        self._publish(watched, replace(shown, progress=progress, updated_at=updated_at))
        return True

    def _read(self, batch: Sequence[_Watched]) -> None:
        self.counts.add(Count.READS)
        try:
            snapshots = self.store.read([watched.execution_id for watched in batch])
        except Unavailable as exc:
            log.debug("Cannot read %d executions now: %s", len(batch), exc)
            self._read_later(batch)
            return
        except Exception:
            # One unreadable record must not affect the others.
            if len(batch) > 1:
                for watched in batch:
                    self._read([watched])
                return
            log.exception("Execution %r cannot be read", batch[0].execution_id)
            self._read_later(batch)
            return
        for watched, snapshot in zip(batch, snapshots, strict=True):
            self._apply_snapshot(watched, snapshot)

    def _read_later(self, batch: Iterable[_Watched]) -> None:
        for watched in batch:
            self._report_outage(watched)
            with self._changed:
                watched.needs_read = True
                self._retry.add(watched)
        if self._retry_at is None:
            self._retry_at = time.monotonic() + self._retry_after

    def _apply_snapshot(self, watched: _Watched, snapshot: Snapshot) -> None:
        try:
            execution = states.resolve(snapshot, self.clock())
        except (ExecutionNotFound, ExecutionExpired) as exc:
            self._handle_missing(watched, exc)
            return
        watched.missing_since = None
        shown = watched.execution
        if shown is not None and not states.supersedes(shown, execution):
            execution = shown  # a publisher without the fence may have stored a later state
        self._publish(watched, execution)

    def _handle_missing(self, watched: _Watched, error: HeadwayError) -> None:
        """Refuse the viewers of an execution that does not exist.

        One that was shown before may come back (`MISSING_GRACE`); new viewers are refused at once.
        """
        now = time.monotonic()
        if watched.execution is not None and watched.missing_since is None:
            watched.missing_since = now
        lasting = (
            watched.execution is None
            or watched.missing_since is None
            or now - watched.missing_since > self._missing_grace
        )
        with self._changed:
            refused = [
                *(watched.new_viewers & watched.admissible),
                *(watched.viewers if lasting else ()),
            ]
        # Detach first: a refused client may subscribe again at once, and must not be detached from
        # its new subscription.
        for viewer in refused:
            self.detach(watched.execution_id, viewer)
        self._fanout.refuse(refused, watched.execution_id, error)

    def _publish(self, watched: _Watched, execution: Execution) -> None:
        """Deliver the new state: the difference to old viewers, everything to new ones.

        After an outage, old viewers receive everything too.
        """
        at = self.clock()
        before, watched.execution = watched.execution, execution
        with self._changed:
            viewers = list(watched.viewers)
            new_viewers = self._admit(watched)
        missed_changes, watched.reported_unavailable = watched.reported_unavailable, False
        if new_viewers:
            opening = tuple(Frame(content) for content in frames.opening_frames(execution, at))
            self._fanout.deliver(new_viewers, Change(watched.execution_id, execution, opening))
        if viewers and (missed_changes or before is None):
            again = tuple(
                Frame(content) for content in frames.opening_frames(execution, at, before)
            )
            self._fanout.deliver(viewers, Change(watched.execution_id, execution, again))
        elif viewers and before is not None and before != execution:
            change = ProgressChange(before.progress, execution.progress)
            changes = tuple(
                Frame(content, change) for content in frames.frames_between(before, execution, at)
            )
            self._fanout.deliver(viewers, Change(watched.execution_id, execution, changes))

    def _admit(self, watched: _Watched) -> list[Viewer]:
        """Move the admissible new viewers to the viewers. Called with the lock held.

        Later ones have enqueued the execution again.
        """
        admitted = watched.new_viewers & watched.admissible
        watched.viewers |= admitted
        watched.new_viewers -= admitted
        return list(admitted)

    def _report_outage(self, watched: _Watched) -> None:
        """Deliver an ``error`` frame: once per outage, and to each viewer that comes meanwhile."""
        with self._changed:
            viewers = [] if watched.reported_unavailable else list(watched.viewers)
            receivers = self._admit(watched) + viewers
        watched.reported_unavailable = True
        if receivers:
            status = watched.execution.status if watched.execution is not None else None
            text = "The result backend is unavailable; the stream continues when it is back"
            frame = Frame(
                frames.error_frame("unavailable", text, self.clock(), watched.execution_id, status)
            )
            self._fanout.deliver(receivers, Change(watched.execution_id, None, (frame,)))
