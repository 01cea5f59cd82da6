"""The start page and its file upload."""

from __future__ import annotations

import secrets
import time
import uuid
from contextlib import suppress
from pathlib import Path

from flask import Blueprint, Flask, Response, jsonify, render_template, request, url_for

from headway.errors import InvalidRequest
from headway.server import Headway, problems
from headway.server.api.start import StartRequest, TaskStarter
from headway.server.auth import Action
from tasks.data import data_folder
from web.jobs import JOBS

#: The maximum size of an uploaded CSV file, in bytes.
MAX_UPLOAD = 64 * 1024 * 1024
#: Seconds until uploads and their databases are deleted: a week. Each upload checks it.
RETENTION = 7 * 86400

# Only this server's own files, and no inline script or style: text from a task can't become code.
# ``connect-src`` covers the WebSocket too (web-facts#csp-and-shadow-roots).
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


def register(app: Flask, headway: Headway) -> None:
    """Add the page at ``/`` and ``POST /upload``."""
    app.register_blueprint(_page(headway))
    app.register_blueprint(_upload(headway))

    @app.after_request
    def guard(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        return response


def clean(uploads: Path) -> None:
    """Delete uploads, and the databases made from them, that are older than `RETENTION`.

    Not at the end of the import: its database is the result, and a redelivery after a crash reads
    the file again.
    """
    oldest = time.time() - RETENTION
    for old in uploads.iterdir():
        with suppress(FileNotFoundError):  # another process cleans too
            if old.stat().st_mtime < oldest:
                old.unlink()


def _page(headway: Headway) -> Blueprint:
    page = Blueprint("page", __name__)

    @page.get("/")
    def index() -> str:
        # Public, like the static files: it contains no data, and asks for a token if needed.
        return render_template("index.html", jobs=JOBS, api=headway.settings.url_prefix)

    @page.get("/headway.js")
    def module() -> Response:
        # A static import needs a URL that is known in advance, but the API's prefix is a setting.
        where = url_for(f"{headway.name}.module", name="headway.js")
        return Response(f'export * from "{where}";', mimetype="text/javascript")

    @page.get("/favicon.ico")
    def favicon() -> Response:
        return Response(status=302, headers={"Location": url_for("static", filename="icon.svg")})

    return page


def _upload(headway: Headway) -> Blueprint:
    upload = Blueprint("upload", __name__)
    problems.register(upload)
    starter = TaskStarter(headway.services)

    @upload.post("/upload")
    def take() -> tuple[Response, int, dict[str, str]]:
        """Store a file below ``HEADWAY_DATA`` and start its import, like the API's start."""
        headway.policy.check_origin(request)
        headway.policy.authorize(request, Action.START)
        request.max_content_length = MAX_UPLOAD
        given = request.files.get("file")
        if given is None or not given.filename:
            raise InvalidRequest(
                "Send the CSV file as form field 'file': curl -F file=@rows.csv .../upload"
            )
        # A generated name: the client's name could be any path, and two uploads may have the same.
        name = f"uploads/{secrets.token_hex(12)}.csv"
        place = data_folder() / name
        place.parent.mkdir(mode=0o700, exist_ok=True)
        clean(place.parent)
        try:
            given.save(place)
            order = StartRequest("tasks.import_csv", [], {"path": name}, "")
            execution_id = starter.publish(order, str(uuid.uuid4()))
        except Exception:
            place.unlink(missing_ok=True)  # no task will read it
            raise
        where = url_for(f"{headway.name}.execution", execution_id=execution_id)
        body = {"execution_id": execution_id, "status": "pending", "status_url": where}
        return jsonify(body), 202, {"Location": where, "Cache-Control": "no-store"}

    return upload
