"""Every private place of Celery (and its pool, billiard) that the worker side touches, and nothing
else.

Each was proved on the versions named, and has a test (``tests/unit/test_install.py``,
``tests/acceptance/test_worker*.py``). Where one is missing its function raises `UnsupportedCelery`, and
`install` keeps to public behaviour and says in the log what is weaker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.app.registry import TaskRegistry
from celery.app.task import Task

#: The releases of Celery that all of this was proved on.
TESTED_VERSIONS = ("5.6.3", "5.7.0")

#: The property of a received message that is the mark of its run.
RUN = "headway_run"


class UnsupportedCelery(Exception):
    """This release of Celery has no such place. ``str()`` says what is weaker without it."""


def cover_registry(app: Any, cover: Callable[[Any], None]) -> None:
    """Have ``cover(task)`` called for each task that is, or ever will be, in the app's registry.

    ``app._tasks``, proved on 5.6.3 and 5.7.0. Public ways miss some: ``app.Task`` misses tasks with
    a base of their own, those made before, and an app's own ``task_cls``
    (celery-facts#covering-every-task).
    """
    registry = getattr(app, "_tasks", None)
    if not isinstance(registry, TaskRegistry):
        raise UnsupportedCelery(
            "tasks with a base class of their own, and those made before headway.install, report nothing"
        )
    if not isinstance(registry, _Covering):
        registry.__class__ = type(
            "TaskRegistry", (_Covering, type(registry)), {"__module__": __name__}
        )
    registry.__dict__["headway_cover"] = cover
    for task in list(registry.values()):
        cover(task)


class _Covering(TaskRegistry):  # type: ignore[misc]
    """A registry that shows each task to ``headway_cover`` before it takes it in."""

    def __setitem__(self, name: str, task: Any) -> None:
        self.__dict__["headway_cover"](task)
        super().__setitem__(name, task)


def rebuild_tracer(task: Any, app: Any) -> bool:
    """Make the task's tracer anew, if it has one: it has decided already whether to call
    ``__call__`` (celery-facts#result-is-stored-after-call).

    ``task.__trace__`` and ``celery.app.trace.build_tracer``, proved on 5.6.3 and 5.7.0. Needed only
    where `install` came too late.
    """
    if getattr(task, "__trace__", None) is None:
        return False
    try:
        from celery.app.trace import build_tracer  # noqa: PLC0415  not needed where install came in time
    except ImportError as exc:
        raise UnsupportedCelery("tasks that a worker has prepared already report nothing") from exc
    task.__trace__ = build_tracer(task.name, task, app.loader, app=app)
    return True


def wrap_backend_factory(app: Any, fence: Callable[[Any], Any]) -> None:
    """Have every backend that the app makes pass through ``fence``, and the one that it has in this
    thread.

    ``app._get_backend``, ``app._backend_cache``, ``app._local``, proved on 5.6.3 and 5.7.0. A
    backend belongs to a thread (celery-facts#backend-client-has-no-connect-timeout), and the
    worker's main process writes states too (celery-facts#celery-undoes-its-own-ends): there is no
    public place where all of them can be met.
    """
    make = getattr(app, "_get_backend", None)
    if make is None:
        raise UnsupportedCelery(
            "states that the worker's main process writes aren't fenced: a late one may un-end a task"
        )
    app._get_backend = lambda: fence(make())
    for known in (
        getattr(app, "_backend_cache", None),
        getattr(getattr(app, "_local", None), "backend", None),
    ):
        if known is not None:
            fence(known)


def traced_request(task: Any) -> Any:
    """The request of the run that Celery has just begun with this task, in this thread; None where
    it is called directly.

    ``request_stack``, ``request.called_directly``, proved on 5.6.3 and 5.7.0. A request counts
    once: a task that calls itself directly comes here again with the same one on the stack
    (celery-facts#covering-every-task).
    """
    stack = getattr(task, "request_stack", None)
    request = stack.top if stack is not None else None
    if (
        request is None
        or request.called_directly
        or not request.id
        or "_headway_entered" in request.__dict__
    ):
        return None
    request._headway_entered = True
    return request


def call_traced(task: Any, inner: Any, args: Any, kwargs: Any) -> Any:
    """Run the body of a traced task. ``inner`` is the next ``__call__`` in line.

    A class without a ``__call__`` of its own gets what Celery would have done: ``run`` at once.
    ``Task.__call__`` would push a copy of the request (in eager mode, and in a worker for a task
    within a task), and what the task notes on it (its children, a changed chain) would be lost with
    the copy.
    """
    if getattr(inner, "__func__", None) is Task.__call__:
        return task.run(*args, **kwargs)
    return inner(*args, **kwargs)


@contextmanager
def request_on_top(task: Any, request: Any) -> Iterator[None]:
    """Let ``task.request`` be ``request`` in this thread: it is thread-local, and ``update_state``
    needs it (celery-facts#update-state-needs-a-task-id).

    ``request_stack``, proved on 5.6.3 and 5.7.0.
    """
    stack = task.request_stack
    if stack.top is request:
        yield
        return
    stack.push(request)
    try:
        yield
    finally:
        stack.pop()


def tag_delivery(request: Any) -> None:
    """Let a worker's ``Request``, made for each delivery of a message, carry a mark to all who
    speak of this run: the pool's child, and the main process that watches over it. No broker's
    delivery tag would do: Redis keeps it over a redelivery.

    ``request.request_dict["properties"]``, proved on 5.6.3 and 5.7.0. Not a header: those are the
    task's (``request.headers``), and its retries inherit them; and not ``delivery_info``, which a
    retry takes for options to publish with.
    """
    told = getattr(request, "request_dict", None)
    if isinstance(told, dict):
        told["properties"] = {**(told.get("properties") or {}), RUN: os.urandom(8).hex()}


def delivery_id_of(request: Any) -> str | None:
    """The mark of a run (`tag_delivery`), for its child and its main process alike; None where it
    wasn't received by our worker.
    """
    properties = getattr(request, "properties", None)
    mark = properties.get(RUN) if isinstance(properties, dict) else None
    return mark if isinstance(mark, str) else None


def running_tasks() -> list[str]:
    """The ids of what this worker runs just now, in whatever pool. For its main process, from any
    thread.

    ``celery.worker.state.active_requests``, proved on 5.6.3 and 5.7.0: ``inspect active`` and the
    heartbeat read it as well.
    """
    from celery.worker import state  # noqa: PLC0415  only a worker needs it

    for _ in range(100):
        try:
            return [request.id for request in tuple(state.active_requests)]
        except RuntimeError:  # it was changed meanwhile
            continue
    return []


def pool_process_terminating() -> bool:
    """Whether this pool process was told by a signal to end, which looks like ``sys.exit`` in the
    task.

    ``billiard.common._should_have_exited``, proved with billiard 4.2 and 4.3.
    """
    try:
        from billiard import common  # noqa: PLC0415  not every pool needs it
    except ImportError:
        return False
    flag = getattr(common, "_should_have_exited", None)
    return bool(flag and flag[0])
