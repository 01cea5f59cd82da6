"""The browser's side: `static/headway.js` and the modules that it is made of, served as they are,
below the API's own prefix.

There, and not in a folder for static files, because the module finds its server by its own address
(web fact 24).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

if TYPE_CHECKING:
    from headway.server.extension import Headway

FOLDER = Path(__file__).with_name("static")

#: What is served, each at ``<prefix>/<name>``.
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


def register(blueprint: Blueprint, headway: Headway) -> None:
    """Add the route. Free for all: it is code that anybody can have, and holds no data."""
    bodies = {name: (FOLDER / name).read_bytes() for name in NAMES}

    def module(name: str) -> Response:
        return answer(
            bodies[name], "text/javascript" if name.endswith(".js") else "application/typescript"
        )

    for name in NAMES:
        blueprint.add_url_rule(f"/{name}", "module", module, defaults={"name": name})


def answer(body: bytes, mimetype: str) -> Response:
    """A file of ours: asked for again each time, and sent again only where it has changed, so that
    no two releases are mixed.
    """
    response = Response(body, content_type=f"{mimetype}; charset=utf-8")
    response.set_etag(hashlib.sha256(body).hexdigest()[:32])
    response.headers["Cache-Control"] = "no-cache"
    # Whether another origin may have it depends on who asks: a cache in between must not give one
    # the other's answer.
    response.headers["Vary"] = "Origin"
    response.make_conditional(request)
    return response
