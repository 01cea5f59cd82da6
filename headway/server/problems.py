"""Errors as answers: RFC 9457 ``application/problem+json`` for everything below the prefix.

One table says which error is which HTTP status. Driver texts and tracebacks never get here:
drivers' errors were translated at the edge of ``stores`` and ``feeds``, and what nobody foresaw is
logged and answered by a sentence of ours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, default_exceptions

from headway import errors
from headway.core import serialize

log = logging.getLogger(__name__)

#: Error -> HTTP status. The three of 500 are faults of the set-up or of this package, never of the
#: request.
STATUS: Mapping[type[errors.HeadwayError], HTTPStatus] = {
    errors.ExecutionNotFound: HTTPStatus.NOT_FOUND,
    errors.ExecutionExpired: HTTPStatus.GONE,
    errors.ExecutionConflict: HTTPStatus.CONFLICT,
    errors.InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotAuthenticated: HTTPStatus.UNAUTHORIZED,
    errors.NotAllowed: HTTPStatus.FORBIDDEN,
    errors.TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    errors.NotSupported: HTTPStatus.NOT_IMPLEMENTED,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.UsageError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.ConfigurationError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.HeadwayError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

INTERNAL = "Something went wrong in the server; its log says what"


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """A problem document. ``type`` is ``about:blank``: the status says all that a program needs,
    ``detail`` is for a person.
    """
    code = HTTPStatus(status)
    body = {
        "type": "about:blank",
        "title": code.phrase,
        "status": code.value,
        "detail": detail,
        **more,
    }
    response = Response(
        serialize.encode(body), status=code.value, mimetype="application/problem+json"
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers.update(headers or {})
    return response


def http_status(error: errors.HeadwayError) -> HTTPStatus:
    """The nearest class in the table decides, so that an error made more special later keeps its
    status.
    """
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def from_headway_error(error: errors.HeadwayError) -> Response:
    """The answer to an error of this package."""
    status = http_status(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        return problem(status, INTERNAL)
    headers = {}
    if isinstance(error, (errors.TooManyRequests, errors.Unavailable)):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="headway"'
    return problem(status, str(error), headers=headers)


def from_http_error(error: HTTPException) -> Response:
    """The answer to what Flask or Werkzeug raised: its own status, our form; what it says in
    headers (``Allow``) is kept.
    """
    if error.response is not None or error.code is None or error.code < 400:
        response = error.get_response(request.environ)
        assert isinstance(response, Response)
        return response
    kept = {
        name: value
        for name, value in error.get_headers(request.environ)
        if name.lower() != "content-type"
    }
    detail = _NO_SUCH.get(error.code) or error.description or HTTPStatus(error.code).phrase
    return problem(error.code, detail, headers=kept)


_NO_SUCH = {404: "There is nothing at this URL", 405: "This URL doesn't take that method"}


def of_unforeseen(error: Exception) -> Response:
    """The answer to a fault of ours: logged with its traceback, told without."""
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, INTERNAL)


def register(blueprint: Blueprint) -> None:
    """Let the blueprint's own views answer in problem documents, whatever handlers the app has.

    Each HTTP code by itself: Flask asks for a handler of the code everywhere, the app's included,
    before it asks for a handler of the class anywhere.
    """
    for code in default_exceptions:
        blueprint.register_error_handler(code, from_http_error)
    blueprint.register_error_handler(errors.HeadwayError, from_headway_error)
    blueprint.register_error_handler(Exception, of_unforeseen)


def answer_unmatched(
    app: Flask, prefix: str, root: Blueprint, is_like: Callable[[str], bool] | None
) -> None:
    """Answer unmatched URLs and methods that are ours: no blueprint sees those (web fact 21).

    Ours is what lies below ``prefix``; a path of the blueprint ``root``, asked by another method;
    and what ``is_like`` such a path and isn't one (an id with an encoded slash). A handler in
    ``app.errorhandler(404)`` would replace the app's own, or be replaced by it; a catch-all route
    would take 405 and the app's own routes below the prefix. Here the app's handlers stay what they
    are, for every other path.
    """

    def unmatched() -> Response | None:
        error = request.routing_exception
        if not isinstance(error, HTTPException) or error.code not in _NO_SUCH:
            return None
        ours = request.path == prefix or request.path.startswith(prefix + "/")
        if isinstance(error, MethodNotAllowed):
            ours = ours or _owner(app, error) == root.name
        else:
            ours = ours or (is_like is not None and is_like(request.path))
        return secured(from_http_error(error)) if ours else None

    app.before_request(unmatched)


def _owner(app: Flask, error: MethodNotAllowed) -> str:
    """The name of the blueprint that has the path, and takes other methods there."""
    adapter = app.create_url_adapter(request)
    if adapter is None or not error.valid_methods:
        return ""
    try:
        endpoint, _ = adapter.match(method=next(iter(error.valid_methods)))
    except (
        HTTPException
    ):  # the router's redirect, to a path that is the app's: none of ours ends with a slash
        return ""
    return str(endpoint).rpartition(".")[0]


def secured(response: Response) -> Response:
    """The headers that every answer of ours carries: it is data, and no browser should take it for
    anything else.
    """
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault(
        "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
    )
    return response
