"""Maps the server's HTTP statuses and close codes to the errors of ``headway.errors``.

The inverse of ``server/problems.py`` and ``server/streams/websocket.py``; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import requests

from headway.errors import (
    ExecutionConflict,
    ExecutionExpired,
    ExecutionNotFound,
    HeadwayError,
    InvalidRequest,
    NotAllowed,
    NotAuthenticated,
    NotSupported,
    TooManyRequests,
    Unavailable,
    UnexpectedResponse,
)

#: HTTP status -> an error that takes a message.
ERRORS: Mapping[int, type[HeadwayError]] = {
    401: NotAuthenticated,
    403: NotAllowed,
    409: ExecutionConflict,
    422: InvalidRequest,
    429: TooManyRequests,
    501: NotSupported,
    # Proxies send these for an unreachable server, without a problem document. The client then
    # writes the message.
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
#: HTTP status -> an error that takes the requested execution's id.
EXECUTION_ERRORS: Mapping[int, Callable[[str], HeadwayError]] = {
    404: ExecutionNotFound,
    410: ExecutionExpired,
}

#: Close code of a WebSocket -> the equivalent HTTP status. After all other codes: reconnect.
CLOSES: Mapping[int, int] = {1008: 404, 4401: 401, 4403: 403, 4410: 410}
#: ``code`` of an ``error`` frame about one execution -> the equivalent HTTP status.
CODES: Mapping[str, int] = {
    "not_found": 404,
    "expired": 410,
    "not_allowed": 403,
    "not_authenticated": 401,
    "too_many": 422,
}

#: Longest accepted Retry-After, seconds.
MAX_RETRY_AFTER = 60.0


def error_from_response(response: requests.Response, execution_id: str | None) -> HeadwayError:
    """The error for a response with a status of 300 or above."""
    status, detail = response.status_code, _detail(response)
    if detail is not None and execution_id is not None and status in EXECUTION_ERRORS:
        return EXECUTION_ERRORS[status](execution_id)
    if status in (429, 502, 503, 504):
        message = detail or f"{_origin(response)} is unavailable ({status} {response.reason})"
        kind = TooManyRequests if status == 429 else Unavailable
        return kind(message, retry_after=_retry_after(response, kind("").retry_after))
    if status in ERRORS and (detail is not None or status in (401, 403)):
        return ERRORS[status](
            detail or f"{_origin(response)} refused the request ({status} {response.reason})"
        )
    if "Location" in response.headers and 300 <= status < 400:
        return UnexpectedResponse(
            f"{_origin(response)} redirects to {response.headers['Location']}: use that address"
        )
    reason = f": {detail}" if detail is not None else ", not a Headway response. Check the address"
    return UnexpectedResponse(f"{response.url} returned {status} {response.reason}{reason}")


def error_from_code(status: int, execution_id: str, message: str) -> HeadwayError:
    """The error for a close code or an ``error`` frame, by its equivalent HTTP status."""
    if status in EXECUTION_ERRORS:
        return EXECUTION_ERRORS[status](execution_id)
    return ERRORS[status](message)


def _detail(response: requests.Response) -> str | None:
    """The sentence of a problem document; None if the response is not a problem document."""
    if response.headers.get("Content-Type", "").split(";")[0] == "application/problem+json":
        with suppress(ValueError, AttributeError):
            detail: Any = response.json().get("detail")
            return detail if isinstance(detail, str) else None
    return None


def _origin(response: requests.Response) -> str:
    return "/".join((response.url or "").split("/", 3)[:3])


def _retry_after(response: requests.Response, default: float) -> float:
    value = response.headers.get("Retry-After", "")
    return min(float(value), MAX_RETRY_AFTER) if value.isdecimal() else default
