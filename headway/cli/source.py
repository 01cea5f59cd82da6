"""`ExecutionSource`: the port through which the commands read and cancel executions.

It has two implementations: ``backend_source.py`` reads the result backend of a Celery app,
``api_source.py`` calls a server. Every method raises the errors of ``headway.errors``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from headway.errors import ExecutionExpired, ExecutionNotFound
from headway.models import Execution, History, Query


@dataclass(frozen=True, slots=True)
class SourceError:
    """Updates are not available: permanently for one execution, or temporarily for all."""

    message: str
    #: None: for all executions.
    execution_id: str | None = None
    #: The ``code`` of the equivalent ``error`` frame (``docs/streams.md``).
    code: str = "unavailable"

    @classmethod
    def of(cls, error: ExecutionNotFound | ExecutionExpired) -> Self:
        """For an execution that does not exist, or no longer."""
        code = "expired" if isinstance(error, ExecutionExpired) else "not_found"
        return cls(str(error), error.execution_id, code)


Update = Execution | SourceError


class ExecutionSource(Protocol):
    """Executions of one app. A context manager, which closes the connections."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def get(self, execution_id: str) -> Execution:
        """The current state, with ``outputs``."""

    def history(self, execution_id: str) -> History:
        """The stored reports."""

    def list(self, query: Query, limit: int | None) -> Iterator[Execution]:
        """Executions that match, newest first, ``limit`` at most. Reads as many pages as needed."""

    def cancel(self, execution_id: str, *, terminate: bool) -> Execution:
        """Request the cancellation; returns the state afterwards."""

    def follow(self, execution_ids: Sequence[str]) -> Iterator[Update]:
        """The current state of each execution and each change, until all have ended.

        Yields each end once. Yields a temporary outage as a `SourceError`, and continues after it.
        """
