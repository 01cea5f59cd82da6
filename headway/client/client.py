"""`Client`: what a program asks a Headway server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from headway.client.http import TIMEOUT, Http, body_of, checked_id
from headway.client.stream import PATIENCE, EventStream, reading
from headway.core.events import AnyEvent, Completed, Failed
from headway.core.serialize import execution_from_json, history_from_json, progress_from_json
from headway.errors import ExecutionCancelled, ExecutionFailed, UsageError
from headway.models import Execution, History, Phase, Progress, Status

#: Lines of one page, at most: the server's own bound.
PAGE = 200


class Client:
    """One Headway server, as a Python object; a context manager.

    ``url``: the server's address, ``http`` or ``https``; with a path, that is where the API stands
    in place of ``/api/v1``. ``token``: goes into the header of each call, and never into a URL.
    ``timeout``: seconds for a connection and for each answer.

    Every call raises the errors of ``headway.errors`` that the API answers with
    (``ExecutionNotFound`` for 404 and so on), ``Unavailable`` where the server can't be reached,
    ``UnexpectedAnswer`` where something else is there. To be used by one thread at a time.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = TIMEOUT) -> None:
        if not timeout > 0:
            raise UsageError(f"timeout must be a number of seconds above 0, got {timeout!r}")
        self._http = Http(url, token, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back connections. A second call does nothing."""
        self._http.close()

    def get(self, execution_id: str) -> Execution:
        """What an execution is now; ``outputs`` as JSON says it."""
        return reading(execution_from_json, self._about("GET", execution_id))

    def progress(self, execution_id: str) -> Progress | None:
        """Its last progress; None while nothing was reported."""
        return reading(progress_from_json, self._about("GET", execution_id, "progress"))

    def history(self, execution_id: str) -> History:
        """The reports that are kept of it, oldest first."""
        return reading(history_from_json, self._about("GET", execution_id, "history"))

    def list(
        self,
        *,
        status: Status | str | Iterable[Status | str] = (),
        phase: Phase | str | Iterable[Phase | str] = (),
        task: str | None = None,
        owner: str | None = None,
        q: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[Execution]:
        """Executions, newest first, without ``outputs``; ``limit`` of them at most, all that are
        kept unless it is given.

        Pages are asked for as they are needed. The filters are those of the API
        (``docs/listing.md``).
        """
        asked: dict[str, Any] = {
            "status": _words(status),
            "phase": _words(phase),
            "task": task,
            "owner": owner,
            "q": q,
        }
        asked |= {
            name: time.isoformat()
            for name, time in (("since", since), ("until", until))
            if time is not None
        }
        left = limit
        while left is None or left > 0:
            page = self._http.json(
                "GET",
                "executions",
                params=asked | {"limit": PAGE if left is None else min(left, PAGE)},
            )
            found = reading(
                lambda body: [execution_from_json(line) for line in body["executions"]], page
            )
            yield from found
            left = None if left is None else left - len(found)
            asked["cursor"] = reading(lambda body: body["cursor"], page)
            if asked["cursor"] is None:
                return

    def cancel(self, execution_id: str, terminate: bool = False) -> Execution:
        """Ask for its end, with ``terminate`` by force; what it is then. Raises
        ``ExecutionConflict`` where it has ended.
        """
        return reading(
            execution_from_json,
            self._about(
                "POST", execution_id, "cancel", body={"terminate": True} if terminate else None
            ),
        )

    def watch(
        self, *execution_ids: str, timeout: float | None = None, patience: float = PATIENCE
    ) -> Iterator[AnyEvent]:
        """What the WebSocket says of one execution or of many, until all have ended.

        Each begins with ``Seen``; no end is lost, and nothing is told twice. A connection that is
        lost is told as ``Interrupted`` and made again, after pauses that grow and are jittered;
        then each is ``Seen`` anew. Where no WebSocket gets through, REST is polled, and the events
        are the same.

        An id that can't be watched raises where it is the only one; of several it is told by
        ``Interrupted`` with the API's ``code``, and the others go on. ``timeout``: seconds until
        ``NotFinished`` is raised; ``patience``: seconds that the server may be away until
        ``Unavailable`` is. One that can't be reached at the very beginning raises at once.
        """
        for execution_id in execution_ids:
            checked_id(execution_id)
        deadline = None if timeout is None else time.monotonic() + timeout
        return EventStream(
            self._http, execution_ids, timeout=timeout, deadline=deadline, patience=patience
        ).events()

    def wait(self, execution_id: str, timeout: float | None = None) -> Any:
        """Wait for its end and return what the task returned.

        Raises ``ExecutionFailed`` with the exception's type, message and details,
        ``ExecutionCancelled``, or ``NotFinished`` after ``timeout`` seconds; the execution goes on
        then.
        """
        for event in self.watch(execution_id, timeout=timeout):
            if isinstance(event, Completed):
                return event.outputs
            if isinstance(event, Failed):
                error = event.error
                raise ExecutionFailed(execution_id, error.type, error.message, error.details)
        raise ExecutionCancelled(execution_id)

    def _about(self, method: str, execution_id: str, *more: str, body: Any = None) -> Any:
        path = ("executions", checked_id(execution_id), *more)
        return body_of(self._http.call(method, *path, about=execution_id, body=body))


def _words(given: str | Iterable[str]) -> str | None:
    return (given if isinstance(given, str) else ",".join(given)) or None
