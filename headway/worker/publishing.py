"""Before a message leaves: note that the task exists, so that its id is known from then on."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from celery.signals import before_task_publish

from headway.records import Registration
from headway.worker.installation import Installation

#: Celery's own tasks that nobody watches; one of them retries every second while a chord runs.
CHORES = frozenset({"celery.chord_unlock", "celery.backend_cleanup"})

#: Whose app publishes in this thread or greenlet. ``before_task_publish`` doesn't say, and fires for every app of the process
#: (fact 45).
_publisher: ContextVar[Installation | None] = ContextVar("headway_publisher", default=None)


def watch(installation: Installation) -> None:
    """Have all that this app publishes registered.

    ``app.send_task`` is what ``apply_async``, retries, chains, chords and ``beat`` all end in. The signal and not the wrapper
    makes the registration, because only there the message is complete.
    """
    send_task = installation.app.send_task

    @functools.wraps(send_task)
    def publishing(*args: Any, **kwargs: Any) -> Any:
        token = _publisher.set(installation)
        try:
            return send_task(*args, **kwargs)
        finally:
            _publisher.reset(token)

    installation.app.send_task = publishing
    before_task_publish.connect(_published, weak=False, dispatch_uid="headway")


def _published(headers: Any = None, body: Any = None, **_: Any) -> None:
    """Runs before the message is sent: a registration that came after it could meet a task that runs already (fact 16)."""
    installation = _publisher.get()
    if installation is None:
        return
    # Protocol 1 has it all in the body.
    told = headers if isinstance(headers, dict) and "id" in headers else body
    if isinstance(told, dict) and isinstance(told.get("id"), str) and told.get("task") not in CHORES:
        installation.register([registration(told)])


def registration(headers: dict[str, Any]) -> Registration:
    """What a message says of its task."""
    return Registration(
        headers["id"],
        headers.get("task", ""),
        datetime.now(UTC),
        root_id=headers.get("root_id"),
        parent_id=headers.get("parent_id"),
        group_id=headers.get("group") or headers.get("taskset"),
    )
