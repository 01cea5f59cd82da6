"""Two observers of every execution, and what makes what they were shown wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from headway.core.frames import TERMINAL_FRAMES
from headway.core.registry import Snapshot
from headway.core.states import resolve
from headway.errors import ExecutionExpired, ExecutionNotFound, HeadwayError, Unavailable
from headway.models import Execution, Phase, Status
from headway.server.streams.changes import Change, Frame
from headway.stores.base import Store

#: Seconds between two looks of the poller: many in the life of every job here.
PAUSE = 0.02

ANY: Any = object()

#: The frames that tell of an end.
ENDS = frozenset(TERMINAL_FRAMES.values())

#: What Celery's own readers are told of each end, unless a row says otherwise.
CELERY = {Status.COMPLETED: "SUCCESS", Status.FAILED: "FAILURE", Status.CANCELLED: "REVOKED"}


@dataclass(frozen=True)
class Truth:
    """What really happened to an execution: its row knows, because it made it happen."""

    #: How it ended; None: it is unknown to everybody in the end (eager; a server that lost its
    #: data).
    status: Status | None
    #: ``current`` of the last report that was made and could be written.
    current: Any = ANY
    attempt: Any = ANY
    outputs: Any = ANY
    #: The type of the error of one that failed.
    error: Any = ANY
    #: What Celery's own record says: its state.
    celery: Any = ANY
    #: What it never was, at any time; stalled is added, unless it was that once.
    never: frozenset[Phase] = frozenset()
    #: What it was, and must have been seen to be.
    once: frozenset[Phase] = frozenset()
    #: The server lost its data in between: attempts and counts may have begun anew.
    forgotten: bool = False
    #: Its result is gone in the end (410).
    expired: bool = False
    #: What it stays at, where it doesn't end at all.
    phase: Any = ANY


@dataclass(eq=False)
class Eye:
    """A viewer of the hub, and the notes of the poller on the same execution."""

    execution_id: str
    frames: list[Frame] = field(default_factory=list)
    told: list[Execution] = field(default_factory=list)
    polled: list[Execution] = field(default_factory=list)
    refused: HeadwayError | None = None

    def deliver(self, change: Change) -> None:
        """See `news.Viewer`."""
        self.frames += change.frames
        if change.execution is not None:
            self.told.append(change.execution)

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """See `news.Viewer`."""
        self.refused = error

    def look(self, snapshot: Snapshot) -> None:
        """The poller's look; what hasn't changed isn't noted again."""
        try:
            now = resolve(snapshot, datetime.now(UTC))
        except (ExecutionNotFound, ExecutionExpired):
            return
        if not self.polled or self.polled[-1] != now:
            self.polled.append(now)


class Poller:
    """Looks at all executions again and again, as a client of REST does, on a thread of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.eyes: dict[str, Eye] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._over.wait(PAUSE):
            ids = list(self.eyes)
            try:
                snapshots = self.store.read(ids) if ids else []
            except Unavailable:
                continue
            for snapshot in snapshots:
                self.eyes[snapshot.task_id].look(snapshot)


def faults(
    truth: Truth, eye: Eye, last: Execution | HeadwayError, meta: Mapping[str, Any] | None
) -> list[str]:
    """All that is wrong with what was shown of one execution; empty where it is what happened.

    ``last``: what is known when everything is over; ``meta``: Celery's own record then, None where
    nobody asks for it.
    """
    wrong = [*at_the_end(truth, last), *_of_celery(truth, meta)]
    for observer, seen in (("viewer", eye.told), ("poller", eye.polled)):
        wrong += [f"{observer}: {fault}" for fault in _on_the_way(truth, seen)]
    if not truth.forgotten:
        wrong += [f"viewer: {fault}" for fault in _of_frames(eye.frames, truth)]
    return wrong


def at_the_end(truth: Truth, last: Execution | HeadwayError) -> Iterable[str]:
    """What is wrong with the last look."""
    if isinstance(last, HeadwayError):
        wanted = (
            ExecutionExpired
            if truth.expired
            else ExecutionNotFound
            if truth.status is None
            else None
        )
        if type(last) is not wanted:
            yield f"ends as {type(last).__name__}"
        return
    if truth.status is None or truth.expired:
        yield f"ends as {last.status}, and should be {'expired' if truth.expired else 'unknown'}"
        return
    said = {
        "status": (last.status, truth.status),
        "phase": (last.phase, truth.phase),
        "attempt": (last.attempt, truth.attempt),
        "outputs": (last.outputs, truth.outputs),
        "current": (last.progress.current if last.progress is not None else None, truth.current),
        "error": (last.error.type if last.error is not None else None, truth.error),
    }
    for name, (shown, true) in said.items():
        if true is not ANY and shown != true:
            yield f"ends with {name} {shown!s}, and it was {true!s}"
    begun = last.started_at is not None or not last.attempt or truth.forgotten
    if last.status.terminal and (last.finished_at is None or not begun):
        yield f"ends without its times: {last.started_at} to {last.finished_at}"


def _of_celery(truth: Truth, meta: Mapping[str, Any] | None) -> Iterable[str]:
    if meta is None or truth.status is None or truth.expired:
        return
    true = truth.celery if truth.celery is not ANY else CELERY.get(truth.status, ANY)
    if true is not ANY and meta.get("status") != true:
        yield f"Celery's record says {meta.get('status')}, and it was {true}"


def _on_the_way(truth: Truth, seen: list[Execution]) -> Iterable[str]:
    """What was shown may not go back: no end is taken back, no attempt, no count, no progress."""
    for before, after in pairwise(seen):
        shown = f"{_short(before)} then {_short(after)}"
        newer = after.attempt > before.attempt
        if before.status.terminal and not newer and after.status is not before.status:
            yield f"an end was taken back: {shown}"
        if truth.forgotten:
            continue
        if after.attempt < before.attempt:
            yield f"an attempt was taken back: {shown}"
        if not newer and before.progress is not None and after.progress is None:
            yield f"progress vanished: {shown}"
        if (
            not newer
            and before.progress is not None
            and after.progress is not None
            and (after.progress.current or 0) < (before.progress.current or 0)
        ):
            yield f"progress went back: {shown}"
        if before.status is not Status.PENDING and after.status is Status.PENDING:
            yield f"it was queued again: {shown}"
    phases = {each.phase for each in seen}
    never = truth.never | ({Phase.STALLED} - truth.once)
    if phases & never:
        yield f"it was never {', '.join(sorted(phases & never))}: {' '.join(map(_short, seen[-4:]))}"
    if truth.once - phases:
        yield f"it was {', '.join(sorted(truth.once - phases))} once, and that was not seen"


def _of_frames(frames: list[Frame], truth: Truth) -> Iterable[str]:
    """The stream: ``status`` first, one end, nothing after it but a new attempt."""
    kinds = [frame.kind for frame in frames if frame.kind != "error"]
    if truth.status is None:
        return
    if kinds[:1] != ["status"]:
        yield f"the stream begins with {kinds[:1]}"
    for kind, following in pairwise(kinds):
        if kind in ENDS and following != "status":
            yield f"{following} came after {kind}"
    if (
        truth.status.terminal
        and (not kinds or kinds[-1] != truth.status.value)
        and not truth.expired
    ):
        yield f"the stream ends with {kinds[-1:]}"


def _short(execution: Execution) -> str:
    current = execution.progress.current if execution.progress is not None else None
    return f"{execution.phase.value}#{execution.attempt}@{current}"
