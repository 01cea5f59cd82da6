"""`install`, the one line in an existing deployment, and `ProgressTask`, the base of its tasks."""

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
from headway.worker.context import RequestContext, current, recording
from headway.worker.exceptions import ProgressTimeout, TaskCancelled
from headway.worker.fenced_backend import fence
from headway.worker.heartbeat import HeartbeatStep
from headway.worker.reporter import Reporter

logger = logging.getLogger(__name__)

#: Seconds between two writes of one attempt's progress, by default.
INTERVAL = 0.25


def install(
    app: Any,
    *,
    interval: float = INTERVAL,
    progress_timeout: float | None = None,
    cancel_on_update: bool = True,
    store: Store | None = None,
) -> None:
    """Let all tasks of ``app`` report progress, also shared and later ones, and fence its states.

    Call it where the app is created, before the worker starts; also in the web process, so that
    what it publishes is known. A second call only changes the settings.

    ``interval``: seconds between two writes of one attempt's progress. ``progress_timeout``:
    seconds after which a task that reports nothing new is ended; None for never.
    ``cancel_on_update``: whether ``update`` and ``track`` raise ``TaskCancelled`` after a cancel
    request. A task may set ``progress_timeout`` and ``cancel_on_update`` itself. ``store``: used
    instead of the one beside the app's result backend (for tests). Raises ``UsageError`` for an
    invalid time.
    """
    if (
        isinstance(interval, bool)
        or not isinstance(interval, (int, float))
        or not 0 < interval < 3600
    ):
        raise UsageError(
            f"install: interval must be a number of seconds greater than 0, got {interval!r}; "
            f"the default is {INTERVAL}"
        )
    timeout = seconds_or_none("install: progress_timeout", progress_timeout)
    app = getattr(app, "_get_current_object", lambda: app)()
    app_state = prepare(app)
    app_state.interval, app_state.progress_timeout = float(interval), timeout
    app_state.cancel_on_update = cancel_on_update
    if store is not None:
        app_state.store = store
    try:
        celery_internals.cover_registry(app, lambda task: _cover(task, app))
    except celery_internals.UnsupportedCelery as exc:
        logger.warning("headway.install does not fully support this Celery release: %s", exc)
        app.task_cls = ProgressTask


def prepare(app: Any) -> AppState:
    """Everything of `install` except the tasks: the fence, the registration, the ends."""
    found = app_state_of(app)
    if found is not None:
        return found
    app_state = AppState(app, interval=INTERVAL, store=None, fence=fence)
    setattr(app, KEY, app_state)
    try:
        celery_internals.wrap_backend_factory(app, fence)
    except celery_internals.UnsupportedCelery as exc:
        logger.warning("headway.install does not fully support this Celery release: %s", exc)
    publishing.hook_publishing(app_state)
    app.steps["worker"].add(HeartbeatStep)
    task_received.connect(_received, weak=False, dispatch_uid="headway")
    task_postrun.connect(on_task_postrun, weak=False, dispatch_uid="headway")
    return app_state


def _received(request: Any = None, **_: Any) -> None:
    """``task_received``, in a worker's main process, before the attempt starts."""
    celery_internals.tag_delivery(request)


def _cover(task: Any, app: Any) -> None:
    """Let a task report: its instance, which other code may hold, gets another class."""
    if task.name in publishing.INTERNAL_TASKS:
        return
    if not isinstance(task, ProgressTask):
        try:
            cls: Any = type(task)
            task.__class__ = _covered(cls)
        except TypeError as exc:  # an incompatible layout or metaclass
            logger.warning("Task %s cannot report progress: %s", getattr(task, "name", task), exc)
            return
    if celery_internals.rebuild_tracer(task, app):
        logger.info(
            "headway.install was called after the worker had prepared %s; it was prepared again",
            task.name,
        )


@cache
def _covered(cls: Any) -> type:
    """``ProgressTask`` before ``cls``, with the same name: tasks are pickled by name and module."""

    def fill(namespace: dict[str, Any]) -> None:
        namespace.update(
            __module__=cls.__module__, __qualname__=cls.__qualname__, __doc__=cls.__doc__
        )

    return types.new_class(cls.__name__, (ProgressTask, cls), {}, fill)


class ProgressTask(Task):  # type: ignore[misc]
    """The base class of tasks that report.

    `install` gives it to all tasks of an app, ``@app.task(base=ProgressTask)`` to one. A subclass
    may have its own ``__call__`` if that calls ``super().__call__``.
    """

    abstract = True

    #: Seconds after which an attempt that reports nothing new is ended (`ProgressTimeout`); None
    #: for never. Without a value here, so that it does not hide the value of a covered class; the
    #: default is that of `install`.
    progress_timeout: float | None
    #: Whether reports raise `TaskCancelled` after a cancel request. The default is that of
    #: `install`.
    cancel_on_update: bool

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Called when the task is bound to its app: from now on the app's backend is fenced, even
        if only this task reports.
        """
        prepare(app)
        super().on_bound(app)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in a worker, eagerly or directly, with a request context."""
        request = celery_internals.traced_request(self)
        attempt = None if request is None or request.is_eager else self._attempt(request)
        error: BaseException | None = None
        # Set and restored without a token, as in `call_with`.
        outside = current.get()
        try:
            current.set(_unstored(request) if attempt is None else attempt.start(self))
            if attempt is not None:
                if attempt.cancel_token.requested:
                    raise TaskCancelled  # requested before this attempt started
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
            # An `asyncio.TaskGroup` wraps the exceptions of its coroutines. Other exceptions than a
            # cancellation are faults of the task.
            if group.split(TaskCancelled)[1] is not None:
                raise
            error = TaskCancelled()
            raise error from group
        finally:
            try:  # nothing can interrupt between the task's code and this call
                if attempt is not None:
                    attempt.stop_watchdog()
            except SoftTimeLimitExceeded as exc:
                if attempt is not None:
                    attempt.stop_watchdog()
                # A ProgressTimeout no longer counts: the task's code had ended.
                if not isinstance(exc, ProgressTimeout):
                    raise
            finally:
                current.set(outside)
                if attempt is not None:
                    attempt.finish(error)

    def on_replace(self, sig: Any) -> Any:
        """The task is replaced by another one with the same id: this is not an end
        (celery-facts#what-messages-say-of-a-workflow).
        """
        attempt = getattr(self.request, "_headway", None)
        if isinstance(attempt, Attempt):
            attempt.was_replaced = True
        return super().on_replace(sig)

    def _attempt(self, request: Any) -> Attempt:
        """The attempt that STARTED opened, or a new one."""
        known = getattr(request, "_headway", None)
        if isinstance(known, Attempt):
            return known
        attempt: Attempt = Attempt(prepare(self._get_app()), request)
        request._headway = attempt
        return attempt


def _unstored(request: Any) -> RequestContext:
    """The context of a direct call or of eager mode: reports are validated but not stored."""
    recorded = recording.get()
    if recorded is not None:
        return recorded  # in a test of the user's
    if request is None:
        return RequestContext(str(uuid.uuid4()), Reporter(None))
    retries = int(request.retries or 0)
    return RequestContext(
        request.id, Reporter(None), headers=request.headers, attempt=lambda: retries + 1
    )


def on_task_postrun(
    task: Any = None, state: str | None = None, retval: Any = None, **_: Any
) -> None:
    """``task_postrun``: Celery has finished a run. It does not store every end
    (celery-facts#postrun-knows-unstored-ends).
    """
    stack = getattr(task, "request_stack", None)
    attempt = getattr(stack.top, "_headway", None) if stack is not None else None
    if isinstance(attempt, Attempt):
        attempt.record_unreported_end(state, retval)
