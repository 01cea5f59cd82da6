"""The queue of a slow viewer."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

from headway.server.streams.changes import ProgressChange


class Item(Protocol):
    """What a `Backlog` holds: a `Frame`, or bytes of the connection itself."""

    @property
    def execution_id(self) -> str | None:
        """The execution that the item describes."""

    @property
    def mergeable(self) -> bool:
        """See `Frame.mergeable`."""

    @property
    def change(self) -> ProgressChange | None:
        """See `Frame.change`."""


ItemT = TypeVar("ItemT", bound=Item)


class Backlog(Generic[ItemT]):
    """Unsent items of one viewer, in order.

    Reports are merged to the newest one; nothing else is ever dropped. Not thread-safe.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        #: Each item with the first one that waited in its place: the ``before`` of that one is what
        #: the viewer has seen.
        self._waiting: deque[tuple[ItemT, ItemT]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, item: ItemT) -> int:
        """Append an item, or replace the waiting report of the same execution.

        A report is replaced only if no other frame of its execution waits behind it. If merging
        yields what the viewer already has (10 % sent, 20 % waiting, then 10 % again), both are
        dropped: no report is sent twice. Returns the number of items that will not be sent.
        """
        if item.mergeable:
            for i in range(len(self._waiting) - 1, -1, -1):
                waiting, first = self._waiting[i]
                if waiting.execution_id == item.execution_id:
                    if not waiting.mergeable:
                        break
                    if _cancels_out(first.change, item.change):
                        del self._waiting[i]
                        return 2
                    self._waiting[i] = (item, first)
                    return 1
        self._waiting.append((item, item))
        return 0

    def take(self) -> ItemT | None:
        """Remove and return the oldest item, or None."""
        return self._waiting.popleft()[0] if self._waiting else None


def _cancels_out(first: ProgressChange | None, last: ProgressChange | None) -> bool:
    return (
        first is not None
        and last is not None
        and last.after is not None
        and last.after.same_as(first.before)
    )
