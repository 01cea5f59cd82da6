"""The body of a POST: JSON, an object, and not too much of it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from flask import request
from werkzeug.exceptions import LengthRequired, RequestEntityTooLarge, UnsupportedMediaType

from headway.errors import InvalidRequest


def read_body(max_body: int) -> dict[str, Any]:
    """The body, as an object. Raises ``InvalidRequest``, or werkzeug's 411, 413 and 415."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType(
            "The body must be JSON, sent with 'Content-Type: application/json'"
        )
    # Any Transfer-Encoding, however spelt, and whatever length stands beside it: servers read such
    # a body to its end.
    if "Transfer-Encoding" in request.headers:
        raise LengthRequired("The body must come with its Content-Length")
    if (request.content_length or 0) > max_body:
        raise RequestEntityTooLarge(f"The body may have {max_body} bytes at most")
    try:
        # Without a length there is no body, or (HTTP/2) one that is as long as it likes.
        body = json.loads(
            request.get_data() if request.content_length else b"", parse_constant=_refuse
        )
        # Refuses lone surrogates too, which no broker could carry.
        json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise InvalidRequest("The body must be JSON, in UTF-8") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object")
    return body


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
