"""All private parts of Celery (and its pool, billiard) that the worker side uses.

Each was tested with the named versions, and has a test (``tests/unit/test_install.py``,
``tests/acceptance/test_worker*.py``). If one is missing, its function raises `UnsupportedCelery`;
`install` then uses public behaviour only, and logs what is weaker.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery.app.registry import TaskRegistry
from celery.app.task import Task

#: The releases of Celery that all of this was tested with.
TESTED_VERSIONS = ("5.6.3", "5.7.0")

#: The property of a received message with the delivery id.
DELIVERY_ID = "headway_run"


class UnsupportedCelery(Exception):
    """This release of Celery lacks a private part. ``str()`` says what is weaker without it."""


def cover_registry(app: Any, cover: Callable[[Any], None]) -> None:
    """Call ``cover(task)`` for each present and future task in the app's registry.

    ``app._tasks``, tested with 5.6.3 and 5.7.0. Public ways miss some tasks: ``app.Task`` misses
    those with their own base, earlier ones, and an app's own ``task_cls``
    (celery-facts#covering-every-task).
    """
    registry = getattr(app, "_tasks", None)
    if not isinstance(registry, TaskRegistry):
        raise UnsupportedCelery(
            "tasks with their own base class, and tasks made before headway.install, report nothing"
        )
    if not isinstance(registry, _Covering):
        registry.__class__ = type(
            "TaskRegistry", (_Covering, type(registry)), {"__module__": __name__}
        )
    registry.__dict__["headway_cover"] = cover
    for task in list(registry.values()):
        cover(task)


class _Covering(TaskRegistry):  # type: ignore[misc]
    """A registry that passes each task to ``headway_cover`` before it stores it."""

    def __setitem__(self, name: str, task: Any) -> None:
        self.__dict__["headway_cover"](task)
        super().__setitem__(name, task)


def rebuild_tracer(task: Any, app: Any) -> bool:
    """Build the task's tracer again, if it has one: it has already decided whether to call
    ``__call__`` (celery-facts#result-is-stored-after-call).

    ``task.__trace__`` and ``celery.app.trace.build_tracer``, tested with 5.6.3 and 5.7.0. Needed
    only if `install` came late.
    """
    if getattr(task, "__trace__", None) is None:
        return False
    try:
        from celery.app.trace import build_tracer  # noqa: PLC0415 - rarely needed
    except ImportError as exc:
        raise UnsupportedCelery("tasks that a worker has already prepared report nothing") from exc
    task.__trace__ = build_tracer(task.name, task, app.loader, app=app)
    return True


def wrap_backend_factory(app: Any, fence: Callable[[Any], Any]) -> None:
    """Pass every backend that the app makes, and this thread's existing one, to ``fence``.

    ``app._get_backend``, ``app._backend_cache``, ``app._local``, tested with 5.6.3 and 5.7.0.
    Backends are per thread, and the worker's main process writes states too: no public hook sees
    all of them.
    """
    make = getattr(app, "_get_backend", None)
    if make is None:
        raise UnsupportedCelery(
            "states of the worker's main process are not fenced: a late one may replace an end"
        )
    app._get_backend = lambda: fence(make())
    for known in (
        getattr(app, "_backend_cache", None),
        getattr(getattr(app, "_local", None), "backend", None),
    ):
        if known is not None:
            fence(known)


def traced_request(task: Any) -> Any:
    """The request of the run that Celery has just started in this thread; None for a direct call.

    ``request_stack``, ``request.called_directly``, tested with 5.6.3 and 5.7.0. A request counts
    once: a task that calls itself directly has the same one on the stack.
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
    """Run the body of a traced task. ``inner`` is the next ``__call__`` in the method order.

    For a class without its own ``__call__``, this does what Celery does: call ``run``.
    ``Task.__call__`` would push a copy of the request (in eager mode, and for a task within a
    task), and changes of the request (children, a changed chain) would be lost with it.
    """
    if getattr(inner, "__func__", None) is Task.__call__:
        return task.run(*args, **kwargs)
    return inner(*args, **kwargs)


@contextmanager
def request_on_top(task: Any, request: Any) -> Iterator[None]:
    """Make ``request`` the ``task.request`` of this thread: it is thread-local, and
    ``update_state`` needs it (celery-facts#update-state-needs-a-task-id).

    ``request_stack``, tested with 5.6.3 and 5.7.0.
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
    """Give a worker's ``Request``, made for each delivery, an id that the pool's child and the main
    process share. A broker's delivery tag does not work: Redis keeps it over a redelivery.

    ``request.request_dict["properties"]``, tested with 5.6.3 and 5.7.0. Not a header: headers
    belong to the task (``request.headers``), and retries inherit them. Not ``delivery_info``: a
    retry uses it as options for publishing.
    """
    message = getattr(request, "request_dict", None)
    if isinstance(message, dict):
        properties = message.get("properties") or {}
        message["properties"] = {**properties, DELIVERY_ID: os.urandom(8).hex()}


def delivery_id_of(request: Any) -> str | None:
    """The delivery id of a request (`tag_delivery`), in the child and in the main process; None if
    our worker did not receive it.
    """
    properties = getattr(request, "properties", None)
    delivery_id = properties.get(DELIVERY_ID) if isinstance(properties, dict) else None
    return delivery_id if isinstance(delivery_id, str) else None


def running_tasks() -> list[str]:
    """The ids of the tasks that this worker runs, in any pool. For its main process, from any
    thread.

    ``celery.worker.state.active_requests``, tested with 5.6.3 and 5.7.0; ``inspect active`` reads
    it too.
    """
    from celery.worker import state  # noqa: PLC0415 - only a worker needs it

    for _ in range(100):
        try:
            return [request.id for request in tuple(state.active_requests)]
        except RuntimeError:  # changed by another thread
            continue
    return []


def pool_process_terminating() -> bool:
    """Whether a signal is ending this pool process, which looks like ``sys.exit`` in the task.

    ``billiard.common._should_have_exited``, tested with billiard 4.2 and 4.3.
    """
    try:
        from billiard import common  # noqa: PLC0415 - not every pool needs it
    except ImportError:
        return False
    flag = getattr(common, "_should_have_exited", None)
    return bool(flag and flag[0])
