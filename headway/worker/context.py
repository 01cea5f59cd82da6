"""`RequestContext`: what a task's code asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from headway.errors import UsageError
from headway.worker.cancel_token import CancelToken, TaskCancelled
from headway.worker.reporter import Reporter

NOWHERE = (
    "RequestContext.get() was called where no task is known to run. In a thread that a task starts: get the context in the task "
    "and hand it over (ctx = RequestContext.get(); Thread(target=work, args=(ctx,))), or start the work with asyncio.to_thread "
    "or contextvars.copy_context().run, which carry it along. In a task itself: call headway.install(app) before the worker "
    "starts, or give the task base=headway.ProgressTask"
)
FORKED = (
    "RequestContext.get() was called in a child process of the task's. Report from the task's own process: let the child send "
    "its counts back (a Queue, a Pipe, imap_unordered) and call ctx.progress.update there"
)


class RequestContext:
    """The run of a task, as its own code sees it. Good in any thread of the task's process, once it
    was got in the task.
    """

    __slots__ = ("_attempt", "_cancellation", "_pid", "headers", "progress", "request_id")

    def __init__(
        self,
        request_id: str,
        progress: Reporter,
        *,
        headers: Mapping[str, Any] | None = None,
        attempt: Callable[[], int] = lambda: 1,
        cancellation: CancelToken | None = None,
    ) -> None:
        #: The task's id.
        self.request_id = request_id
        #: Where the task reports: ``update`` and ``track``.
        self.progress = progress
        #: The headers that the publisher gave the message; read-only.
        self.headers: Mapping[str, Any] = MappingProxyType(
            dict(headers) if headers is not None else {}
        )
        self._attempt = attempt
        self._cancellation = cancellation if cancellation is not None else CancelToken()
        self._pid = os.getpid()

    @classmethod
    def get(cls) -> RequestContext:
        """The context of the task that runs here.

        Coroutines and ``asyncio.to_thread`` have it too. Raises ``UsageError`` outside a task, in a
        bare thread and in a child process.
        """
        context = current.get()
        if context is None:
            raise UsageError(NOWHERE)
        if context._pid != os.getpid():
            raise UsageError(FORKED)
        return context

    @property
    def execution_id(self) -> str:
        """The execution that the task belongs to: itself."""
        return self.request_id

    @property
    def attempt(self) -> int:
        """Which run of the task this is, starts at 1; a retry and a redelivery count."""
        return self._attempt()

    @property
    def cancelled(self) -> bool:
        """Whether the task's cancel was asked for. Cheap enough for a loop.

        It asks the result backend once a second at most, and not at all while reports are written,
        whose replies say it as well; that takes the same bounded time as a report. While the
        backend is away the answer is the last one known. Never True in a task that is called
        directly or eagerly.
        """
        return self._cancellation.look()

    def raise_if_cancelled(self) -> None:
        """Raise `TaskCancelled` if the task's cancel was asked for. For code that runs long between
        two reports.
        """
        if self._cancellation.look():
            raise TaskCancelled

    def __repr__(self) -> str:
        return f"<RequestContext {self.request_id} attempt {self.attempt}>"


#: The context of what runs here. A ContextVar: right in threads, greenlets and coroutines alike.
current: ContextVar[RequestContext | None] = ContextVar("headway_request_context", default=None)
