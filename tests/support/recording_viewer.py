"""A viewer of the hub that records what it receives."""

from __future__ import annotations

from typing import Any

from headway.errors import HeadwayError
from headway.server.streams.changes import Change, Frame


class RecordingViewer:
    """Records every frame and refusal. Raises at each delivery while ``fails`` is set."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.refused: HeadwayError | None = None
        self.fails = False

    def deliver(self, change: Change) -> None:
        """See `Viewer`."""
        self.frames += change.frames
        if self.fails:
            raise RuntimeError("the test makes this viewer fail")

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """See `Viewer`."""
        self.refused = error

    @property
    def kinds(self) -> list[str]:
        """The types of the frames, in order."""
        return [frame.kind for frame in self.frames]

    @property
    def phases(self) -> list[str]:
        """The phases of the ``status`` frames."""
        return [frame.content["phase"] for frame in self.frames if frame.kind == "status"]

    @property
    def currents(self) -> list[Any]:
        """``current`` of each frame that has progress."""
        return [
            frame.content["progress"]["current"]
            for frame in self.frames
            if frame.content.get("progress")
        ]
