"""The dashboard: one page and its files, at ``Settings.dashboard``.

The files contain no data, so they are public: the page reads everything from the API, which
authorizes each request. An execution's own page is ``#/<id>`` and not a path: this works below
every prefix and proxy, takes no path from the app's own routes, and keeps ids out of access logs.

An app adds its own links to the page's header with a template ``headway/nav.html``.
"""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Flask, Response, render_template, send_from_directory, url_for

from headway.errors import ConfigurationError
from headway.server.services import Services

ASSETS = Path(__file__).parent / "static" / "dashboard"

#: Fixed here because `mimetypes` depends on the machine, and with ``nosniff`` browsers run scripts
#: of the right type only.
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

# Only this server's own files, and no inline script or style. Trusted Types without any policy: a
# task's name or message is untrusted text, and no mistake can turn it into markup. ``connect-src``
# covers the WebSocket too (web-facts#csp-and-shadow-roots).
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


def register(app: Flask, services: Services) -> None:
    """Add the page, if the setting says so.

    Raises ``ConfigurationError`` if the app already has a page at that path.
    """
    if services.settings.dashboard is None:
        return
    path = services.settings.dashboard.rstrip("/")
    if any(
        rule.rule == f"{path}/" and "GET" in (rule.methods or ())
        for rule in app.url_map.iter_rules()
    ):
        raise ConfigurationError(
            f"The app already has a page at {path}/. Choose another path for the dashboard."
        )
    app.register_blueprint(_blueprint(services, path))


def _blueprint(services: Services, path: str) -> Blueprint:
    dashboard = Blueprint(
        f"{services.name}_dashboard",
        __name__,
        url_prefix=path or None,
        template_folder="templates",
    )
    modules = sorted(path.name for path in ASSETS.glob("*.js") if path.name != "dashboard.js")

    @dashboard.get("/")
    def index() -> str:
        api = url_for(f"{services.name}.executions").removesuffix("/executions")
        return render_template(
            "headway/dashboard.html", name=services.name, api=api, modules=modules
        )

    @dashboard.get("/assets/<name>")
    def asset(name: str) -> Response:
        return send_from_directory(ASSETS, name, mimetype=TYPES.get(Path(name).suffix))

    @dashboard.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        # Browsers revalidate each file (by ETag): the modules import each other and must be of one
        # release.
        response.headers["Cache-Control"] = "no-cache"
        return response

    return dashboard
