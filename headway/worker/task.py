"""`ProgressTask`: a task that opens its attempt before its code runs, and closes it before Celery
stores its end.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

from celery.app.task import Task
from celery.exceptions import SoftTimeLimitExceeded

from headway.worker import celery_internals
from headway.worker.attempt import Attempt
from headway.worker.cancel_token import TaskCancelled
from headway.worker.context import RequestContext, current
from headway.worker.progress_timeout import ProgressTimeout
from headway.worker.reporter import Reporter

logger = logging.getLogger(__name__)


class ProgressTask(Task):  # type: ignore[misc]
    """The base of every task that reports. `install` gives it to all tasks of an app;
    ``@app.task(base=ProgressTask)`` to one.

    A class of its own may have a ``__call__``, if that calls ``super().__call__``.
    """

    abstract = True

    #: Seconds after which a run that reports nothing new is ended (`timeout.ProgressTimeout`), None
    #: for never. Where a task says nothing, what `install` was told holds: so it has no value here,
    #: which would hide the one of a covered class.
    progress_timeout: float | None
    #: Whether reports raise `cancel.TaskCancelled` once a cancel is asked for. Where a task says
    #: nothing, as for the above.
    cancel_on_update: bool

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """The task has met its app: writes of that app's backend are fenced from now on, also where
        only this one task reports.
        """
        from headway.worker.install import prepare  # noqa: PLC0415  install covers tasks with this class

        prepare(app)
        super().on_bound(app)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, in a worker, eagerly or directly; a request context is there while it runs."""
        request = celery_internals.traced_request(self)
        attempt = None if request is None or request.is_eager else self._attempt(request)
        error: BaseException | None = None
        # Here and wherever a variable outlives the run: not by a token. A time limit that strikes
        # as `set` returns takes it away.
        outside = current.get()
        try:
            current.set(_unstored(request) if attempt is None else attempt.enter(self))
            if attempt is not None:
                if attempt.cancellation.asked:
                    raise TaskCancelled  # it was asked for while this run was waited for
                attempt.watch_silence()
            inner = super().__call__
            return (
                inner(*args, **kwargs)
                if request is None
                else celery_internals.call_traced(self, inner, args, kwargs)
            )
        except (SystemExit, ProgressTimeout, TaskCancelled) as exc:
            error = exc
            raise
        except BaseExceptionGroup as group:
            # An `asyncio.TaskGroup` wraps what its coroutines raise. What there is besides a cancel
            # is a fault of the task's.
            if group.split(TaskCancelled)[1] is not None:
                raise
            error = TaskCancelled()
            raise error from group
        finally:
            try:  # nothing strikes between the task's code and this call
                if attempt is not None:
                    attempt.unwatch()
            except SoftTimeLimitExceeded as exc:
                if attempt is not None:
                    attempt.unwatch()
                if not isinstance(
                    exc, ProgressTimeout
                ):  # that one isn't meant any more: the task's code had ended
                    raise
            finally:
                current.set(outside)
                if attempt is not None:
                    attempt.leave(error)

    def on_replace(self, sig: Any) -> Any:
        """The task puts another one in its place, which goes on under the same id: this isn't an
        end (celery-facts#what-messages-say-of-a-workflow).
        """
        attempt = getattr(self.request, "_headway", None)
        if isinstance(attempt, Attempt):
            attempt.replaced = True
        return super().on_replace(sig)

    def _attempt(self, request: Any) -> Attempt:
        """The attempt that STARTED has opened, or a new one."""
        from headway.worker.install import prepare  # noqa: PLC0415  as above

        known = getattr(request, "_headway", None)
        if isinstance(known, Attempt):
            return known
        attempt: Attempt = Attempt(prepare(self._get_app()), request)
        request._headway = attempt
        return attempt


def _unstored(request: Any) -> RequestContext:
    """The context of a run that nobody can watch: a direct call, or eager mode. Reports are
    checked, and go nowhere.
    """
    if request is None:
        return RequestContext(str(uuid.uuid4()), Reporter(None))
    retries = int(request.retries or 0)
    return RequestContext(
        request.id, Reporter(None), headers=request.headers, attempt=lambda: retries + 1
    )


def concluded(task: Any = None, state: str | None = None, retval: Any = None, **_: Any) -> None:
    """``task_postrun``: Celery is done with a run. It knows the end, but some ends it stores
    nowhere (celery-facts#postrun-knows-unstored-ends).
    """
    stack = getattr(task, "request_stack", None)
    attempt = getattr(stack.top, "_headway", None) if stack is not None else None
    if isinstance(attempt, Attempt):
        attempt.conclude(state, retval)
