"""`install`: the one line in an existing deployment."""

from __future__ import annotations

import logging
import types
from functools import cache
from typing import Any

from celery.signals import task_postrun, task_received

from headway.errors import UsageError
from headway.stores.base import Store
from headway.worker import celery_internals, publishing
from headway.worker.app_state import KEY, AppState, app_state_of, seconds_or_none
from headway.worker.fenced_backend import fence
from headway.worker.heartbeat import HeartbeatStep
from headway.worker.task import ProgressTask, concluded

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
    installation = prepare(app)
    installation.interval, installation.progress_timeout = float(interval), silence
    installation.cancel_on_update = cancel_on_update
    if store is not None:
        installation.store = store
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
    installation = AppState(app, interval=INTERVAL, store=None, fence=fence)
    setattr(app, KEY, installation)
    try:
        celery_internals.wrap_backend_factory(app, fence)
    except celery_internals.UnsupportedCelery as exc:
        logger.warning("headway.install on an unknown release of Celery: %s", exc)
    publishing.hook_publishing(installation)
    app.steps["worker"].add(HeartbeatStep)
    task_received.connect(_received, weak=False, dispatch_uid="headway")
    task_postrun.connect(concluded, weak=False, dispatch_uid="headway")
    return installation


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
