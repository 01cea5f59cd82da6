"""Two observers of every execution, and the check of what they saw."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
from tests.support.recording_viewer import RecordingViewer

#: Seconds between two reads of the poller. Every job here lives much longer.
POLL_INTERVAL = 0.02

ANY: Any = object()

#: The frames of a terminal state.
TERMINAL = frozenset(TERMINAL_FRAMES.values())

#: Celery's state for each status, unless a scenario expects another.
CELERY_STATES = {
    Status.COMPLETED: "SUCCESS",
    Status.FAILED: "FAILURE",
    Status.CANCELLED: "REVOKED",
}


@dataclass(frozen=True)
class Expected:
    """What really happens to an execution. The scenario knows it, because it causes it."""

    #: The final status. None: unknown in the end (run eagerly, or the server lost its data).
    status: Status | None
    #: ``current`` of the last report that could be written.
    current: Any = ANY
    attempt: Any = ANY
    outputs: Any = ANY
    #: The type of the error, if it failed.
    error: Any = ANY
    #: The final state in Celery's own record.
    celery: Any = ANY
    #: Phases that it never was in. Stalled is added, unless it is in ``once``.
    never: frozenset[Phase] = frozenset()
    #: Phases that both observers must have seen.
    once: frozenset[Phase] = frozenset()
    #: The server lost its data: attempts and counts may have started again.
    forgotten: bool = False
    #: Its result has expired in the end (410).
    expired: bool = False
    #: The final phase of one that doesn't end.
    phase: Any = ANY


class Observation(RecordingViewer):
    """What both observers saw of one execution: the viewer of the hub and the poller."""

    def __init__(self) -> None:
        super().__init__()
        #: The executions that the hub delivered to the viewer.
        self.streamed: list[Execution] = []
        #: The executions that the poller read, without repetitions.
        self.polled: list[Execution] = []

    def deliver(self, change: Change) -> None:
        super().deliver(change)
        if change.execution is not None:
            self.streamed.append(change.execution)

    def poll(self, snapshot: Snapshot) -> None:
        """Record what the poller read."""
        try:
            execution = resolve(snapshot, datetime.now(UTC))
        except (ExecutionNotFound, ExecutionExpired):
            return
        if not self.polled or self.polled[-1] != execution:
            self.polled.append(execution)


class Poller:
    """Reads all executions again and again in its own thread, as a client of the REST API does."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.observations: dict[str, Observation] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._closed.wait(POLL_INTERVAL):
            ids = list(self.observations)
            try:
                snapshots = self.store.read(ids) if ids else []
            except Unavailable:
                continue
            for snapshot in snapshots:
                self.observations[snapshot.task_id].poll(snapshot)


def find_violations(
    expected: Expected,
    observation: Observation,
    last: Execution | HeadwayError,
    meta: Mapping[str, Any] | None,
) -> list[str]:
    """All that was wrong with one execution. Empty: everything was shown as it happened.

    ``last``: the final state. ``meta``: Celery's final record, or None to skip its check.
    """
    wrong = [*check_final_state(expected, last), *_check_celery(expected, meta)]
    for observer, seen in (("viewer", observation.streamed), ("poller", observation.polled)):
        wrong += [f"{observer}: {violation}" for violation in _check_order(expected, seen)]
    if not expected.forgotten:
        wrong += [
            f"viewer: {violation}" for violation in _check_frames(observation.frames, expected)
        ]
    return wrong


def check_final_state(expected: Expected, last: Execution | HeadwayError) -> Iterable[str]:
    """What is wrong with a state that should be the expected one."""
    if isinstance(last, HeadwayError):
        error = None
        if expected.expired:
            error = ExecutionExpired
        elif expected.status is None:
            error = ExecutionNotFound
        if type(last) is not error:
            yield f"final state is {type(last).__name__}"
        return
    if expected.status is None or expected.expired:
        right = "expired" if expected.expired else "unknown"
        yield f"final state is {last.status}, expected {right}"
        return
    fields = {
        "status": (last.status, expected.status),
        "phase": (last.phase, expected.phase),
        "attempt": (last.attempt, expected.attempt),
        "outputs": (last.outputs, expected.outputs),
        "current": (last.progress.current if last.progress is not None else None, expected.current),
        "error": (last.error.type if last.error is not None else None, expected.error),
    }
    for name, (shown, right) in fields.items():
        if right is not ANY and shown != right:
            yield f"final {name} is {shown!s}, expected {right!s}"
    started = last.started_at is not None or not last.attempt or expected.forgotten
    if last.status.terminal and (last.finished_at is None or not started):
        yield f"final times are missing: {last.started_at} to {last.finished_at}"


def _check_celery(expected: Expected, meta: Mapping[str, Any] | None) -> Iterable[str]:
    if meta is None or expected.status is None or expected.expired:
        return
    right = expected.celery
    if right is ANY:
        right = CELERY_STATES.get(expected.status, ANY)
    if right is not ANY and meta.get("status") != right:
        yield f"Celery's record has {meta.get('status')}, expected {right}"


def _check_order(expected: Expected, seen: list[Execution]) -> Iterable[str]:
    """Nothing may go back: no terminal state, no attempt, no output count, no progress."""
    for before, after in pairwise(seen):
        step = f"{_short(before)} then {_short(after)}"
        newer = after.attempt > before.attempt
        if before.status.terminal and not newer and after.status is not before.status:
            yield f"left a terminal state: {step}"
        if expected.forgotten:
            continue
        if after.attempt < before.attempt:
            yield f"attempt went back: {step}"
        if not newer and before.progress is not None and after.progress is None:
            yield f"progress vanished: {step}"
        if (
            not newer
            and before.progress is not None
            and after.progress is not None
            and (after.progress.current or 0) < (before.progress.current or 0)
        ):
            yield f"progress went back: {step}"
        if before.status is not Status.PENDING and after.status is Status.PENDING:
            yield f"queued again: {step}"
    phases = {each.phase for each in seen}
    never = expected.never | ({Phase.STALLED} - expected.once)
    if phases & never:
        last = " ".join(map(_short, seen[-4:]))
        yield f"shown as {', '.join(sorted(phases & never))}, which never happened: {last}"
    if expected.once - phases:
        yield f"never shown as {', '.join(sorted(expected.once - phases))}"


def _check_frames(frames: list[Frame], expected: Expected) -> Iterable[str]:
    """The stream starts with ``status``, and only a new attempt may follow a terminal frame."""
    kinds = [frame.kind for frame in frames if frame.kind != "error"]
    if expected.status is None:
        return
    if kinds[:1] != ["status"]:
        yield f"the stream starts with {kinds[:1]}"
    for kind, following in pairwise(kinds):
        if kind in TERMINAL and following != "status":
            yield f"{following} came after {kind}"
    if (
        expected.status.terminal
        and (not kinds or kinds[-1] != expected.status.value)
        and not expected.expired
    ):
        yield f"the stream ends with {kinds[-1:]}"


def _short(execution: Execution) -> str:
    current = execution.progress.current if execution.progress is not None else None
    return f"{execution.phase.value}#{execution.attempt}@{current}"
