"""The socket for many, as a page of a test is told that it is: what the server would say, or
wouldn't.
"""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, WebSocketRoute

Json = dict[str, Any]

PATH = "**/progress/ws*"


def frame(kind: str, execution_id: str, **more: Any) -> Json:
    """A frame of the contract's section 4."""
    status = {"status": "running", "started": "running", "progress": "running"}.get(kind, kind)
    phase = {"phase": "running"} if kind == "status" else {}
    return (
        {
            "type": kind,
            "execution_id": execution_id,
            "status": status,
            "timestamp": "2026-01-01T12:00:00.000Z",
        }
        | phase
        | more
    )


def progress(current: float, total: float | None, message: str | None = None, **more: Any) -> Json:
    """A report, as `serialize.progress_json` has it."""
    known = bool(total)
    return {
        "current_step": int(current),
        "total_steps": int(total or 0),
        "percentage": current / total * 100 if total else 0.0,
        "current_step_name": message,
        "message": message,
        "attributes": None,
        "current": current,
        "total": total,
        "indeterminate": not known,
        "rate": None,
        "eta_seconds": None,
        "timestamp": "2026-01-01T12:00:00.000Z",
    } | more


class Server:
    """Stands for the server on every socket that the page opens, and remembers what it was asked.

    ``known`` says what is told of an execution that is subscribed to: frames. Of any other nothing
    is told.
    """

    def __init__(self, page: Page, known: dict[str, list[Json]] | None = None) -> None:
        self.known = known if known is not None else {}
        #: One for each that was opened, the newest last.
        self.sockets: list[WebSocketRoute] = []
        #: All that the page said, in order.
        self.heard: list[Json] = []
        page.route_web_socket(PATH, self._open)

    def tell(self, *frames: Json) -> None:
        """Say something on the newest socket."""
        for each in frames:
            self.sockets[-1].send(json.dumps(each))

    def _open(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        socket.on_message(self._hear)

    def _hear(self, message: str | bytes) -> None:
        said = json.loads(message)
        self.heard.append(said)
        for execution_id in said.get("subscribe", ()):
            self.tell(*self.known.get(execution_id, ()))
