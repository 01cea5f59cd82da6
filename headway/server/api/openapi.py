"""The API, described for programs: OpenAPI 3.1 at ``/openapi.json``. A test holds the running app
to every word of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request

import headway as package
from headway.core import serialize
from headway.models import Phase, Status
from headway.server.api import listing, tensorlake
from headway.server.api.executions import uncached

if TYPE_CHECKING:
    from headway.server.extension import Headway

Json = dict[str, Any]


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route. It is the same for everybody and holds no data, so that it wants no token."""
    settings = headway.settings
    described = description(settings.url_prefix, settings.tensorlake, bool(settings.tokens))

    @blueprint.get("/openapi.json")
    def openapi() -> Response:
        return uncached(described | {"servers": [{"url": request.script_root or "/"}]})


def description(prefix: str, with_tensorlake: bool, wants_token: bool) -> serialize.Json:
    """The document, but for its servers."""
    paths = {
        f"{prefix}/executions/{{execution_id}}": {"get": _get_execution()},
        f"{prefix}/executions/{{execution_id}}/progress": {"get": _get_progress()},
        f"{prefix}/executions/{{execution_id}}/history": {"get": _get_history()},
        f"{prefix}/executions/{{execution_id}}/cancel": {"post": _cancel()},
        f"{prefix}/executions": {"get": _list(), "post": _start(prefix)},
        f"{prefix}/tickets": {"post": _ticket()},
        f"{prefix}/healthz": {"get": _probe("The process is up", always=True)},
        f"{prefix}/readyz": {"get": _probe("Result backend and feed answer", always=False)},
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
        "security": [{"token": []}] if wants_token else [],
    }


_ABOUT = (
    "Live progress of Celery tasks. Changes are pushed by WebSocket at {prefix}/executions/{{execution_id}}/progress/ws, "
    "as JSON text frames of the types status, started, progress, completed, failed, cancelled and error."
)


def _object(properties: Json, **more: Any) -> Json:
    """An object with all its keys always present, and no others."""
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
        "current_step": {"type": "integer", "description": "Steps that are done"},
        "total_steps": {"type": "integer", "description": "Steps in all; 0 while unknown"},
        "percentage": {"type": "number", "minimum": 0, "maximum": 100},
        "current_step_name": _or_null("string"),
        "message": _or_null("string"),
        "attributes": _LABELS,
        "current": _or_null("number"),
        "total": _or_null("number"),
        "indeterminate": {
            "type": "boolean",
            "description": "No fraction can be told; percentage is 0",
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
        "complete": {"type": "boolean", "description": "Nothing was thinned out"},
        "reports": {
            "type": "array",
            "description": "Oldest first; the first and the newest are always among them",
            "items": _object(
                {
                    "attempt": {"type": "integer", "minimum": 0},
                    "timestamp": {"type": "string", "format": "date-time"},
                    **{
                        name: PROGRESS["properties"][name]
                        for name in ("current", "total", "percentage", "indeterminate", "message")
                    },
                    "attributes": _LABELS
                    | {"description": "null as well where they were too many to be kept"},
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
_NOT_MODIFIED: Json = {"304": {"description": "The caller has it already (If-None-Match)"}}
_NOTHING_YET: Json = {"204": {"description": "Nothing was reported yet"}}
_ERRORS = {
    401: "No valid token",
    403: "Not allowed",
    404: "No execution of this id is known",
    405: "No such method",
    409: "Can't be done any more",
    410: "Known once; its result is no longer kept",
    411: "The body has no Content-Length",
    413: "The body is too large",
    415: "The body is no JSON",
    422: "A malformed id, query or body",
    429: "Too many viewers",
    501: "The result backend can't do that",
    503: "The result backend or the broker can't be reached",
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
    # The pattern says no more than that a slash would end the segment; what else is refused is
    # answered 422.
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    }


_WAIT: Json = {
    "name": "wait",
    "in": "query",
    "description": "Seconds to hold the answer at most, until there is something newer than If-None-Match; up to 30 are granted",
    "schema": {"type": "number", "minimum": 0},
}
_IF_NONE_MATCH: Json = {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}


def _read(summary: str, answers: Json, names: list[str], *, waits: bool = True) -> Json:
    parameters = [*map(_id, names), *([_WAIT] if waits else []), _IF_NONE_MATCH]
    failures = _problems(401, 403, 404, 410, 422, *([429] if waits else []), 503)
    return _operation(summary, answers | _NOT_MODIFIED | failures, parameters=parameters)


def _get_execution() -> Json:
    found = _json("The execution now", {"$ref": "#/components/schemas/Execution"}, headers=_ETAG)
    return _read("Status, progress and outcome", {"200": found}, ["execution_id"])


def _get_progress() -> Json:
    found = _json("The last progress", {"$ref": "#/components/schemas/Progress"}, headers=_ETAG)
    return _read("Progress alone", {"200": found} | _NOTHING_YET, ["execution_id"])


def _get_history() -> Json:
    found = _json("Its reports", {"$ref": "#/components/schemas/History"}, headers=_ETAG)
    return _read("The course of its progress", {"200": found}, ["execution_id"], waits=False)


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
    def several(words: type[Status | Phase]) -> Json:
        return {"type": "array", "items": {"enum": [word.value for word in words]}, "minItems": 1}

    word = {"type": "string", "minLength": 1, "maxLength": listing.MAX_WORD}
    time = {"type": "string", "format": "date-time"}
    filters: dict[str, tuple[str, Json]] = {
        "status": ("One or more, with commas between", several(Status)),
        "phase": ("One or more, with commas between", several(Phase)),
        "task": ("The task's name, in full", word),
        "owner": ("Whom it belongs to", word),
        "q": ("Part of the id or of the task's name, in whatever case", word),
        "since": ("First heard of at this time or later", time),
        "until": ("First heard of before this time", time),
        "limit": (
            "How many at most",
            {"type": "integer", "minimum": 1, "maximum": listing.MOST, "default": listing.LIMIT},
        ),
        "cursor": ("Where the page before ended", {"type": "string"}),
        "counts": ("Whether to say how many there are", {"type": "boolean", "default": False}),
    }
    parameters = [
        {"name": name, "in": "query", "description": text, "schema": schema}
        | ({"style": "form", "explode": False} if schema["type"] == "array" else {})
        for name, (text, schema) in filters.items()
    ]
    cursor = _or_null(
        "string",
        description="Where the next page begins; null at the end. A page may be short and have one",
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
        "description": "With ?counts=true: of all statuses, whatever the filters are"
    }
    page = _json("A page, newest first", body)
    return _operation(
        "List executions", {"200": page} | _problems(401, 403, 422, 501, 503), parameters=parameters
    )


def _start(prefix: str) -> Json:
    order = {
        "type": "object",
        "properties": {
            "task": {"type": "string"},
            "args": {"type": "array"},
            "kwargs": {"type": "object"},
        },
        "required": ["task"],
        "additionalProperties": False,
    }
    accepted = _json(
        "Published, or published before under the same Idempotency-Key",
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
                "operationRef": f"#/paths/{prefix.replace('/', '~1')}~1executions~1{{execution_id}}/get",
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
        "Start one of the tasks that may be started",
        {"202": accepted} | _problems(401, 403, 410, 411, 413, 415, 422, 503),
        parameters=[key],
        requestBody={"required": True, "content": {"application/json": {"schema": order}}},
    )


def _cancel() -> Json:
    wish = {
        "type": "object",
        "properties": {"terminate": {"type": "boolean", "default": False}},
        "additionalProperties": False,
    }
    accepted = _json(
        "Asked for; its phase is cancelling until its run has confirmed it. What waits for a retry is cancelled at once",
        {"$ref": "#/components/schemas/Execution"},
        headers={
            "Retry-After": {"description": "While it hasn't ended", "schema": {"type": "integer"}}
        },
    )
    return _operation(
        "Ask for the end of an execution, with terminate by force",
        {"202": accepted} | _problems(401, 403, 404, 409, 410, 411, 413, 415, 422, 503),
        parameters=[_id("execution_id")],
        requestBody={"required": False, "content": {"application/json": {"schema": wish}}},
    )


def _ticket() -> Json:
    made = _object({"ticket": _or_null("string"), "expires_in": _or_null("number")})
    text = "For ?ticket= of one stream's URL; null where no token is wanted"
    return _operation(
        "A short-lived ticket for a browser's stream",
        {"200": _json(text, made)} | _problems(401, 403),
    )


def _probe(summary: str, *, always: bool) -> Json:
    said = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    return _operation(
        summary, {"200": _json("Yes", said)} | ({} if always else _problems(503)), security=[]
    )


def _metrics() -> Json:
    text = {
        "description": "Prometheus text: viewers, frames, reads, the feed, answers",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
    return _operation("Counters of this process", {"200": text} | _problems(401, 403))
