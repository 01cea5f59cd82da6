"""Cancel, as a run sees it: how it learns that it shall end, what is raised in it, and how that end
is told. And how to ask.

Nobody interrupts the task's code. The wish lies in the store; every report's write brings it back
in its reply, and ``ctx.cancelled`` asks for it. The run then ends itself, by `TaskCancelled`, and
only then the execution is ``cancelled``: one that finishes first is completed.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.exceptions import Ignore, SoftTimeLimitExceeded

from headway.cancellation import request_cancel
from headway.errors import HeadwayError
from headway.models import Execution
from headway.worker import celery_internals
from headway.worker.app_state import app_state_of

if TYPE_CHECKING:
    from headway.worker.attempt import Attempt

logger = logging.getLogger(__name__)

#: Seconds between two looks into the store that ``ctx.cancelled`` takes, at least. A report's write
#: counts as a look.
LOOK_INTERVAL = 1.0


class TaskCancelled(HeadwayError, Ignore):  # type: ignore[misc]
    """The task's cancel was asked for, and this ends its run.

    Raised by ``ctx.raise_if_cancelled()`` and, unless that is turned off, by
    ``ctx.progress.update`` and ``track``. Tidy up in ``finally:`` (reports there don't raise again)
    and let it pass: the execution is ``cancelled`` from then on, REVOKED for Celery's own readers.
    A task that raises it of its own accord ends in the same way. One that swallows it goes on.
    """

    def __init__(self, message: str = "The cancel of this task was asked for") -> None:
        super().__init__(message)


class CancelToken:
    """Whether the end of one run was asked for, as far as this process knows. Any thread may ask.

    ``look`` asks the store, within a bounded time, and raises nothing for its faults; without it
    the answer is no for ever (a direct call, eager mode).
    """

    __slots__ = ("_clock", "_due", "_look", "asked", "then")

    def __init__(
        self, look: Callable[[], bool] | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        #: Once it is True it stays so: a wish can't be taken back.
        self.asked = False
        #: Called when it becomes known.
        self.then: Callable[[], None] | None = None
        self._look, self._clock = look, clock
        self._due = float("-inf")

    def hear(self, asked: bool) -> None:
        """The store has said whether the end is asked for."""
        if asked:
            self.asked = True
            if self.then is not None:
                self.then()
        else:
            self._due = self._clock() + LOOK_INTERVAL

    def look(self) -> bool:
        """Whether it is asked for: what is known, or the store's word where the last one is older
        than `LOOK_INTERVAL`.
        """
        if self.asked or self._look is None or self._clock() < self._due:
            return self.asked
        self._due = (
            self._clock() + LOOK_INTERVAL
        )  # before the look: the task's other threads needn't ask as well
        self.hear(self._look())
        return self.asked


def handling_cancellation() -> bool:
    """Whether the caller tidies up after a `TaskCancelled` (an ``except``, a ``finally``, an
    ``__exit__``).

    To raise there once more would skip the rest of the tidying. A loop that swallows it and goes
    round is in none of these.
    """
    error = sys.exc_info()[1]
    for _ in range(100):  # a context chain that somebody made by hand may be a circle
        if error is None:
            return False
        if isinstance(error, TaskCancelled):
            return True
        error = error.__context__
    return False


def confirm(attempt: Attempt) -> None:
    """The run has ended by `TaskCancelled`: store REVOKED as its end, past the fence, and tell
    Celery's monitors (celery-facts#cooperative-cancel).

    Through ``mark_as_revoked``, with the patience of Celery's own ends, and because a chord that
    waits for this member hears of it there. Never raises for a fault of backend or broker: the run
    is over, however that is told.
    """
    task, request = attempt.task, attempt.request
    backend = attempt.installation.fence(task.backend)
    stored = not attempt.ignores_result or attempt.left == "PROGRESS"
    if not stored:
        attempt.end("REVOKED", None)
    try:
        backend.mark_as_revoked(request.id, "cancelled", request=request, store_result=stored)
    except SoftTimeLimitExceeded:
        raise
    except Exception:
        logger.exception("The end of %s[%s] (REVOKED) can't be stored", task.name, request.id)
    _announce(task, request)


def _announce(task: Any, request: Any) -> None:
    """``task-revoked``, as the worker's main process sends it: that one says nothing of a run that
    ended with Ignore.
    """
    if not task.send_events:
        return
    try:
        with celery_internals.request_on_top(task, request):
            task.send_event(
                "task-revoked", retry=False, terminated=False, signum=None, expired=False
            )
    except SoftTimeLimitExceeded:
        raise
    except Exception as exc:  # noqa: BLE001  an event that is lost is no fault of the task's
        logger.warning("No event was sent of the cancel of %s[%s]: %r", task.name, request.id, exc)


def cancel(app: Any, execution_id: str, terminate: bool = False) -> Execution:
    """Ask for the end of an execution; returns what it is now: ``cancelling``, until its run has
    confirmed it, or ``cancelled`` where it waited for a retry.

    ``terminate``: kill the process or greenlet that runs it, by Celery's
    ``revoke(terminate=True)``; a task that never reports and never looks at ``ctx.cancelled`` ends
    in no other way. The pools ``threads`` and ``solo`` can't. Asking again does no harm, and may
    add ``terminate``.

    Raises ``ExecutionNotFound``, ``ExecutionExpired``, ``ExecutionConflict`` where it has ended,
    ``ConfigurationError`` where the app has no result backend that another process could read, and
    ``Unavailable``: with the result backend away nothing was asked; with the broker away the wish
    stands, but nothing was terminated.
    """
    app = getattr(app, "_get_current_object", lambda: app)()
    installation = app_state_of(app)
    store = installation.store if installation is not None else None
    if store is None:
        from headway.backends import store_for  # noqa: PLC0415  with the drivers: only what is used is imported

        store = store_for(app)
    return request_cancel(app, store, execution_id, terminate=terminate)
