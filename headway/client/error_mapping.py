"""What the server's answers mean: HTTP statuses and close codes as Headway's own errors, in two
tables.

The inverse of ``server/problems.py`` and of ``server/viewer.py``; a test compares.
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

#: HTTP status -> what it means, where a sentence is all there is to it.
MEANINGS: Mapping[int, type[HeadwayError]] = {
    401: NotAuthenticated,
    403: NotAllowed,
    409: ExecutionConflict,
    422: InvalidRequest,
    429: TooManyRequests,
    501: NotSupported,
    # A proxy says these for a server that is away; it says them of its own accord, so their text is
    # ours.
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
#: HTTP status -> what it means of the one execution that was asked for.
ABOUT_ONE: Mapping[int, Callable[[str], HeadwayError]] = {
    404: ExecutionNotFound,
    410: ExecutionExpired,
}

#: How a socket ended -> what it means to whoever watches. All others: come back.
CLOSES: Mapping[int, int] = {1008: 404, 4401: 401, 4403: 403, 4410: 410}
#: The ``code`` of an ``error`` frame about one execution -> the same.
CODES: Mapping[str, int] = {
    "not_found": 404,
    "expired": 410,
    "not_allowed": 403,
    "not_authenticated": 401,
    "too_many": 422,
}

#: Longest wait that an answer can ask for, seconds.
LONGEST_PAUSE = 60.0


def error_from_response(answer: requests.Response, execution_id: str | None) -> HeadwayError:
    """The error that an answer of 300 and above stands for."""
    status, detail = answer.status_code, _detail(answer)
    if detail is not None and execution_id is not None and status in ABOUT_ONE:
        return ABOUT_ONE[status](execution_id)
    if status in (429, 502, 503, 504):
        away = f"{_base(answer)} can't be served now ({status} {answer.reason})"
        kind = TooManyRequests if status == 429 else Unavailable
        return kind(detail or away, retry_after=_retry_after(answer, kind("").retry_after))
    if status in MEANINGS and (detail is not None or status in (401, 403)):
        return MEANINGS[status](
            detail or f"{_base(answer)} refuses this call ({status} {answer.reason})"
        )
    if "Location" in answer.headers and 300 <= status < 400:
        return UnexpectedResponse(
            f"{_base(answer)} sends us on to {answer.headers['Location']}: give that address"
        )
    said = (
        f": {detail}" if detail is not None else ", and not as Headway does. Is the address right?"
    )
    return UnexpectedResponse(f"{answer.url} answers {status} {answer.reason}{said}")


def error_from_code(status: int, execution_id: str, message: str) -> HeadwayError:
    """The error that a stream's end stands for, by the HTTP status that says the same."""
    return ABOUT_ONE[status](execution_id) if status in ABOUT_ONE else MEANINGS[status](message)


def _detail(answer: requests.Response) -> str | None:
    """The sentence of a problem document; None where the answer is none."""
    if answer.headers.get("Content-Type", "").split(";")[0] == "application/problem+json":
        with suppress(ValueError, AttributeError):
            detail: Any = answer.json().get("detail")
            return detail if isinstance(detail, str) else None
    return None


def _base(answer: requests.Response) -> str:
    return "/".join((answer.url or "").split("/", 3)[:3])


def _retry_after(answer: requests.Response, otherwise: float) -> float:
    given = answer.headers.get("Retry-After", "")
    return min(float(given), LONGEST_PAUSE) if given.isdecimal() else otherwise
