"""What the hub tells its viewers: a change, with frames encoded once for all; and the queue of a viewer that is behind."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from headway.core import frames
from headway.core.frames import TERMINAL_FRAMES, Json
from headway.errors import HeadwayError
from headway.records import Execution
from headway.server import wire

_ENDS = frozenset(TERMINAL_FRAMES.values())


class Frame:
    """One message of the contract. Its bytes are made on first use and shared by every viewer."""

    def __init__(self, content: Json) -> None:
        self.content = content
        self.execution_id: str | None = content["execution_id"]
        self.kind: str = content["type"]

    @property
    def ends(self) -> bool:
        """Whether the execution's stream ends with it."""
        return self.kind in _ENDS

    @property
    def merges(self) -> bool:
        """Whether a newer one of the same execution may take its place while nobody has read it."""
        return self.kind == "progress"

    @cached_property
    def body(self) -> bytes:
        """As JSON."""
        return frames.encode(self.content)

    @cached_property
    def on_wire(self) -> bytes:
        """As a WebSocket frame."""
        return wire.text(self.body)


@dataclass(frozen=True, slots=True)
class Change:
    """What an execution became, and what is said of it."""

    execution_id: str
    #: Its newest state; None where the backend is away.
    execution: Execution | None
    #: None of them where a viewer would see no difference.
    frames: tuple[Frame, ...]


class Viewer(Protocol):
    """Who looks on. Called by the hub's thread, one call at a time, in order; must never block."""

    def tell(self, change: Change) -> None:
        """The first change of an execution opens its stream (``status`` first); more follow."""

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        """There is no such execution (``ExecutionNotFound``, ``ExecutionExpired``); nothing more is told of it."""


class Item(Protocol):
    """What a `Backlog` holds: a `Frame`, or bytes of the connection itself."""

    @property
    def execution_id(self) -> str | None:
        """Whose it is."""

    @property
    def merges(self) -> bool:
        """See `Frame.merges`."""


ItemT = TypeVar("ItemT", bound=Item)


class Backlog(Generic[ItemT]):
    """What waits for a viewer, in order: reports merge to the newest, nothing else is ever dropped. Not thread-safe."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[ItemT] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: ItemT) -> None:
        """Add at the end; a report takes the place of a report of the same execution that nothing of it has followed yet."""
        if item.merges:
            for i in range(len(self._waiting) - 1, -1, -1):
                waiting = self._waiting[i]
                if waiting.execution_id == item.execution_id:
                    if waiting.merges:
                        self._waiting[i] = item
                        return
                    break
        self._waiting.append(item)

    def take(self) -> ItemT | None:
        """The oldest, or None."""
        return self._waiting.popleft() if self._waiting else None

    def clear(self) -> None:
        """Drop everything: the viewer has gone."""
        self._waiting.clear()
