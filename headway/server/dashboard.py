"""The dashboard: one page and its files, where the app wants them (``Settings.dashboard``).

They hold no data, so they are free for all: what the page shows it asks of the API, under the API's
own lock. An execution's own page is ``#/<id>`` of it and not a path: it works below every prefix
and proxy, takes no name from the app's own routes at ``/``, and ids stay out of access logs.

An app puts links of its own into the page's head with a template ``headway/nav.html``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flask import Blueprint, Flask, Response, render_template, send_from_directory, url_for

from headway.errors import ConfigurationError

if TYPE_CHECKING:
    from headway.server.extension import Headway

ASSETS = Path(__file__).parent / "static" / "dashboard"

#: By name and not by `mimetypes`, which asks the machine: a script of another type isn't run
#: (``nosniff``).
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

# Nothing but this server's own files, and no inline script or style. Trusted Types on top, with no
# policy that could make one: text can't become markup by whatever mistake, and a task's name or
# message is hostile. ``connect-src`` covers the WebSocket as well (web fact 24).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


def register(app: Flask, headway: Headway) -> None:
    """Add the page, unless it isn't wanted. Raises ``ConfigurationError`` where the app has a page
    at that place already.
    """
    if headway.settings.dashboard is None:
        return
    place = headway.settings.dashboard.rstrip("/")
    if any(
        rule.rule == f"{place}/" and "GET" in (rule.methods or ())
        for rule in app.url_map.iter_rules()
    ):
        raise ConfigurationError(
            f"The app has a page of its own at {place}/ already: give the dashboard another place"
        )
    app.register_blueprint(_blueprint(headway, place))


def _blueprint(headway: Headway, place: str) -> Blueprint:
    dashboard = Blueprint(
        f"{headway.name}_dashboard", __name__, url_prefix=place or None, template_folder="templates"
    )
    modules = sorted(path.name for path in ASSETS.glob("*.js") if path.name != "dashboard.js")

    @dashboard.get("/")
    def index() -> str:
        api = url_for(f"{headway.name}.executions").removesuffix("/executions")
        return render_template(
            "headway/dashboard.html", name=headway.name, api=api, modules=modules
        )

    @dashboard.get("/assets/<name>")
    def asset(name: str) -> Response:
        return send_from_directory(ASSETS, name, mimetype=TYPES.get(Path(name).suffix))

    @dashboard.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        # Asked for again each time (by ETag): the modules import each other, and have to be of one
        # release.
        response.headers["Cache-Control"] = "no-cache"
        return response

    return dashboard
