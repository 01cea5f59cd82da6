"""Fakes for your own tests: no server, no broker and no worker.

`recording_context` gives a task's code a `RequestContext` that records its reports. `MemoryStore`
and `MemoryFeed` replace the result backend within one process. The same test suite checks the
fakes and the real implementations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar

from headway.feeds.memory import MemoryFeed
from headway.models import Progress
from headway.stores.memory import MemoryStore
from headway.worker import context
from headway.worker.cancel_token import CancelToken, handling_cancellation
from headway.worker.context import RequestContext
from headway.worker.exceptions import TaskCancelled
from headway.worker.reporter import Reporter
from headway.worker.validation import Update, validate

__all__ = ["MemoryFeed", "MemoryStore", "Recorded", "recording_context"]

T = TypeVar("T")


class Recorded:
    """What the code in a `recording_context` has reported."""

    def __init__(self, cancel_token: CancelToken) -> None:
        #: All reports, oldest first; in a worker some of them would be merged.
        self.reports: list[Progress] = []
        self._cancel_token = cancel_token

    def cancel(self) -> None:
        """Request the cancellation: the next report raises ``TaskCancelled``."""
        self._cancel_token.set_requested(True)


@contextmanager
def recording_context(
    task_id: str = "test",
    *,
    attempt: int = 1,
    previous: Progress | None = None,
    cancel_requested: bool = False,
) -> Iterator[Recorded]:
    """Give the code in the block a request context that records its reports.

    ``RequestContext.get()`` works in ``task.run(...)``, in a direct call ``task(...)``, in
    ``task.apply()`` and in plain functions. ``previous`` is the last progress of the previous
    attempt, for tests of retries. With ``cancel_requested`` the first report raises
    ``TaskCancelled``. Invalid reports raise ``UsageError``, as in a worker.
    """
    cancel_token = CancelToken()
    cancel_token.set_requested(cancel_requested)
    recorded = Recorded(cancel_token)
    reporter = _RecordingReporter(recorded, cancel_token, previous)
    made = RequestContext(task_id, reporter, attempt=lambda: attempt, cancel_token=cancel_token)
    outer, outer_current = context.recording.get(), context.current.get()
    context.recording.set(made)
    context.current.set(made)
    try:
        yield recorded
    finally:
        context.recording.set(outer)
        context.current.set(outer_current)


class _RecordingReporter(Reporter):
    """Records each report instead of storing the newest at intervals."""

    __slots__ = ("_cancel_token", "_recorded")

    def __init__(
        self, recorded: Recorded, cancel_token: CancelToken, previous: Progress | None
    ) -> None:
        super().__init__(None, previous=lambda: previous)
        self._recorded, self._cancel_token = recorded, cancel_token

    @property
    def is_recording(self) -> bool:
        """True, so that bars of `headway.tqdm` report too."""
        return True

    def update(
        self,
        current: int | float,
        total: int | float,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Record a report, like ``ctx.progress.update``."""
        self._newest = report = validate(current, total, message, attributes)
        self._recorded.reports.append(Progress(*report, timestamp=datetime.now(UTC)))
        if self._cancel_token.requested and not handling_cancellation():
            raise TaskCancelled

    def _tracked(self, iterable: Iterable[T], start: Update) -> Iterator[T]:
        done, total, message, attributes = start
        self.update(done, total, message, attributes)
        for item in iterable:
            yield item
            done += 1
            self.update(done, total, message, attributes)
