"""Serves `static/headway.js` and its modules below the API's prefix.

They are not in a folder for static files, because the module finds its server by its own URL
(web-facts#csp-and-shadow-roots).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from flask import Blueprint, Response, request

from headway.server.services import Services

FOLDER = Path(__file__).with_name("static")

#: The files, each served at ``<prefix>/<name>``.
NAMES = (
    "headway.js",
    "headway.d.ts",
    "api-client.js",
    "backoff.js",
    "connection.js",
    "element.js",
    "element-style.js",
    "execution-state.js",
    "fallback.js",
    "format.js",
    "watch.js",
)


def register(blueprint: Blueprint, services: Services) -> None:
    """Add the route. It is public: the files are code and contain no data."""
    bodies = {name: (FOLDER / name).read_bytes() for name in NAMES}

    def module(name: str) -> Response:
        mimetype = "text/javascript" if name.endswith(".js") else "application/typescript"
        return _response(bodies[name], mimetype)

    for name in NAMES:
        blueprint.add_url_rule(f"/{name}", "module", module, defaults={"name": name})


def _response(body: bytes, mimetype: str) -> Response:
    """A file that browsers revalidate each time, so that they do not mix releases."""
    response = Response(body, content_type=f"{mimetype}; charset=utf-8")
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.headers["Cache-Control"] = "no-cache"
    # The CORS headers depend on the request's origin: a cache must not reuse them for another one.
    response.headers["Vary"] = "Origin"
    response.make_conditional(request)
    return response
