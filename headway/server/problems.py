"""Errors as responses: RFC 9457 ``application/problem+json`` for everything below the prefix.

One table maps errors to HTTP statuses. Driver messages and tracebacks never appear in a response:
``stores`` and ``feeds`` translate the errors of drivers, and an unexpected error is logged and
answered with a fixed text.
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

#: Error -> HTTP status. The three with 500 are faults of the configuration or of this package, not
#: of the request.
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

INTERNAL = "Internal server error; see the server's log"


def problem(
    status: int, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """A problem document.

    ``type`` is ``about:blank``: the status is enough for programs, ``detail`` is for people.
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
    """The status of the nearest class in the table: a later subclass keeps it."""
    return next(STATUS[cls] for cls in type(error).__mro__ if cls in STATUS)


def from_headway_error(error: errors.HeadwayError) -> Response:
    """The response to an error of this package."""
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
    """The response to an error of Flask or Werkzeug: its status and headers, our format."""
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


_NO_SUCH = {404: "There is nothing at this URL", 405: "This URL does not support that method"}


def from_unexpected_error(error: Exception) -> Response:
    """The response to an unexpected error. The traceback goes to the log only."""
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return problem(500, INTERNAL)


def register(blueprint: Blueprint) -> None:
    """Let the blueprint's views respond with problem documents, whatever handlers the app has.

    One handler per HTTP code: Flask looks for handlers of a code, the app's included, before it
    looks for handlers of a class.
    """
    for code in default_exceptions:
        blueprint.register_error_handler(code, from_http_error)
    blueprint.register_error_handler(errors.HeadwayError, from_headway_error)
    blueprint.register_error_handler(Exception, from_unexpected_error)


def handle_unmatched(
    app: Flask, prefix: str, root: Blueprint, is_like: Callable[[str], bool] | None
) -> None:
    """Respond to unmatched URLs and methods that belong to Headway.

    Blueprints do not see them (web-facts#blueprint-inside-init-app). Ours are: paths below
    ``prefix``; a path of the blueprint ``root`` with another method; and paths that ``is_like``
    accepts (an id with an encoded slash). An ``app.errorhandler(404)`` would replace the app's own
    handler, or be replaced by it; a catch-all route would take over 405 and the app's own routes
    below the prefix. This way, the app's handlers stay in charge of every other path.
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
        return add_security_headers(from_http_error(error)) if ours else None

    app.before_request(unmatched)


def _owner(app: Flask, error: MethodNotAllowed) -> str:
    """The name of the blueprint that has this path with other methods."""
    adapter = app.create_url_adapter(request)
    if adapter is None or not error.valid_methods:
        return ""
    try:
        endpoint, _ = adapter.match(method=next(iter(error.valid_methods)))
    except HTTPException:  # a redirect to a path of the app: none of ours ends with a slash
        return ""
    return str(endpoint).rpartition(".")[0]


def add_security_headers(response: Response) -> Response:
    """Add the headers of every response: it is data, and browsers must not treat it as a page."""
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault(
        "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
    )
    return response
