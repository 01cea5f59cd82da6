"""Registers a task before its message is sent, so that its id is known from then on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from celery.signals import before_task_publish

from headway.core.registry import Registration
from headway.errors import UsageError
from headway.worker.app_state import AppState
from headway.worker.context import call_with

#: Celery's internal tasks. They are not registered; one of them retries every second during a
#: chord.
INTERNAL_TASKS = frozenset({"celery.chord_unlock", "celery.backend_cleanup"})

#: The app that publishes in this thread or greenlet. ``before_task_publish`` does not name
#: it, and fires for every app of the process (celery-facts#before-task-publish-comes-first).
_publisher: ContextVar[AppState | None] = ContextVar("headway_publisher", default=None)

#: The message header with the owner of an execution.
OWNER = "headway_owner"

#: The owner of executions published here, unless their own header names one.
_owner: ContextVar[str | None] = ContextVar("headway_owner", default=None)


@contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """Set the owner of everything that is published in the block, in this thread or coroutine.

    Tasks that those tasks publish inherit it. For a single message, pass ``task.apply_async(...,
    headers={"headway_owner": "alice"})``. The name is part of the message: it is not secret, and
    any publisher can claim any name. Raises ``UsageError`` for an invalid name.
    """
    if not isinstance(owner, str) or not owner:
        raise UsageError(
            f"owned_by: the owner must be a non-empty str, got {owner!r}; pass for example "
            "str(user.id)"
        )
    outside = _owner.get()
    try:
        _owner.set(owner)
        yield
    finally:
        _owner.set(outside)


def hook_publishing(app_state: AppState) -> None:
    """Register everything that this app publishes.

    ``apply_async``, retries, chains, chords and ``beat`` all call ``app.send_task``. The signal
    handler registers, not the wrapper, because only there the message is complete.
    """
    send_task = app_state.app.send_task

    @functools.wraps(send_task)
    def publishing(*args: Any, **kwargs: Any) -> Any:
        return call_with(_publisher, app_state, send_task, *args, **kwargs)

    app_state.app.send_task = publishing
    before_task_publish.connect(_on_before_publish, weak=False, dispatch_uid="headway")


def _on_before_publish(headers: Any = None, body: Any = None, **_: Any) -> None:
    """Called before the message is sent: later, the task could already be running."""
    app_state = _publisher.get()
    if app_state is None:
        return
    # Protocol 1 has everything in the body.
    message = headers if isinstance(headers, dict) and "id" in headers else body
    if (
        isinstance(message, dict)
        and isinstance(message.get("id"), str)
        and message.get("task") not in INTERNAL_TASKS
    ):
        if isinstance(headers, dict):
            _pass_on_owner(app_state, headers)
        app_state.register([registration(message, headers)])


def _pass_on_owner(app_state: AppState, headers: dict[str, Any]) -> None:
    """Write the owner into the message's headers. What its task publishes inherits it from there,
    and so do a chain's next step and a chord's body.
    """
    if headers.get(OWNER) is None:
        owner = _owner.get()
        if owner is None:
            owner = _owner_of_running_task(app_state)
        if owner is not None:
            headers[OWNER] = owner


def _owner_of_running_task(app_state: AppState) -> str | None:
    """The owner of the task that publishes. From Celery, not from `RequestContext`: a chain's next
    step is published after the task's code has returned.
    """
    task = app_state.app.current_worker_task
    return owner_in(task.request.headers) if task is not None else None


def owner_in(headers: Any) -> str | None:
    """The owner in these headers; None if there is none."""
    owner = headers.get(OWNER) if isinstance(headers, dict) else None
    return None if owner is None else str(owner)


def registration(headers: dict[str, Any], custom: Any = None) -> Registration:
    """The registration from a message. ``custom``: its headers, if the rest is in its body."""
    return Registration(
        headers["id"],
        headers.get("task", ""),
        datetime.now(UTC),
        owner=owner_in(custom if isinstance(custom, dict) else headers),
        root_id=headers.get("root_id"),
        parent_id=headers.get("parent_id"),
        group_id=headers.get("group") or headers.get("taskset"),
        expected_by=max(
            (time for name in ("eta", "expires") if (time := _time(headers.get(name))) is not None),
            default=None,
        ),
    )


def _time(value: object) -> datetime | None:
    """Parse a time from a message. Without a time zone (``enable_utc`` is off) it is taken as UTC:
    a few hours do not matter here.
    """
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(time, datetime):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
