"""Helpers of the HTTP endpoints: ids, request bodies, uncached and conditional responses."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn

from flask import Response, request
from werkzeug.exceptions import LengthRequired, RequestEntityTooLarge, UnsupportedMediaType

from headway.core import serialize
from headway.errors import InvalidRequest

#: Characters of an id, at most. Celery's own ids are UUIDs (36 characters).
MAX_ID = 255


def checked_id(execution_id: str, what: str = "execution id") -> str:
    """Return the id unchanged. Raises ``InvalidRequest`` with the reason if it is not valid."""
    if not 0 < len(execution_id) <= MAX_ID:
        raise InvalidRequest(
            f"The {what} must have 1 to {MAX_ID} characters, not {len(execution_id)}"
        )
    # U+FFFD replaces bytes of the URL that are not UTF-8.
    if not execution_id.isprintable() or "\ufffd" in execution_id or "/" in execution_id:
        raise InvalidRequest(f"The {what} must consist of printable characters, without a slash")
    return execution_id


def read_body(max_body: int) -> dict[str, Any]:
    """Read the JSON object in the body of a POST.

    ``max_body`` in bytes. Raises ``InvalidRequest``, or Werkzeug's errors for 411, 413 and 415.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(
            "The body must be JSON, sent with 'Content-Type: application/json'"
        )
    # Refuse every Transfer-Encoding, even beside a Content-Length: servers read such a body to its
    # end, so the limit would not hold.
    if "Transfer-Encoding" in request.headers:
        raise LengthRequired("The request must have a Content-Length")
    if (request.content_length or 0) > max_body:
        raise RequestEntityTooLarge(f"The body is limited to {max_body} bytes")
    try:
        # Without a length there is no body, or (HTTP/2) one without a limit.
        body = json.loads(
            request.get_data() if request.content_length else b"", parse_constant=_refuse_constant
        )
        # Refuses lone surrogates too: no broker can carry them.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise InvalidRequest("The body must be JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object")
    return body


def uncached(body: serialize.Json, status: int = 200) -> Response:
    """A JSON response that no cache may store."""
    response = Response(serialize.encode(body), status=status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def conditional(body: serialize.Json | None) -> Response:
    """A JSON response with an ETag: 304 if the client has it already, 204 if ``body`` is None."""
    if body is None:
        response = Response(status=204)
        del response.headers["Content-Type"]
    else:
        encoded = serialize.encode(body)
        response = Response(encoded, mimetype="application/json")
        response.set_etag(etag(encoded))
        response.make_conditional(request)
    response.headers["Cache-Control"] = "no-cache"
    return response


def client_has(body: serialize.Json) -> bool:
    """Whether the request's ``If-None-Match`` names this body."""
    return request.if_none_match.contains_weak(etag(serialize.encode(body)))


def etag(encoded: bytes) -> str:
    """A strong tag: every web process gives the same bytes the same tag."""
    return hashlib.sha256(encoded).hexdigest()[:32]


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity are not JSON
