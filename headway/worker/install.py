"""`install`: the one line in an existing deployment."""

from __future__ import annotations

import logging
import types
import uuid
from functools import cache
from typing import Any

from celery.app.task import Task
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_postrun, task_received

from headway.errors import UsageError
from headway.stores.base import Store
from headway.worker import celery_internals, publishing
from headway.worker.app_state import KEY, AppState, app_state_of, seconds_or_none
from headway.worker.attempt import Attempt
from headway.worker.context import RequestContext, current
from headway.worker.exceptions import ProgressTimeout, TaskCancelled
from headway.worker.fenced_backend import fence
from headway.worker.heartbeat import HeartbeatStep
from headway.worker.reporter import Reporter

logger = logging.getLogger(__name__)

#: Seconds between two writes of one attempt's progress, unless `install` is told otherwise.
INTERVAL = 0.25


def install(
    app: Any,
    *,
    interval: float = INTERVAL,
    progress_timeout: float | None = None,
    cancel_on_update: bool = True,
    store: Store | None = None,
) -> None:
    """Let every task of ``app`` report progress, shared tasks and those made later too, and every
    state it stores pass the fence.

    Call it where the app is made, before the worker starts; in the web process as well, so that
    what it publishes is known. A second call only takes over its settings. ``interval``: seconds
    between two writes of one attempt's progress. ``progress_timeout``: seconds after which a task
    that reports nothing new is ended, unless it has a ``progress_timeout`` of its own; None for
    never. ``cancel_on_update``: whether ``update`` and ``track`` raise ``TaskCancelled`` in a task
    whose cancel is asked for, unless it has a ``cancel_on_update`` of its own. ``store``: where to
    record, instead of beside the app's result backend (for tests). Raises ``UsageError`` for a time
    that is none.
    """
    if (
        isinstance(interval, bool)
        or not isinstance(interval, (int, float))
        or not 0 < interval < 3600
    ):
        raise UsageError(
            f"install: interval must be a number of seconds above 0, got {interval!r}; the default is {INTERVAL}"
        )
    silence = seconds_or_none("install: progress_timeout", progress_timeout)
    app = getattr(app, "_get_current_object", lambda: app)()
    app_state = prepare(app)
    app_state.interval, app_state.progress_timeout = float(interval), silence
    app_state.cancel_on_update = cancel_on_update
    if store is not None:
        app_state.store = store
    try:
        celery_internals.cover_registry(app, lambda task: _cover(task, app))
    except celery_internals.UnsupportedCelery as exc:
        logger.warning("headway.install on an unknown release of Celery: %s", exc)
        app.task_cls = ProgressTask


def prepare(app: Any) -> AppState:
    """All of `install` but the covering of tasks: the fence, the registration of what is published,
    the ends.
    """
    found = app_state_of(app)
    if found is not None:
        return found
    app_state = AppState(app, interval=INTERVAL, store=None, fence=fence)
    setattr(app, KEY, app_state)
    try:
        celery_internals.wrap_backend_factory(app, fence)
    except celery_internals.UnsupportedCelery as exc:
        logger.warning("headway.install on an unknown release of Celery: %s", exc)
    publishing.hook_publishing(app_state)
    app.steps["worker"].add(HeartbeatStep)
    task_received.connect(_received, weak=False, dispatch_uid="headway")
    task_postrun.connect(on_task_postrun, weak=False, dispatch_uid="headway")
    return app_state


def _received(request: Any = None, **_: Any) -> None:
    """``task_received``, in a worker's main process, before anything is known of the run."""
    celery_internals.tag_delivery(request)


def _cover(task: Any, app: Any) -> None:
    """Make a task one that reports. The instance is kept, since others may hold it, and gets
    another class.
    """
    if task.name in publishing.INTERNAL_TASKS:
        return
    if not isinstance(task, ProgressTask):
        try:
            cls: Any = type(task)
            task.__class__ = _covered(cls)
        except TypeError as exc:  # a layout or a metaclass that can't be joined with ours
            logger.warning("Task %s can't report progress: %s", getattr(task, "name", task), exc)
            return
    if celery_internals.rebuild_tracer(task, app):
        logger.info(
            "headway.install came after the worker had prepared %s: prepared again", task.name
        )


@cache
def _covered(cls: Any) -> type:
    """``cls`` with `ProgressTask` before it, under the same name: tasks are pickled by name and
    module.
    """

    def fill(namespace: dict[str, Any]) -> None:
        namespace.update(
            __module__=cls.__module__, __qualname__=cls.__qualname__, __doc__=cls.__doc__
        )

    return types.new_class(cls.__name__, (ProgressTask, cls), {}, fill)


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
            current.set(_unstored(request) if attempt is None else attempt.start(self))
            if attempt is not None:
                if attempt.cancel_token.requested:
                    raise TaskCancelled  # it was asked for while this run was waited for
                attempt.start_watchdog()
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
                    attempt.stop_watchdog()
            except SoftTimeLimitExceeded as exc:
                if attempt is not None:
                    attempt.stop_watchdog()
                if not isinstance(
                    exc, ProgressTimeout
                ):  # that one isn't meant any more: the task's code had ended
                    raise
            finally:
                current.set(outside)
                if attempt is not None:
                    attempt.finish(error)

    def on_replace(self, sig: Any) -> Any:
        """The task puts another one in its place, which goes on under the same id: this isn't an
        end (fact 46).
        """
        attempt = getattr(self.request, "_headway", None)
        if isinstance(attempt, Attempt):
            attempt.was_replaced = True
        return super().on_replace(sig)

    def _attempt(self, request: Any) -> Attempt:
        """The attempt that STARTED has opened, or a new one."""
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


def on_task_postrun(
    task: Any = None, state: str | None = None, retval: Any = None, **_: Any
) -> None:
    """``task_postrun``: Celery is done with a run. It knows the end, but some ends it stores
    nowhere (fact 50).
    """
    stack = getattr(task, "request_stack", None)
    attempt = getattr(stack.top, "_headway", None) if stack is not None else None
    if isinstance(attempt, Attempt):
        attempt.record_unreported_end(state, retval)
