"""Before a message leaves: note that the task exists, so that its id is known from then on."""

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

#: Celery's own tasks that nobody watches; one of them retries every second while a chord runs.
INTERNAL_TASKS = frozenset({"celery.chord_unlock", "celery.backend_cleanup"})

#: Whose app publishes in this thread or greenlet. ``before_task_publish`` doesn't say, and fires
#: for every app of the process (celery-facts#before-task-publish-comes-first).
_publisher: ContextVar[AppState | None] = ContextVar("headway_publisher", default=None)

#: The message header that names whom an execution belongs to.
OWNER = "headway_owner"

#: Whom the executions belong to that are published here, unless their own header says so.
_owner: ContextVar[str | None] = ContextVar("headway_owner", default=None)


@contextmanager
def owned_by(owner: str) -> Iterator[None]:
    """Whatever is published in the block, in this thread or coroutine, belongs to ``owner``; what
    those tasks publish, too.

    A single message can say it on its own: ``task.apply_async(..., headers={"headway_owner":
    "alice"})``. The name is written into the message: it is no secret, and whoever may publish can
    claim any. Raises ``UsageError`` for what is no name.
    """
    if not isinstance(owner, str) or not owner:
        raise UsageError(
            f"owned_by: the owner must be a str that isn't empty, got {owner!r}; pass str(user.id), for example"
        )
    outside = _owner.get()
    try:
        _owner.set(owner)
        yield
    finally:
        _owner.set(outside)


def hook_publishing(installation: AppState) -> None:
    """Have all that this app publishes registered.

    ``app.send_task`` is what ``apply_async``, retries, chains, chords and ``beat`` all end in. The
    signal and not the wrapper makes the registration, because only there the message is complete.
    """
    send_task = installation.app.send_task

    @functools.wraps(send_task)
    def publishing(*args: Any, **kwargs: Any) -> Any:
        outside = _publisher.get()
        try:
            _publisher.set(installation)
            return send_task(*args, **kwargs)
        finally:
            _publisher.set(outside)

    installation.app.send_task = publishing
    before_task_publish.connect(_on_before_publish, weak=False, dispatch_uid="headway")


def _on_before_publish(headers: Any = None, body: Any = None, **_: Any) -> None:
    """Runs before the message is sent: a registration that came after it could meet a task that
    runs already (celery-facts#pending-means-four-things).
    """
    installation = _publisher.get()
    if installation is None:
        return
    # Protocol 1 has it all in the body.
    told = headers if isinstance(headers, dict) and "id" in headers else body
    if (
        isinstance(told, dict)
        and isinstance(told.get("id"), str)
        and told.get("task") not in INTERNAL_TASKS
    ):
        if isinstance(headers, dict):
            _pass_on_owner(installation, headers)
        installation.register([registration(told, headers)])


def _pass_on_owner(installation: AppState, headers: dict[str, Any]) -> None:
    """See that the message names its owner: what its task publishes (and a chain's next step, and a
    chord's body) inherits it from there. These headers are the ones that are sent.
    """
    if headers.get(OWNER) is None:
        owner = _owner.get()
        if owner is None:
            owner = _owner_of_what_runs(installation)
        if owner is not None:
            headers[OWNER] = owner


def _owner_of_what_runs(installation: AppState) -> str | None:
    """The owner of the task that publishes. Celery knows it longer than `RequestContext` does: a
    chain's next step is published after the task's code has returned.
    """
    task = installation.app.current_worker_task
    return owner_in(task.request.headers) if task is not None else None


def owner_in(headers: Any) -> str | None:
    """Whom a message with these headers belongs to; None where it doesn't say."""
    owner = headers.get(OWNER) if isinstance(headers, dict) else None
    return None if owner is None else str(owner)


def registration(headers: dict[str, Any], custom: Any = None) -> Registration:
    """What a message says of its task; ``custom``: its headers, where the rest is in its body."""
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


def _time(said: object) -> datetime | None:
    """A time as Celery writes it into a message. Of one without a zone (``enable_utc`` is off) a
    few hours don't matter.
    """
    try:
        time = datetime.fromisoformat(said) if isinstance(said, str) else said
    except ValueError:
        return None
    if not isinstance(time, datetime):
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
