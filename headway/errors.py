"""Every error that Headway raises, under one root.

::

    HeadwayError
     +-- UsageError             a call that can't be right: the message says what to do instead (also a ValueError)
     +-- ConfigurationError     a set-up that can't work: the message is the help text
     +-- ExecutionNotFound      nobody ever published or ran this id           404
     +-- ExecutionExpired       known once, its result is gone                 410
     +-- ExecutionConflict      what was asked can't be done any more          409
     +-- InvalidRequest         a malformed id, query or body                  422
     +-- NotAuthenticated       no valid token or ticket                       401
     +-- NotAllowed             known, but not permitted                       403
     +-- TooManyRequests        over a limit; try again later                  429
     +-- NotSupported           more than this result backend can do           501
     +-- Unavailable            the result backend or broker can't be reached  503
     +-- TaskCancelled          raised in a task whose cancel was asked for (worker/cancel.py; also Celery's Ignore)
     +-- ProgressTimeout        a task reported nothing new for too long (worker/timeout.py; also a SoftTimeLimitExceeded)
     +-- ExecutionFailed        what was waited for has failed         )
     +-- ExecutionCancelled     what was waited for was cancelled      ) raised by ``headway.Client`` only
     +-- NotFinished            it hasn't ended in time                )
     +-- UnexpectedAnswer       what answered doesn't speak this API   )

Driver errors (redis, kombu, SQLAlchemy) are translated once, at the edge of ``stores`` and
``feeds``, into ``Unavailable`` with the driver's error as ``__cause__``. The web side maps classes
to HTTP status in one table (``server/problems.py``), the client back to classes in another
(``client/answers.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class HeadwayError(Exception):
    """The root of all errors of this package."""


class UsageError(HeadwayError, ValueError):
    """A call with arguments or at a place that can't be right. Says what to do instead."""


class ConfigurationError(HeadwayError):
    """A configuration that can't work, such as a result backend that no other process can read.
    Says what to set.
    """


class ExecutionNotFound(HeadwayError, LookupError):
    """No execution of this id was ever published or run."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"Execution '{execution_id}' not found")
        self.execution_id = execution_id


class ExecutionExpired(HeadwayError, LookupError):
    """The execution was known once; its result has left the result backend (``result_expires``)."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"Execution '{execution_id}' has expired: its result is no longer kept")
        self.execution_id = execution_id


class ExecutionConflict(HeadwayError):
    """What was asked of the execution can't be done in the state it is in."""


class InvalidRequest(HeadwayError):
    """A malformed id, query or body. ``str()`` says which part, and what would be right."""


class NotAuthenticated(HeadwayError):
    """No valid token or ticket came with the request."""


class NotAllowed(HeadwayError):
    """The caller is known (or needn't be), and may not do this."""


class TooManyRequests(HeadwayError):
    """A limit was reached; ``retry_after`` is in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotSupported(HeadwayError):
    """More than this result backend can do. Says which can."""


class Unavailable(HeadwayError):
    """The result backend (or the broker) can't be reached now; ``retry_after`` is in seconds."""

    def __init__(
        self, message: str = "The result backend can't be reached", retry_after: float = 2.0
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ExecutionFailed(HeadwayError):
    """The execution that was waited for has failed. The type's name and the message are the task's
    exception's.
    """

    def __init__(
        self, execution_id: str, type: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(f"Execution '{execution_id}' failed: {type}: {message}")
        self.execution_id = execution_id
        self.type = type
        self.message = message
        self.details = details


class ExecutionCancelled(HeadwayError):
    """The execution that was waited for was cancelled."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"Execution '{execution_id}' was cancelled")
        self.execution_id = execution_id


class NotFinished(HeadwayError, TimeoutError):
    """The execution hasn't ended within the time that its waiter had. It goes on."""

    def __init__(self, execution_id: str, timeout: float) -> None:
        super().__init__(f"Execution '{execution_id}' has not ended within {timeout:g} s")
        self.execution_id = execution_id
        self.timeout = timeout


class UnexpectedResponse(HeadwayError):
    """What answered is no Headway, or one with a fault (500). Says what it sent."""
