"""The hub: one per web process, one upstream watch per watched execution, however many look on.

One thread, the pump, owns what is known of every watched execution. The feed's thread and the
viewers' own threads only leave notes (something changed, somebody came) and wake it; it reads what
has to be read in one batch, runs the state machine once per change, encodes each frame once, and
tells every viewer. So nothing here needs a lock around a read, order is the order of one thread,
and what comes faster than it can be told merges to the newest by itself.

A report of the open attempt is told without a read. Everything else that arrives is a hint (fact
42: late words come after newer ones), and the store is asked.
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

#: Seconds between two sweeps, at most. A lost message (pub/sub promises nothing, fact 22) is
#: noticed that late, and so is the one thing of which no message tells: that signs of life have
#: stopped. One pipelined read of what is open and watched.
SWEEP_INTERVAL = 5.0
#: Executions in one read.
BATCH = 200
#: Seconds until a failed read is tried again.
RETRY_AFTER = 1.0
#: Seconds that a known execution may be missing from the store before its viewers are told so: a
#: server that came back without its data has it again with the attempt's next write.
MISSING_GRACE = 60.0
JOIN_TIMEOUT = 5.0
#: Seconds. A healthy feed takes milliseconds; a reporter may hold a report for its interval; beyond
#: that something is wrong.
LAG_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def utc_now() -> datetime:
    """The clock of the server."""
    return datetime.now(UTC)


@dataclass(slots=True, eq=False)
class _Watched:
    """One execution that somebody looks at. Viewers and notes are guarded by the hub's lock; the
    rest is the pump's own.
    """

    execution_id: str
    viewers: set[Viewer] = field(default_factory=set)
    #: Those who have come and were told nothing yet.
    joiners: set[Viewer] = field(default_factory=set)
    #: Those of them who had come when the round began. Who came since may know more than what this
    #: round has read.
    awaiting: set[Viewer] = field(default_factory=set)
    #: The feed's last message that nobody has looked at.
    inbox: Mapping[str, Any] | None = None
    #: It has to be read, whatever the inbox says.
    stale: bool = True
    #: Something may have been missed since the viewers were last told.
    gap: bool = False
    queued: bool = False
    #: The feed watches it, or was asked to.
    wanted: bool = False

    #: What the viewers were last told; None before the first read.
    execution: Execution | None = None
    #: The viewers were told that the backend is away; a fresh ``status`` is owed to them.
    away: bool = False
    missing_since: float | None = None


class Hub:
    """See the module's text. Made once per process, by the extension; its thread begins with the
    first viewer.
    """

    def __init__(
        self,
        store: Store,
        feed: Feed,
        *,
        max_viewers: int = 0,
        clock: Callable[[], datetime] = utc_now,
        sweep_interval: float = SWEEP_INTERVAL,
    ) -> None:
        self.store = store
        self.feed = feed
        self.clock = clock
        self.budget = ConnectionLimiter(max_viewers)
        self.keeper = StreamSupervisor()
        self._sweep_interval = sweep_interval
        self._changed = threading.Condition()
        self._watched: dict[str, _Watched] = {}
        self._queue: list[_Watched] = []
        self._retry: set[_Watched] = set()
        self._retry_at: float | None = None
        self._sweep_at = 0.0
        self._cut = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self.counts = Counts()
        self._teller = Fanout(self.counts)
        self.lag = Histogram(
            "headway_feed_lag_seconds",
            "From a report in its task (which may wait there to be written) to its viewers being told of it",
            buckets=LAG_BUCKETS,
            registry=None,
        )
        feed.listen(self)

    # -- for viewers: from any thread

    def attach(self, execution_id: str, viewer: Viewer, *, fresh: bool = False) -> None:
        """Let a viewer look on; it is told ``status`` first, in the pump's thread, or refused.

        ``fresh``: of what is read from now on, and not of what this process has heard by now. For
        one that comes back: it may have seen more in another process, and would be led back for a
        moment.

        Returns when the feed watches (fact 23), or has been found away: then the viewer is told so,
        and the rest when it is back. Raises ``Unavailable`` while the hub closes.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("The server is going down")
            self._start()
            watched = self._watched.get(execution_id)
            if watched is None:
                watched = self._watched[execution_id] = _Watched(execution_id)
            watched.joiners.add(viewer)
            first, watched.wanted = not watched.wanted, True
            watched.stale |= fresh
            if not first:
                self._note(watched)
                return
        gap = False
        try:
            self.feed.watch(execution_id)
        except Unavailable:
            gap = True
        with self._changed:
            watched.gap |= gap
            watched.stale = True
            if self._watched.get(execution_id) is watched:
                self._note(watched)
            elif execution_id not in self._watched:
                self.feed.unwatch(
                    execution_id
                )  # the last viewer left while the feed was being asked
            closed = self._closed
        if closed:
            self.detach(execution_id, viewer)
            # `close` was quicker than the watch, and nobody else would end what that began
            self.feed.close()
            raise Unavailable("The server is going down")

    def detach(self, execution_id: str, viewer: Viewer) -> None:
        """A viewer has gone. The last one takes the upstream watch along. A second call does
        nothing.
        """
        with self._changed:
            watched = self._watched.get(execution_id)
            if watched is None:
                return
            watched.viewers.discard(viewer)
            watched.joiners.discard(viewer)
            watched.awaiting.discard(viewer)
            if not watched.viewers and not watched.joiners:
                del self._watched[execution_id]
                # Under the lock: a newcomer's watch of the same id can only come after it.
                self.feed.unwatch(execution_id)

    def wait(
        self, execution_id: str, is_news: Callable[[Execution], bool], timeout: float
    ) -> Execution:
        """The first state that ``is_news`` says yes to, or the newest after ``timeout`` seconds.

        Raises what `states.resolve` raises, ``Unavailable``, and ``TooManyRequests`` where no seat
        is free.
        """
        waiter = LongPoll()
        with self.budget.seat(Transport.POLL), self.keeper.keeping(waiter):
            self.attach(execution_id, waiter, fresh=True)
            try:
                return waiter.wait(is_news, timeout)
            finally:
                self.detach(execution_id, waiter)

    @property
    def watched(self) -> frozenset[str]:
        """The executions that somebody looks at now."""
        with self._changed:
            return frozenset(self._watched)

    def close(self) -> None:
        """Send the viewers away, and end the pump and the feed. A second call does nothing."""
        self.keeper.send_away()
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
            # An end that nobody has looked at yet may not be hidden by a late report that came
            # after it.
            watched.stale |= meta is None or (
                before is not None and before.get("status") != meta.get("status")
            )
            watched.inbox = meta
            self._note(watched)

    def lost(self) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            self._cut = True
            self.counts.add(Count.OUTAGES)
            for watched in self._watched.values():
                watched.gap = True
                self._note(watched)

    def restored(self) -> None:
        """See `feeds.base.Listener`."""
        with self._changed:
            self._cut = False
            self.counts.add(Count.RECONNECTS)
            for watched in self._watched.values():
                watched.gap = watched.stale = True
                self._note(watched)

    # -- the pump

    def _start(self) -> None:
        """Called with the lock held."""
        if self._thread is None:
            self._sweep_at = self._next_sweep()
            self._thread = threading.Thread(target=self._run, name="headway-hub", daemon=True)
            self._thread.start()

    def _note(self, watched: _Watched) -> None:
        """Called with the lock held."""
        if not watched.queued:
            watched.queued = True
            self._queue.append(watched)
            self._changed.notify()

    def _next_sweep(self) -> float:
        """Jittered: many web processes shall not ask the backend in step."""
        return time.monotonic() + self._sweep_interval * random.uniform(0.7, 1.0)  # noqa: S311 - no secret

    def _run(self) -> None:
        with self._teller:
            self._pump()

    def _pump(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Wait for something to do, and do it; False where the hub closes. In a frame of its own,
        which ends with the work: one that waits for more would hold what was done last, and its
        viewers, for as long as nobody comes.
        """
        with self._changed:
            while not self._queue and not self._closed and (patience := self._patience()) > 0:
                self._changed.wait(patience)
            if self._closed:
                return False
            self._collect_due()
            batch, self._queue = self._queue, []
            for watched in batch:
                watched.queued = False
        try:
            self._round(batch)
        except Exception:  # the pump is all that viewers have: a fault in one round may not end it
            log.exception("The hub failed over %d executions and goes on", len(batch))
        return True

    def _patience(self) -> float:
        return (
            min(self._sweep_at, self._retry_at if self._retry_at is not None else self._sweep_at)
            - time.monotonic()
        )

    def _collect_due(self) -> None:
        """Queue what has to be read by now. Called with the lock held."""
        now = time.monotonic()
        if self._retry_at is not None and now >= self._retry_at:
            for watched in self._retry:
                self._note(watched)
            self._retry, self._retry_at = set(), None
        if now >= self._sweep_at:
            self._sweep_at = self._next_sweep()
            self.counts.add(Count.SWEEPS)
            for watched in self._watched.values():
                if watched.wanted and (
                    watched.execution is None or not watched.execution.status.terminal
                ):
                    watched.stale = True
                    self._note(watched)

    def _round(self, batch: Iterable[_Watched]) -> None:
        to_read = []
        for watched in batch:
            with self._changed:
                inbox, stale, gap = watched.inbox, watched.stale, watched.gap
                watched.inbox, watched.gap = None, False
                watched.awaiting = set(watched.joiners)
                cut = self._cut
                watched.stale = stale and cut
                if not watched.viewers and not watched.joiners:
                    continue
            if gap or cut:
                self._go_away(watched)
            if cut:
                continue
            if (
                stale
                or watched.execution is None
                or (inbox is not None and not self._report(watched, inbox))
            ):
                to_read.append(watched)
            elif inbox is None:
                self._show(watched, watched.execution)  # somebody came, nothing changed
        for start in range(0, len(to_read), BATCH):
            self._read(to_read[start : start + BATCH])

    def _report(self, watched: _Watched, meta: Mapping[str, Any]) -> bool:
        """Tell a report of the open attempt without a read; False where only a read can say what it
        means.

        A message may be older than the last read (it waited while the read overtook it). The
        reporter's own time tells, and where it doesn't (equal, or a clock that jumped back) the
        store does.
        """
        shown = watched.execution
        if shown is None or watched.away or not states.is_current_report(shown, meta):
            return False
        progress = progress_from_meta(meta["status"], meta["result"])
        if progress is None or progress.timestamp is None:
            return False
        if shown.progress is not None and (
            shown.progress.timestamp is None or progress.timestamp <= shown.progress.timestamp
        ):
            return False
        # Two machines' clocks: what comes before it was sent came at once.
        self.lag.observe(max(0.0, (self.clock() - progress.timestamp).total_seconds()))
        heard = max(progress.timestamp, shown.updated_at or progress.timestamp)
        self.counts.add(Count.REPORTS)
        self._show(watched, replace(shown, progress=progress, updated_at=heard))
        return True

    def _read(self, batch: Sequence[_Watched]) -> None:
        self.counts.add(Count.READS)
        try:
            snapshots = self.store.read([watched.execution_id for watched in batch])
        except Unavailable as exc:
            log.debug("Can't read %d executions now: %s", len(batch), exc)
            self._read_later(batch)
            return
        except Exception:
            # One record that can't be read may not take the others with it.
            if len(batch) > 1:
                for watched in batch:
                    self._read([watched])
                return
            log.exception("Execution %r can't be read", batch[0].execution_id)
            self._read_later(batch)
            return
        for watched, snapshot in zip(batch, snapshots, strict=True):
            self._explain(watched, snapshot)

    def _read_later(self, batch: Iterable[_Watched]) -> None:
        for watched in batch:
            self._go_away(watched)
            with self._changed:
                watched.stale = True
                self._retry.add(watched)
        if self._retry_at is None:
            self._retry_at = time.monotonic() + RETRY_AFTER

    def _explain(self, watched: _Watched, snapshot: Snapshot) -> None:
        try:
            execution = states.resolve(snapshot, self.clock())
        except (ExecutionNotFound, ExecutionExpired) as exc:
            self._miss(watched, exc)
            return
        watched.missing_since = None
        shown = watched.execution
        if shown is not None and not states.supersedes(shown, execution):
            execution = shown  # a backend without the fence may still overwrite a terminal state
        self._show(watched, execution)

    def _miss(self, watched: _Watched, error: HeadwayError) -> None:
        """Nobody knows it. One that was there a moment ago may come back (`MISSING_GRACE`);
        newcomers needn't wait for that.
        """
        now = time.monotonic()
        if watched.execution is not None and watched.missing_since is None:
            watched.missing_since = now
        lasting = (
            watched.execution is None
            or watched.missing_since is None
            or now - watched.missing_since > MISSING_GRACE
        )
        with self._changed:
            refused = [*(watched.joiners & watched.awaiting), *(watched.viewers if lasting else ())]
        # In this order: who is told may ask again at once, and would be detached from what it asked
        # for.
        for viewer in refused:
            self.detach(watched.execution_id, viewer)
        self._teller.refuse(refused, watched.execution_id, error)

    def _show(self, watched: _Watched, execution: Execution) -> None:
        """Tell what it is now: to who looks on already, what changed; to a newcomer, or after an
        outage, all of it.
        """
        at = self.clock()
        before, watched.execution = watched.execution, execution
        with self._changed:
            viewers = list(watched.viewers)
            joiners = self._let_in(watched)
        gap, watched.away = watched.away, False
        if joiners:
            opening = tuple(Frame(content) for content in frames.opening_frames(execution, at))
            self._teller.tell(joiners, Change(watched.execution_id, execution, opening))
        if viewers and (gap or before is None):
            again = tuple(
                Frame(content) for content in frames.opening_frames(execution, at, before)
            )
            self._teller.tell(viewers, Change(watched.execution_id, execution, again))
        elif viewers and before is not None and before != execution:
            step = ProgressChange(before.progress, execution.progress)
            news = tuple(
                Frame(content, step) for content in frames.frames_between(before, execution, at)
            )
            self._teller.tell(viewers, Change(watched.execution_id, execution, news))

    def _let_in(self, watched: _Watched) -> list[Viewer]:
        """Those who are told for the first time now. Called with the lock held. Later ones have
        left a note of their own.
        """
        let_in = watched.joiners & watched.awaiting
        watched.viewers |= let_in
        watched.joiners -= let_in
        return list(let_in)

    def _go_away(self, watched: _Watched) -> None:
        """Tell that the backend is away: once an outage, and to each that comes meanwhile."""
        with self._changed:
            viewers = [] if watched.away else list(watched.viewers)
            told = self._let_in(watched) + viewers
        watched.away = True
        if told:
            status = watched.execution.status if watched.execution is not None else None
            text = "The result backend can't be reached; the stream goes on when it is back"
            frame = Frame(
                frames.error_frame("unavailable", text, self.clock(), watched.execution_id, status)
            )
            self._teller.tell(told, Change(watched.execution_id, None, (frame,)))
