"""Exceptions with a base class of Celery's. Users catch them as ``headway.TaskCancelled`` and
``headway.ProgressTimeout``.
"""

from __future__ import annotations

from celery.exceptions import Ignore, SoftTimeLimitExceeded

from headway.errors import HeadwayError


class TaskCancelled(HeadwayError, Ignore):  # type: ignore[misc]
    """The cancellation of the task was requested; this exception ends the attempt.

    ``ctx.raise_if_cancelled()`` raises it and, unless that is turned off, ``ctx.progress.update``
    and ``track`` do. Clean up in ``finally:`` (reports there do not raise again) and let it pass:
    then the execution is ``cancelled``, and REVOKED for Celery's own readers. A task that raises it
    without a request ends in the same way. A task that swallows it continues.
    """

    def __init__(self, message: str = "The cancellation of this task was requested") -> None:
        super().__init__(message)


class ProgressTimeout(HeadwayError, SoftTimeLimitExceeded):  # type: ignore[misc]
    """The task reported nothing new for longer than its ``progress_timeout``.

    Raised in the task's own code, wherever it is. A subclass of Celery's ``SoftTimeLimitExceeded``,
    so that code which cleans up after that one also cleans up after this one.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "The task reported nothing new for too long"


# Celery stores the module and name of an exception, and readers import the class from there.
ProgressTimeout.__module__ = "headway"
