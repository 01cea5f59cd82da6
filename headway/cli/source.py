"""The port behind the commands: executions, wherever they are asked for.

Two implementations: ``direct.py`` looks into the result backend of a Celery app, ``remote.py`` asks
a server. Every method raises the errors of ``headway.errors``.
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
    """Nothing can be told just now: of one execution, for good; or of all of them, for a while."""

    message: str
    #: None: of all.
    execution_id: str | None = None
    #: The ``code`` of the ``error`` frame that says the same (``docs/streams.md``).
    code: str = "unavailable"

    @classmethod
    def of(cls, error: ExecutionNotFound | ExecutionExpired) -> Self:
        """Of one that there isn't, or isn't any more."""
        return cls(
            str(error),
            error.execution_id,
            "expired" if isinstance(error, ExecutionExpired) else "not_found",
        )


Update = Execution | SourceError


class ExecutionSource(Protocol):
    """See the module's text. A context manager, which gives back connections."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def get(self, execution_id: str) -> Execution:
        """What it is now, ``outputs`` included."""

    def history(self, execution_id: str) -> History:
        """The reports that are kept of it."""

    def list(self, query: Query, limit: int | None) -> Iterator[Execution]:
        """What the query says, newest first, ``limit`` of them at most, over as many pages as it
        takes.
        """

    def cancel(self, execution_id: str, *, terminate: bool) -> Execution:
        """Ask for its end; what it is then."""

    def follow(self, execution_ids: Sequence[str]) -> Iterator[Update]:
        """What each is now and whatever it becomes, until all have ended; an end is told once.
        Outages are told and outlasted.
        """
