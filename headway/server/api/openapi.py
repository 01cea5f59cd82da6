"""The OpenAPI 3.1 description of the API, at ``/openapi.json``.

Tests check the running app against all of it.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

import headway as package
from headway.core import serialize
from headway.models import Phase, Status
from headway.server.api import listing, tensorlake
from headway.server.http_helpers import uncached
from headway.server.services import Services

Json = dict[str, Any]


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the route. It contains no data and needs no token."""
    settings = services.settings
    described = description(settings.url_prefix, settings.tensorlake, bool(settings.tokens))

    @blueprint.get("/openapi.json")
    def openapi() -> Response:
        return uncached(described | {"servers": [{"url": request.script_root or "/"}]})


def description(prefix: str, with_tensorlake: bool, needs_token: bool) -> serialize.Json:
    """The document without its servers."""
    paths = {
        f"{prefix}/executions/{{execution_id}}": {"get": _get_execution()},
        f"{prefix}/executions/{{execution_id}}/progress": {"get": _get_progress()},
        f"{prefix}/executions/{{execution_id}}/history": {"get": _get_history()},
        f"{prefix}/executions/{{execution_id}}/cancel": {"post": _cancel()},
        f"{prefix}/executions": {"get": _list(), "post": _start(prefix)},
        f"{prefix}/tickets": {"post": _ticket()},
        f"{prefix}/healthz": {"get": _probe("The process is running", always=True)},
        f"{prefix}/readyz": {"get": _probe("Result backend and feed respond", always=False)},
        f"{prefix}/metrics": {"get": _metrics()},
        f"{prefix}/openapi.json": {
            "get": _operation("This document", {"200": _json("OpenAPI 3.1", {"type": "object"})})
        },
    }
    if with_tensorlake:
        paths |= {
            tensorlake.PATH.replace("<", "{").replace(">", "}"): {
                "get": _get_tensorlake(["application"])
            },
            tensorlake.IN_NAMESPACE.replace("<", "{").replace(">", "}"): {
                "get": _get_tensorlake(["namespace", "application"])
            },
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headway",
            "version": package.__version__,
            "description": _ABOUT.format(prefix=prefix),
        },
        "paths": paths,
        "components": {
            "schemas": {
                "Execution": EXECUTION,
                "Progress": PROGRESS,
                "History": HISTORY,
                "TensorlakeProgress": TENSORLAKE,
                "Problem": PROBLEM,
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}] if needs_token else [],
    }


_ABOUT = (
    "Live progress of Celery tasks. Changes are pushed over WebSocket at "
    "{prefix}/executions/{{execution_id}}/progress/ws, as JSON text frames of the types status, "
    "started, progress, completed, failed, cancelled and error."
)


def _object(properties: Json, **more: Any) -> Json:
    """An object: every key is always present, and there are no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    } | more


def _or_null(kind: str, **more: Any) -> Json:
    return {"type": [kind, "null"], **more}


_TIME = _or_null("string", format="date-time")
_LABELS = {"type": ["object", "null"], "additionalProperties": {"type": "string"}}

PROGRESS = _object(
    {
        "current_step": {"type": "integer", "description": "Steps done"},
        "total_steps": {"type": "integer", "description": "Total steps; 0 while unknown"},
        "percentage": {"type": "number", "minimum": 0, "maximum": 100},
        "current_step_name": _or_null("string"),
        "message": _or_null("string"),
        "attributes": _LABELS,
        "current": _or_null("number"),
        "total": _or_null("number"),
        "indeterminate": {
            "type": "boolean",
            "description": "The fraction is unknown; percentage is 0",
        },
        "rate": _or_null("number", description="Units of current a second"),
        "eta_seconds": _or_null("number"),
        "timestamp": _TIME,
    }
)

EXECUTION = _object(
    {
        "execution_id": {"type": "string"},
        "status": {"enum": [status.value for status in Status]},
        "phase": {"enum": [phase.value for phase in Phase]},
        "progress": {"anyOf": [{"$ref": "#/components/schemas/Progress"}, {"type": "null"}]},
        "task": _or_null("string"),
        "attempt": {"type": "integer", "minimum": 0},
        "outputs": {"description": "What the task returned"},
        "error": {
            "anyOf": [
                _object(
                    {
                        "type": {"type": "string"},
                        "message": {"type": "string"},
                        "details": _or_null("object"),
                    }
                ),
                {"type": "null"},
            ]
        },
        "created_at": _TIME,
        "started_at": _TIME,
        "updated_at": _TIME,
        "finished_at": _TIME,
        "worker": _or_null("string"),
        "owner": _or_null("string"),
        "root_id": _or_null("string"),
        "group_id": _or_null("string"),
    },
    additionalProperties=True,
)

HISTORY = _object(
    {
        "execution_id": {"type": "string"},
        "complete": {"type": "boolean", "description": "No report was removed"},
        "reports": {
            "type": "array",
            "description": "Oldest first; always with the first and the newest",
            "items": _object(
                {
                    "attempt": {"type": "integer", "minimum": 0},
                    "timestamp": {"type": "string", "format": "date-time"},
                    **{
                        name: PROGRESS["properties"][name]
                        for name in ("current", "total", "percentage", "indeterminate", "message")
                    },
                    "attributes": _LABELS
                    | {"description": "Also null if they were too large to be kept"},
                }
            ),
        },
    }
)

TENSORLAKE = _object(
    {
        "current": _or_null("number"),
        "total": _or_null("number"),
        "message": _or_null("string"),
        "attributes": _LABELS,
        "timestamp": _or_null("integer", description="Milliseconds since the epoch"),
    }
)

PROBLEM: Json = {
    "type": "object",
    "description": "RFC 9457",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail"],
}

_ETAG = {"ETag": {"required": True, "schema": {"type": "string"}}}
_NOT_MODIFIED: Json = {"304": {"description": "Not changed since If-None-Match"}}
_NOTHING_YET: Json = {"204": {"description": "No report yet"}}
_ERRORS = {
    401: "No valid token",
    403: "Not allowed",
    404: "No execution with this id is known",
    405: "Method not supported",
    409: "The execution has already ended",
    410: "The execution has expired: its result is no longer kept",
    411: "The body has no Content-Length",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "A malformed id, query or body",
    429: "Too many viewers",
    501: "The result backend does not support this",
    503: "The result backend or the broker is unavailable",
}


def _json(text: str, schema: Json, **more: Any) -> Json:
    return {"description": text, "content": {"application/json": {"schema": schema}}, **more}


def _problems(*codes: int) -> Json:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    retry = {"Retry-After": {"required": True, "schema": {"type": "integer"}}}
    answers = {str(code): {"description": _ERRORS[code], "content": content} for code in codes}
    for code in ("429", "503"):
        if code in answers:
            answers[code]["headers"] = retry
    return answers


def _operation(summary: str, responses: Json, **more: Any) -> Json:
    return {"summary": summary, "responses": responses, **more}


def _id(name: str) -> Json:
    # No pattern: a slash would end the path segment, and other invalid ids get 422.
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }


_WAIT: Json = {
    "name": "wait",
    "in": "query",
    "description": "Hold the response for up to this many seconds (30 at most), until the state "
    "differs from If-None-Match",
    "schema": {"type": "number", "minimum": 0},
}
_IF_NONE_MATCH: Json = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}


def _read(summary: str, answers: Json, names: list[str], *, waits: bool = True) -> Json:
    parameters = [*map(_id, names), *([_WAIT] if waits else []), _IF_NONE_MATCH]
    failures = _problems(401, 403, 404, 410, 422, *([429] if waits else []), 503)
    return _operation(summary, answers | _NOT_MODIFIED | failures, parameters=parameters)


def _get_execution() -> Json:
    found = _json("The current state", {"$ref": "#/components/schemas/Execution"}, headers=_ETAG)
    return _read("Status, progress and outcome", {"200": found}, ["execution_id"])


def _get_progress() -> Json:
    found = _json("The last progress", {"$ref": "#/components/schemas/Progress"}, headers=_ETAG)
    return _read("Progress only", {"200": found} | _NOTHING_YET, ["execution_id"])


def _get_history() -> Json:
    found = _json("The reports", {"$ref": "#/components/schemas/History"}, headers=_ETAG)
    return _read("The history of the progress", {"200": found}, ["execution_id"], waits=False)


def _get_tensorlake(names: list[str]) -> Json:
    found = _json(
        "The last progress", {"$ref": "#/components/schemas/TensorlakeProgress"}, headers=_ETAG
    )
    return _read(
        "Progress, as Tensorlake's clients read it",
        {"200": found} | _NOTHING_YET,
        [*names, "request_id"],
    )


def _list() -> Json:
    def several(values: type[Status | Phase]) -> Json:
        return {
            "type": "array",
            "items": {"enum": [value.value for value in values]},
            "minItems": 1,
        }

    text = {"type": "string", "minLength": 1, "maxLength": listing.MAX_TEXT}
    time = {"type": "string", "format": "date-time"}
    filters: dict[str, tuple[str, Json]] = {
        "status": ("One or more, separated by commas", several(Status)),
        "phase": ("One or more, separated by commas", several(Phase)),
        "task": ("The full name of the task", text),
        "owner": ("The owner", text),
        "q": ("Part of the id or of the task's name; case does not matter", text),
        "since": ("First seen at this time or later", time),
        "until": ("First seen before this time", time),
        "limit": (
            "Executions per page",
            {
                "type": "integer",
                "minimum": 1,
                "maximum": listing.MAX_LIMIT,
                "default": listing.DEFAULT_LIMIT,
            },
        ),
        "cursor": ("The cursor of the previous page", {"type": "string"}),
        "counts": (
            "Whether to include the number of executions per status",
            {"type": "boolean", "default": False},
        ),
    }
    parameters = [
        {"name": name, "in": "query", "description": text, "schema": schema}
        | ({"style": "form", "explode": False} if schema["type"] == "array" else {})
        for name, (text, schema) in filters.items()
    ]
    cursor = _or_null(
        "string",
        description="The cursor of the next page; null at the end. A short page may have one too",
    )
    line = _object(
        {name: schema for name, schema in EXECUTION["properties"].items() if name != "outputs"},
        additionalProperties=True,
    )
    counts = _object(
        {status.value: {"type": "integer", "minimum": 0} for status in Status},
        type=["object", "null"],
    )
    body = _object({"executions": {"type": "array", "items": line}, "cursor": cursor})
    body["properties"]["counts"] = counts | {
        "description": "With ?counts=true: per status, regardless of the filters"
    }
    page = _json("A page, newest first", body)
    return _operation(
        "List executions", {"200": page} | _problems(401, 403, 422, 501, 503), parameters=parameters
    )


def _start(prefix: str) -> Json:
    body = {
        "type": "object",
        "properties": {
            "task": {"type": "string"},
            "args": {"type": "array"},
            "kwargs": {"type": "object"},
        },
        "required": ["task"],
        "additionalProperties": False,
    }
    path = f"{prefix}/executions/{{execution_id}}".replace("/", "~1")
    accepted = _json(
        "Published now, or before with the same Idempotency-Key",
        _object(
            {
                "execution_id": {"type": "string"},
                "status": {"enum": [status.value for status in Status]},
                "status_url": {"type": "string"},
            }
        ),
        headers={"Location": {"required": True, "schema": {"type": "string"}}},
        links={
            "execution": {
                "operationRef": f"#/paths/{path}/get",
                "parameters": {"execution_id": "$response.body#/execution_id"},
            }
        },
    )
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }
    return _operation(
        "Start one of the startable tasks",
        {"202": accepted} | _problems(401, 403, 410, 411, 413, 415, 422, 503),
        parameters=[key],
        requestBody={"required": True, "content": {"application/json": {"schema": body}}},
    )


def _cancel() -> Json:
    body = {
        "type": "object",
        "properties": {"terminate": {"type": "boolean", "default": False}},
        "additionalProperties": False,
    }
    accepted = _json(
        "Requested; the phase is cancelling until the task confirms it. An execution that waits "
        "for a retry is cancelled at once",
        {"$ref": "#/components/schemas/Execution"},
        headers={
            "Retry-After": {
                "description": "While the execution is not terminal",
                "schema": {"type": "integer"},
            }
        },
    )
    return _operation(
        "Request the cancellation of an execution; terminate kills it",
        {"202": accepted} | _problems(401, 403, 404, 409, 410, 411, 413, 415, 422, 503),
        parameters=[_id("execution_id")],
        requestBody={"required": False, "content": {"application/json": {"schema": body}}},
    )


def _ticket() -> Json:
    made = _object({"ticket": _or_null("string"), "expires_in": _or_null("number")})
    text = "For ?ticket= in a stream's URL; null without tokens"
    return _operation(
        "A short-lived ticket for a browser's stream",
        {"200": _json(text, made)} | _problems(401, 403),
    )


def _probe(summary: str, *, always: bool) -> Json:
    schema = {
        "type": "object",
        "properties": {"status": {"type": "string"}},
        "required": ["status"],
    }
    return _operation(
        summary, {"200": _json("Yes", schema)} | ({} if always else _problems(503)), security=[]
    )


def _metrics() -> Json:
    text = {
        "description": "Prometheus text format: viewers, frames, reads, feed, responses",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    return _operation("Counters of this process", {"200": text} | _problems(401, 403))
