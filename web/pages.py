"""The page, and the upload that it needs beside the API."""

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

#: The largest CSV file that is taken, bytes.
MAX_UPLOAD = 64 * 1024 * 1024
#: Seconds that uploads and the databases made of them are kept: a week. They are looked at whenever
#: another one comes.
KEPT = 7 * 86400

# Nothing but this server's own files, and no inline script or style: whatever text a task reports
# can't become code. ``connect-src`` covers the WebSocket as well (web fact 24).
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
    """Delete what has lain there for longer than `KEPT`: uploads, and the databases that were made
    of them.

    By age and not at the end of the import: its database is the result, and a delivery after a
    crash reads the file again.
    """
    oldest = time.time() - KEPT
    for old in uploads.iterdir():
        with suppress(FileNotFoundError):  # another process cleans as well
            if old.stat().st_mtime < oldest:
                old.unlink()


def _page(headway: Headway) -> Blueprint:
    page = Blueprint("page", __name__)

    @page.get("/")
    def index() -> str:
        # Free for all, like the files in static: it holds nothing that is secret, and asks for a
        # token where one is wanted.
        return render_template("index.html", jobs=JOBS, api=headway.settings.url_prefix)

    @page.get("/headway.js")
    def module() -> Response:
        # A script can't import by a name that it learns at run time and still be ready when the
        # page is: so this name is fixed.
        where = url_for(f"{headway.name}.module", name="headway.js")
        return Response(f'export * from "{where}";', mimetype="text/javascript")

    @page.get("/favicon.ico")
    def favicon() -> Response:
        return Response(status=302, headers={"Location": url_for("static", filename="icon.svg")})

    return page


def _upload(headway: Headway) -> Blueprint:
    upload = Blueprint("upload", __name__)
    problems.register(upload)
    starter = TaskStarter(headway)

    @upload.post("/upload")
    def take() -> tuple[Response, int, dict[str, str]]:
        """Keep a file below ``HEADWAY_DATA`` and start its import; answered as the API answers a
        start.
        """
        headway.policy.check_origin(request)
        headway.policy.authorize(request, Action.START)
        request.max_content_length = MAX_UPLOAD
        given = request.files.get("file")
        if given is None or not given.filename:
            raise InvalidRequest(
                "Send the CSV file as the form's field 'file': curl -F file=@rows.csv .../upload"
            )
        # A name of our own: the one that was sent could lead anywhere, and two people may send the
        # same.
        name = f"uploads/{secrets.token_hex(12)}.csv"
        place = data_folder() / name
        place.parent.mkdir(mode=0o700, exist_ok=True)
        clean(place.parent)
        try:
            given.save(place)
            execution_id = starter.publish(
                StartRequest("tasks.import_csv", [], {"path": name}, ""), str(uuid.uuid4())
            )
        except Exception:
            place.unlink(missing_ok=True)  # nobody will ever read it
            raise
        where = url_for(f"{headway.name}.execution", execution_id=execution_id)
        body = {"execution_id": execution_id, "status": "pending", "status_url": where}
        return jsonify(body), 202, {"Location": where, "Cache-Control": "no-store"}

    return upload
