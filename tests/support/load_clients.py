"""Thousands of viewers in a few processes: small clients that check their frames, and that can
misbehave.

``LoadClients`` controls one such process (`tests.support.load_client_process`). Its viewers
implement only the needed parts of WebSocket and server-sent events: a library costs a thread or
some tens of kilobytes for each viewer, and the server needs the machine.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection
from typing import Any, Literal, cast

from tests.support.processes import Address, Process

#: The password of the control connection: any process of the machine could connect.
KEY = b"headway"

Behaviour = Literal["read", "hang"]
Transport = Literal["websocket", "events"]
Leaving = Literal["close", "reset"]


def raise_file_limit() -> int:
    """Raise this process's limit of open files to the maximum, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@dataclass(frozen=True)
class ViewerSpec:
    """What a viewer requests, and how it behaves."""

    server: Address
    path: str
    transport: Transport = "websocket"
    #: ``hang``: reads only the response to its handshake, with small buffers, and keeps the
    #: connection open.
    behaviour: Behaviour = "read"


@dataclass
class Tally:
    """The state of a group of viewers."""

    #: Viewers that wait to connect.
    waiting: int = 0
    #: Viewers that connected, and have not received a frame.
    silent: int = 0
    #: Viewers that have received a frame, and are still connected.
    open: int = 0
    #: The number of frames by type.
    frames: Counter[str] = field(default_factory=Counter)
    #: The number of viewers by the terminal frame that they received.
    ends: Counter[str] = field(default_factory=Counter)
    #: The number of closed connections by close code. None: closed without a code.
    closes: Counter[int | None] = field(default_factory=Counter)
    #: The last ``progress.current`` of the connected viewers.
    currents: Counter[float | None] = field(default_factory=Counter)
    #: The number of viewers that left by themselves.
    left: int = 0
    #: Frames and responses that break the contract.
    violations: list[str] = field(default_factory=list)

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
            self.violations + other.violations,
        )


class LoadClients(Process):
    """One process of viewers. A context manager."""

    def __init__(self) -> None:
        self._control: Connection | None = None
        argv = [sys.executable, "-m", "tests.support.load_client_process"]
        super().__init__(argv, name="load clients")

    def wait_ready(self) -> None:
        """It logs its port, and accepts one control connection."""
        port = int(self.wait_log(r"^port (\d+)$")[1])
        self._control = Client(("127.0.0.1", port), authkey=KEY)

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        super().close()

    def open(self, spec: ViewerSpec, group: str, count: int) -> None:
        """Start ``count`` viewers. Returns before they are connected."""
        self._request("open", spec, group, count)

    def leave(self, group: str, count: int, how: Leaving) -> int:
        """Let up to ``count`` open viewers of a group leave, by a close or by a TCP reset.

        Returns how many leave.
        """
        return cast(int, self._request("leave", group, count, how))

    def tally(self, group: str) -> Tally:
        """The state of a group."""
        return cast(Tally, self._request("tally", group))

    def forget(self, group: str) -> None:
        """Remove a group, and reset its open connections."""
        self._request("forget", group)

    def _request(self, *message: Any) -> Any:
        assert self._control is not None, "the load clients aren't started"
        try:
            self._control.send(message)
            return self._control.recv()
        except (EOFError, OSError) as exc:
            raise AssertionError(f"the load clients ended\n{self.log()[-4000:]}") from exc
