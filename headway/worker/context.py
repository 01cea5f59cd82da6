"""`RequestContext`: what a task's code uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from headway.errors import UsageError
from headway.worker.cancel_token import CancelToken
from headway.worker.exceptions import TaskCancelled
from headway.worker.reporter import Reporter

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

NO_CONTEXT = (
    "RequestContext.get() found no task: headway.install was not called for this Celery app, or "
    "the code runs outside a task. In the app: call headway.install(app) before the worker starts, "
    "or give the task base=headway.ProgressTask. In a thread that a task starts: pass the context "
    "(ctx = RequestContext.get(); Thread(target=work, args=(ctx,))), or use asyncio.to_thread or "
    "contextvars.copy_context().run. In unit tests: use headway.testing.recording_context()"
)
FORKED = (
    "RequestContext.get() was called in a child process of the task. Report from the task's own "
    "process: let the child send its counts back (a Queue, a Pipe, imap_unordered) and call "
    "ctx.progress.update there"
)


class RequestContext:
    """The running task, for its own code. Usable in every thread of the task's process."""

    __slots__ = ("_attempt", "_cancel_token", "_pid", "headers", "progress", "request_id")

    def __init__(
        self,
        request_id: str,
        progress: Reporter,
        *,
        headers: Mapping[str, Any] | None = None,
        attempt: Callable[[], int] = lambda: 1,
        cancel_token: CancelToken | None = None,
    ) -> None:
        #: The task's id.
        self.request_id = request_id
        #: The task reports here: ``update``, ``track`` and ``step``.
        self.progress = progress
        #: The headers of the message; read-only.
        self.headers: Mapping[str, Any] = MappingProxyType(
            dict(headers) if headers is not None else {}
        )
        self._attempt = attempt
        self._cancel_token = cancel_token if cancel_token is not None else CancelToken()
        self._pid = os.getpid()

    @classmethod
    def get(cls) -> RequestContext:
        """The context of the task that runs here.

        Also works in coroutines and ``asyncio.to_thread``. Raises ``UsageError`` outside a task, in
        a plain thread and in a child process.
        """
        context = current.get()
        if context is None:
            raise UsageError(NO_CONTEXT)
        if context._pid != os.getpid():
            raise UsageError(FORKED)
        return context

    @property
    def execution_id(self) -> str:
        """The execution that the task belongs to: itself."""
        return self.request_id

    @property
    def attempt(self) -> int:
        """The number of this attempt, starts at 1; retries and redeliveries count."""
        return self._attempt()

    @property
    def cancelled(self) -> bool:
        """Whether the cancellation of the task is requested. Cheap enough for a loop.

        It reads the result backend at most once a second, and not while reports are written: their
        replies contain it too. The read is bounded like a report. While the backend is unavailable,
        the last answer counts. Never True in a task that is called directly or eagerly.
        """
        return self._cancel_token.poll()

    def raise_if_cancelled(self) -> None:
        """Raise `TaskCancelled` if the cancellation is requested. For code that runs long without
        reports.
        """
        if self._cancel_token.poll():
            raise TaskCancelled

    def __repr__(self) -> str:
        return f"<RequestContext {self.request_id} attempt {self.attempt}>"


def call_with(
    variable: ContextVar[T],
    value: T,
    function: Callable[P, R],
    /,
    *args: P.args,
    **options: P.kwargs,
) -> R:
    """Call ``function`` while ``variable`` has ``value``, then restore it.

    Without a token and not as a context manager: a time limit may be raised as `set` or
    ``__enter__`` returns. The token would be lost, or ``__exit__`` not called, and the next task of
    this process would find the value.
    """
    outside = variable.get()
    try:
        variable.set(value)
        return function(*args, **options)
    finally:
        variable.set(outside)


#: The context of the running task. A ContextVar, for threads, greenlets and coroutines.
current: ContextVar[RequestContext | None] = ContextVar("headway_request_context", default=None)

#: The context of `headway.testing.recording_context`, for direct and eager calls; None outside.
recording: ContextVar[RequestContext | None] = ContextVar("headway_recording", default=None)
