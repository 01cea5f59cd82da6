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

Driver errors (redis, kombu, SQLAlchemy) are translated once, at the edge of ``stores`` and ``feeds``, into ``Unavailable``
with the driver's error as ``__cause__``. The web side maps classes to HTTP status in one table (``server/problems.py``).
"""

from __future__ import annotations


class HeadwayError(Exception):
    """The root of all errors of this package."""


class UsageError(HeadwayError, ValueError):
    """A call with arguments or at a place that can't be right. Says what to do instead."""


class ConfigurationError(HeadwayError):
    """A configuration that can't work, such as a result backend that no other process can read. Says what to set."""


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

    def __init__(self, message: str = "The result backend can't be reached", retry_after: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
