"""`Client`: calls of a Headway server."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from headway.client.http import TIMEOUT, Http, body_of, validate_id
from headway.client.stream import RECONNECT_TIMEOUT, EventStream, parse
from headway.core.events import AnyEvent, Completed, Failed
from headway.core.serialize import execution_from_json, history_from_json, progress_from_json
from headway.errors import ExecutionCancelled, ExecutionFailed, UsageError
from headway.models import Execution, History, Phase, Progress, Status

#: Executions per page: the server's maximum.
PAGE_SIZE = 200


class Client:
    """A connection to one Headway server. A context manager. Use it from one thread at a time.

    ``url``: the server's address, ``http`` or ``https``. A path in it replaces the default prefix
    of the API, ``/api/v1``. ``token``: sent as a header with each call, never in a URL.
    ``timeout``: seconds to connect and to receive each response.

    Every method raises the error from ``headway.errors`` that matches the API's response
    (``ExecutionNotFound`` for 404 and so on), ``Unavailable`` if the server can't be reached, and
    ``UnexpectedResponse`` if the address does not belong to a Headway server.
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
        """Close the connections. A second call does nothing."""
        self._http.close()

    def get(self, execution_id: str) -> Execution:
        """Get the current state of an execution. ``outputs`` is what JSON makes of the result."""
        return parse(execution_from_json, self._call("GET", execution_id))

    def progress(self, execution_id: str) -> Progress | None:
        """Get the latest progress; None if the task has not reported any."""
        return parse(progress_from_json, self._call("GET", execution_id, "progress"))

    def history(self, execution_id: str) -> History:
        """Get the stored reports, oldest first."""
        return parse(history_from_json, self._call("GET", execution_id, "history"))

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
        """List executions, newest first, without ``outputs``; ``limit`` at most, or all of them.

        Pages are requested when the iterator needs them. The filters are those of the API
        (``docs/listing.md``).
        """
        params: dict[str, Any] = {
            "status": _joined(status),
            "phase": _joined(phase),
            "task": task,
            "owner": owner,
            "q": q,
            "since": None if since is None else since.isoformat(),
            "until": None if until is None else until.isoformat(),
        }
        remaining = limit
        while remaining is None or remaining > 0:
            params["limit"] = PAGE_SIZE if remaining is None else min(remaining, PAGE_SIZE)
            page = self._http.json("GET", "executions", params=params)
            executions = parse(
                lambda body: [execution_from_json(each) for each in body["executions"]], page
            )
            yield from executions
            remaining = None if remaining is None else remaining - len(executions)
            params["cursor"] = parse(lambda body: body["cursor"], page)
            if params["cursor"] is None:
                return

    def cancel(self, execution_id: str, terminate: bool = False) -> Execution:
        """Request the cancellation of an execution and return its state afterwards.

        ``terminate``: kill the process that runs the task. Raises ``ExecutionConflict`` if the
        execution has already ended.
        """
        body = {"terminate": True} if terminate else None
        return parse(execution_from_json, self._call("POST", execution_id, "cancel", body=body))

    def watch(
        self,
        *execution_ids: str,
        timeout: float | None = None,
        reconnect_timeout: float = RECONNECT_TIMEOUT,
    ) -> Iterator[AnyEvent]:
        """Yield the events of one or more executions until all of them have ended.

        The first event of each execution is ``StatusChanged``. No end is lost, and no event comes
        twice. A lost connection yields ``Interrupted``; the client then reconnects after growing,
        jittered pauses, and each execution starts again with ``StatusChanged``. If WebSockets do
        not get through, the client polls the REST API and yields the same events.

        A single id that can't be watched raises its error. With several ids, ``Interrupted`` with
        the API's ``code`` reports it, and the others continue.

        ``timeout``: seconds until ``NotFinished`` is raised. ``reconnect_timeout``: seconds that
        the server may be unreachable until ``Unavailable`` is raised; if the first connection
        fails, it is raised at once.
        """
        for execution_id in execution_ids:
            validate_id(execution_id)
        return EventStream(
            self._http,
            execution_ids,
            timeout=timeout,
            deadline=None if timeout is None else time.monotonic() + timeout,
            reconnect_timeout=reconnect_timeout,
        ).events()

    def wait(self, execution_id: str, timeout: float | None = None) -> Any:
        """Wait for the end of an execution and return the task's result.

        Raises ``ExecutionFailed`` with the exception's type, message and details,
        ``ExecutionCancelled``, or ``NotFinished`` after ``timeout`` seconds; the task continues in
        that case.
        """
        for event in self.watch(execution_id, timeout=timeout):
            if isinstance(event, Completed):
                return event.outputs
            if isinstance(event, Failed):
                error = event.error
                raise ExecutionFailed(execution_id, error.type, error.message, error.details)
        raise ExecutionCancelled(execution_id)

    def _call(self, method: str, execution_id: str, *more: str, body: Any = None) -> Any:
        path = ("executions", validate_id(execution_id), *more)
        return body_of(self._http.call(method, *path, execution_id=execution_id, body=body))


def _joined(given: str | Iterable[str]) -> str | None:
    return (given if isinstance(given, str) else ",".join(given)) or None
