"""What the hub tells its viewers: a change, with frames encoded once for all; and the queue of a
viewer that is behind.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from headway.core import serialize
from headway.core.frames import TERMINAL_FRAMES
from headway.core.serialize import Json
from headway.errors import HeadwayError
from headway.models import Execution, Progress
from headway.server.streams import rfc6455

_ENDS = frozenset(TERMINAL_FRAMES.values())


@dataclass(frozen=True, slots=True)
class ProgressChange:
    """From one report to another."""

    #: What its viewers were shown before.
    before: Progress | None
    after: Progress | None


class Frame:
    """One message of the contract. Its bytes are made on first use and shared by every viewer."""

    def __init__(self, content: Json, step: ProgressChange | None = None) -> None:
        self.content = content
        self.execution_id: str | None = content["execution_id"]
        self.kind: str = content["type"]
        #: Whether the execution's stream ends with it.
        self.ends: bool = self.kind in _ENDS
        #: Whether a newer one of the same execution may take its place while nobody has read it.
        self.merges: bool = self.kind == "progress"
        #: Of a report: where it leads from and to. None of anything else, and where nothing was
        #: shown before.
        self.step = step if self.merges else None

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
        """There is no such execution (``ExecutionNotFound``, ``ExecutionExpired``); nothing more is
        told of it.
        """


class Item(Protocol):
    """What a `Backlog` holds: a `Frame`, or bytes of the connection itself."""

    @property
    def execution_id(self) -> str | None:
        """Whose it is."""

    @property
    def merges(self) -> bool:
        """See `Frame.merges`."""

    @property
    def step(self) -> ProgressChange | None:
        """See `Frame.step`."""


ItemT = TypeVar("ItemT", bound=Item)


class Backlog(Generic[ItemT]):
    """What waits for a viewer, in order: reports merge to the newest, nothing else is ever dropped.
    Not thread-safe.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        #: Each with the first that waited in its place: what its viewer was shown before that is
        #: what it was shown last.
        self._waiting: deque[tuple[ItemT, ItemT]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: ItemT) -> int:
        """Add at the end; a report takes the place of a report of the same execution that nothing
        of it has followed yet.

        One that leads back to what the viewer was shown last (10 %, then a 20 % that waits, then 10
        % again) goes with the one that it would replace: no report is told twice. Returns how many
        will not be sent.
        """
        if item.merges:
            for i in range(len(self._waiting) - 1, -1, -1):
                waiting, first = self._waiting[i]
                if waiting.execution_id == item.execution_id:
                    if not waiting.merges:
                        break
                    if _cancels_out(first.step, item.step):
                        del self._waiting[i]
                        return 2
                    self._waiting[i] = (item, first)
                    return 1
        self._waiting.append((item, item))
        return 0

    def take(self) -> ItemT | None:
        """The oldest, or None."""
        return self._waiting.popleft()[0] if self._waiting else None


def _cancels_out(first: ProgressChange | None, last: ProgressChange | None) -> bool:
    return (
        first is not None
        and last is not None
        and last.after is not None
        and last.after.same_as(first.before)
    )
