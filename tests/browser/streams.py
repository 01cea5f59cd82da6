"""A fake of the server's multi-execution WebSocket, and the frames that it sends."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Page, WebSocketRoute

Json = dict[str, Any]

PATH = "**/progress/ws*"
TIMESTAMP = "2026-01-01T12:00:00.000Z"


def frame(kind: str, execution_id: str, **more: Any) -> Json:
    """A frame as in section 4 of ``docs/contract.md``."""
    status = "running" if kind in {"status", "started", "progress"} else kind
    body = {"type": kind, "execution_id": execution_id, "status": status, "timestamp": TIMESTAMP}
    return body | ({"phase": "running"} if kind == "status" else {}) | more


def progress(current: float, total: float | None, message: str | None = None, **more: Any) -> Json:
    """A progress report, as `serialize.progress_json` returns it."""
    return {
        "current_step": int(current),
        "total_steps": int(total or 0),
        "percentage": current / total * 100 if total else 0.0,
        "current_step_name": message,
        "message": message,
        "attributes": None,
        "current": current,
        "total": total,
        "indeterminate": not total,
        "rate": None,
        "eta_seconds": None,
        "timestamp": TIMESTAMP,
    } | more


class FakeSocketServer:
    """The server side of every WebSocket that the page opens. Records what the page sends.

    ``frames`` has the frames to send after a subscription, by execution id; none for other ids.
    """

    def __init__(self, page: Page, frames: dict[str, list[Json]] | None = None) -> None:
        self.frames = frames if frames is not None else {}
        #: All sockets that were opened, the newest last.
        self.sockets: list[WebSocketRoute] = []
        #: All messages from the page, in order.
        self.messages: list[Json] = []
        page.route_web_socket(PATH, self._on_open)

    def send(self, *frames: Json) -> None:
        """Send frames on the newest socket."""
        for each in frames:
            self.sockets[-1].send(json.dumps(each))

    def _on_open(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        socket.on_message(self._on_message)

    def _on_message(self, text: str | bytes) -> None:
        message = json.loads(text)
        self.messages.append(message)
        for execution_id in message.get("subscribe", ()):
            self.send(*self.frames.get(execution_id, ()))
