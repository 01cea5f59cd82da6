"""Every error that Headway raises, under one root.

::

    HeadwayError
     +-- UsageError             a wrong call: the message says what to do (also a ValueError)
     +-- ConfigurationError     a wrong setup: the message is the help text
     +-- ExecutionNotFound      no task with this id was published or run      404
     +-- ExecutionExpired       the execution's result has expired             410
     +-- ExecutionConflict      not possible in the current state              409
     +-- InvalidRequest         a malformed id, query or body                  422
     +-- NotAuthenticated       no valid token or ticket                       401
     +-- NotAllowed             not permitted for this caller                  403
     +-- TooManyRequests        over a limit; try again later                  429
     +-- NotSupported           this result backend can't do it                501
     +-- Unavailable            result backend or broker can't be reached      503
     +-- TaskCancelled          raised in a task: cancel requested (also Celery's Ignore)
     +-- ProgressTimeout        raised in a task: no progress (also a SoftTimeLimitExceeded)
     +-- ExecutionFailed        the execution has failed             )
     +-- ExecutionCancelled     the execution was cancelled          ) raised only by
     +-- NotFinished            the execution hasn't ended in time   ) ``headway.Client``
     +-- UnexpectedResponse     the response isn't from this API     )

`TaskCancelled` and `ProgressTimeout` have base classes of Celery, so the worker package defines
them.

``stores`` and ``feeds`` translate driver errors (redis, kombu, SQLAlchemy) once, into
``Unavailable`` with the driver's error as ``__cause__``. The server maps classes to HTTP status
codes in one table (``server/problems.py``), the client maps the codes back in another
(``client/error_mapping.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class HeadwayError(Exception):
    """The root of all errors of this package."""


class UsageError(HeadwayError, ValueError):
    """A call with wrong arguments or in the wrong place. The message says what to do instead."""


class ConfigurationError(HeadwayError):
    """A configuration that can't work, such as a result backend that other processes can't read.
    The message says what to set.
    """


class ExecutionNotFound(HeadwayError, LookupError):
    """No task with this id was ever published or run."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"Execution '{execution_id}' not found")
        self.execution_id = execution_id


class ExecutionExpired(HeadwayError, LookupError):
    """The execution has ended, and its result has expired (``result_expires``)."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"Execution '{execution_id}' has expired: its result is no longer kept")
        self.execution_id = execution_id


class ExecutionConflict(HeadwayError):
    """The request isn't possible in the current state of the execution."""


class InvalidRequest(HeadwayError):
    """A malformed id, query or body. The message names the part and what is valid."""


class NotAuthenticated(HeadwayError):
    """The request has no valid token or ticket."""


class NotAllowed(HeadwayError):
    """The caller may not do this."""


class TooManyRequests(HeadwayError):
    """A limit is reached. ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotSupported(HeadwayError):
    """This result backend can't do it. The message says which can."""


class Unavailable(HeadwayError):
    """The result backend or the broker can't be reached. ``retry_after`` is in seconds."""

    def __init__(
        self, message: str = "The result backend can't be reached", retry_after: float = 2.0
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExecutionFailed(HeadwayError):
    """The execution has failed. ``type`` and ``message`` are those of the task's exception."""

    def __init__(
        self, execution_id: str, type: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"Execution '{execution_id}' failed: {type}: {message}")
        self.execution_id = execution_id
        self.type = type
        self.message = message
        self.details = details


class ExecutionCancelled(HeadwayError):
    """The execution was cancelled."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"Execution '{execution_id}' was cancelled")
        self.execution_id = execution_id


class NotFinished(HeadwayError, TimeoutError):
    """The execution hasn't ended within ``timeout`` seconds. It continues."""

    def __init__(self, execution_id: str, timeout: float) -> None:
        super().__init__(f"Execution '{execution_id}' has not ended within {timeout:g} s")
        self.execution_id = execution_id
        self.timeout = timeout


class UnexpectedResponse(HeadwayError):
    """The response isn't from Headway, or Headway has an internal error (500). The message has the
    response.
    """
