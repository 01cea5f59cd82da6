"""What the hub delivers: a change of an execution, with frames that are encoded once for all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from headway.core import serialize
from headway.core.frames import TERMINAL_FRAMES
from headway.core.serialize import Json
from headway.errors import HeadwayError
from headway.models import Execution, Progress
from headway.server.streams import rfc6455

_TERMINAL = frozenset(TERMINAL_FRAMES.values())


@dataclass(frozen=True, slots=True)
class ProgressChange:
    """The reports before and after a change. ``before`` is what the viewers were shown."""

    before: Progress | None
    after: Progress | None


class Frame:
    """One message of the contract. Its bytes are made on first use and shared by every viewer."""

    def __init__(self, content: Json, change: ProgressChange | None = None) -> None:
        self.content = content
        self.execution_id: str | None = content["execution_id"]
        self.kind: str = content["type"]
        #: Whether the execution's stream ends with this frame.
        self.terminal: bool = self.kind in _TERMINAL
        #: Whether a newer report of the same execution may replace this frame while it is unsent.
        self.mergeable: bool = self.kind == "progress"
        #: The change of a report; None for other frames, and if nothing was shown before.
        self.change = change if self.mergeable else None

    @cached_property
    def body(self) -> bytes:
        """As JSON."""
        return serialize.encode(self.content)

    @cached_property
    def on_wire(self) -> bytes:
        """As a WebSocket frame."""
        return rfc6455.text(self.body)


@dataclass(frozen=True, slots=True)
class Change:
    """A new state of an execution, and the frames that describe it."""

    execution_id: str
    #: The newest state; None while the result backend is unavailable.
    execution: Execution | None
    #: Empty if a viewer would see no difference.
    frames: tuple[Frame, ...]


class Viewer(Protocol):
    """One open stream. The hub's thread calls it, in order; a call must not block."""

    def deliver(self, change: Change) -> None:
        """Take a change. The first one of an execution starts with a ``status`` frame."""

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """The execution does not exist (``ExecutionNotFound``, ``ExecutionExpired``).

        No `deliver` follows for it.
        """
