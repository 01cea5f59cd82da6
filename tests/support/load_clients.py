"""Thousands of viewers from few processes: lean clients that check what they are shown and can
behave badly.

``LoadClients`` is the parent's hand on one such process (`tests.support.load_client_process`). Its
viewers speak WebSocket or server-sent events just well enough; libraries cost a thread or some tens
of kilobytes each, and the machine is wanted for the server.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from typing import Any, Literal, cast

from tests.support.processes import Address, Process

#: Only who knows it commands a fleet: any process of the machine could connect.
KEY = b"headway"

Manner = Literal["read", "hang"]
Transport = Literal["websocket", "events"]
Farewell = Literal["close", "vanish"]


def raise_file_limit() -> int:
    """As many open files as the system allows this process; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True)
class ViewerSpec:
    """Who looks at what."""

    server: Address
    path: str
    skin: Transport = "websocket"
    #: ``hang``: reads the answer to its handshake and nothing more, with small buffers, and keeps
    #: the connection.
    manner: Manner = "read"


@dataclass
class Tally:
    """What became of a group of viewers so far."""

    #: Not connected yet; connected and not told anything; open and told something.
    waiting: int = 0
    silent: int = 0
    open: int = 0
    #: Frames by type, over all of them.
    frames: Counter[str] = field(default_factory=Counter)
    #: Those who were told an end, and how: each once.
    ends: Counter[str] = field(default_factory=Counter)
    #: Close codes that came; None: the connection ended without one.
    closes: Counter[int | None] = field(default_factory=Counter)
    #: How far the open ones were told that it is.
    currents: Counter[float | None] = field(default_factory=Counter)
    #: Those who left by themselves.
    left: int = 0
    #: What was shown that may not be.
    faults: list[str] = field(default_factory=list)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.waiting + other.waiting,
            self.silent + other.silent,
            self.open + other.open,
            self.frames + other.frames,
            self.ends + other.ends,
            self.closes + other.closes,
            self.currents + other.currents,
            self.left + other.left,
            self.faults + other.faults,
        )


class LoadClients(Process):
    """One process of viewers. A context manager."""

    def __init__(self) -> None:
        self._line: Connection | None = None
        super().__init__([sys.executable, "-m", "tests.support.load_client_process"], name="fleet")

    def wait_ready(self) -> None:
        """It says its port; the one who connects first commands it."""
        port = int(self.wait_log(r"^port (\d+)$")[1])
        self._line = Client(("127.0.0.1", port), authkey=KEY)

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
        super().close()

    def open(self, look: ViewerSpec, group: str, count: int) -> None:
        """Let ``count`` viewers look; returns before they do."""
        self._ask("open", look, group, count)

    def leave(self, group: str, count: int, how: Farewell) -> int:
        """Let so many of the group's open viewers leave, with a close or without a word; returns
        how many were there to leave.
        """
        return cast(int, self._ask("leave", group, count, how))

    def tally(self, group: str) -> Tally:
        """What became of a group."""
        return cast(Tally, self._ask("tally", group))

    def forget(self, group: str) -> None:
        """Drop a group, its open viewers too."""
        self._ask("forget", group)

    def _ask(self, *words: Any) -> Any:
        assert self._line is not None, "the fleet isn't started"
        try:
            self._line.send(words)
            return self._line.recv()
        except (EOFError, OSError) as exc:
            raise AssertionError(f"the fleet ended\n{self.log()[-4000:]}") from exc
