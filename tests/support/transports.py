"""One viewer for each way to look on, all alike: what it was told, what it believes, and how its
stream ended.
"""

from __future__ import annotations

import itertools
import json
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import requests
import websocket

from tests.support.wait import until

PREFIX = "/api/v1"
#: Seconds that a viewer waits for a word.
PATIENCE = 60.0
#: Seconds that a held poll asks to be held.
HOLD = 10

#: How a stream ended, in words that all skins share. "over": with the execution; "back": the client
#: is to come back.
CLOSES = {
    1000: "over",
    1008: "unknown",
    1012: "back",
    1013: "full",
    4401: "unauthenticated",
    4403: "forbidden",
    4410: "expired",
}
ANSWERS = {
    401: "unauthenticated",
    403: "forbidden",
    404: "unknown",
    410: "expired",
    422: "unknown",
    429: "full",
}
REFUSALS = {"not_found": "unknown", "expired": "expired", "not_allowed": "forbidden"}
ENDS = ("completed", "failed", "cancelled")


class Belief(NamedTuple):
    """What a viewer takes for true."""

    status: str
    phase: str | None
    current: float | None


class Transport(ABC):
    """One viewer of one execution. Its frames are written down; `kinds` is None where it is given
    states and not frames.
    """

    #: Whether it is told each frame of the contract.
    frames = True
    #: Whether it learns more than the progress.
    states = True

    def __init__(
        self, url: str, execution_id: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url, self.execution_id, self.headers = url, execution_id, dict(headers or {})
        self.told: list[dict[str, Any]] = []
        self.beliefs: list[Belief] = []
        #: How its stream ended; None while it goes on.
        self.ending: str | None = None
        #: Times that it was told that the backend is away.
        self.outages = 0
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Begin to look on."""

    @abstractmethod
    def step(self) -> dict[str, Any] | str:
        """The next frame, or how the stream ended."""

    @abstractmethod
    def close(self) -> None:
        """Look away."""

    @property
    def kinds(self) -> list[str]:
        """The frames' types, in order."""
        return [frame["type"] for frame in self.told]

    def next(self) -> bool:
        """Take the next frame in; False at the end."""
        assert self.ending is None, f"nothing comes after {self.ending!r}"
        step = self.step()
        if isinstance(step, str):
            self.ending = step
            return False
        self.told.append(step)
        self._believe(step)
        return True

    def sees(self, status: str, phase: str | None = None, current: float | None = None) -> None:
        """Wait until this is what it believes."""
        wanted = Belief(status, phase or status, current)
        while not self.beliefs or self.beliefs[-1] != wanted:
            assert self.next(), (
                f"the stream ended ({self.ending}) before {wanted}; it was told {self.told}"
            )

    def is_told_of_an_outage(self) -> None:
        """Wait until it knows that the backend is away."""
        before = self.outages
        while self.outages == before:
            assert self.next(), f"the stream ended: {self.ending}"

    def ends(self) -> str:
        """Wait for the end, and say how it was."""
        while self.next():
            pass
        assert self.ending is not None
        return self.ending

    def was_told(self, beliefs: list[Belief], kinds: list[str]) -> bool:
        """Whether this is all that it was told: frame by frame, or state by state where it isn't
        given frames.
        """
        if self.frames:
            return self.kinds == kinds and list(dict.fromkeys(self.beliefs)) == list(
                dict.fromkeys(beliefs)
            )
        return self.beliefs == beliefs

    def _believe(self, frame: Mapping[str, Any]) -> None:
        if frame["type"] == "error":
            assert frame["code"] == "unavailable", frame
            self.outages += 1
            return
        assert frame["execution_id"] == self.execution_id
        before = self.beliefs[-1] if self.beliefs else None
        kept = before.phase if before else None
        phase = frame.get("phase") or {
            "started": "running",
            "progress": kept,
            "completed": "succeeded",
        }.get(frame["type"])
        current = before.current if before else None
        if "progress" in frame:
            current = frame["progress"]["current"] if frame["progress"] else None
        belief = Belief(frame["status"], phase or frame["status"], current)
        if belief != before:
            self.beliefs.append(belief)


class OneSocket(Transport):
    """A WebSocket for one execution."""

    def open(self) -> None:
        path = f"{PREFIX}/executions/{self.execution_id}/progress/ws"
        self.socket = websocket.create_connection(
            self.url.replace("http", "ws") + path,
            timeout=PATIENCE,
            header=[f"{k}: {v}" for k, v in self.headers.items()],
        )

    def step(self) -> dict[str, Any] | str:
        opcode, data = self.socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            self.socket.shutdown()
            return self._closed(struct.unpack("!H", data[:2])[0])
        frame = json.loads(data)
        if frame["type"] == "error" and frame["code"] in REFUSALS:
            return self._refused(frame)
        return dict(frame)

    def close(self) -> None:
        self.socket.close()

    def _closed(self, code: int) -> str:
        return CLOSES[code]

    def _refused(self, frame: Mapping[str, Any]) -> dict[str, Any] | str:
        ending = self.step()
        assert ending == REFUSALS[frame["code"]]
        return ending


class ManySocket(OneSocket):
    """A WebSocket for many, with one of them in it."""

    def open(self) -> None:
        self.socket = websocket.create_connection(
            self.url.replace("http", "ws") + f"{PREFIX}/progress/ws",
            timeout=PATIENCE,
            header=[f"{k}: {v}" for k, v in self.headers.items()],
        )
        self.socket.send(json.dumps({"subscribe": [self.execution_id]}))

    def step(self) -> dict[str, Any] | str:
        if self.kinds and self.kinds[-1] in ENDS:
            self.close()  # the socket would stay
            return "over"
        return super().step()

    def _refused(self, frame: Mapping[str, Any]) -> dict[str, Any] | str:
        assert frame["execution_id"] == self.execution_id
        self.close()
        return REFUSALS[frame["code"]]


class Events(Transport):
    """Server-sent events, by the rules of HTML's section on them; what comes behind an end is found
    out by coming back.
    """

    path = PREFIX + "/executions/{}/progress/events"

    def open(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._refusal: str | None = None
        self._come()

    def step(self) -> dict[str, Any] | str:
        if self._refusal is not None:
            return self._refusal
        for frame in self._frames:
            return frame
        # EventSource can't know why a stream ended: it comes back, and is told to stay away (204),
        # or isn't.
        self.close()
        self._come()
        self.close()
        return self._refusal or "back"

    def close(self) -> None:
        self._answer.close()

    def come_back(self, url: str) -> None:
        """Be cut off, and come back, to whichever process."""
        self.close()
        self.url = url
        self._come()

    def _come(self) -> None:
        headers = {
            "Accept": "text/event-stream",
            **self.headers,
            **({"Last-Event-ID": self.last_id} if self.last_id else {}),
        }
        url = self.url + self.path.format(self.execution_id)
        self._answer = requests.get(url, headers=headers, stream=True, timeout=PATIENCE)
        self._refusal = {204: "over", **ANSWERS}.get(self._answer.status_code)
        assert self._refusal or self._answer.headers["Content-Type"].startswith(
            "text/event-stream"
        ), self._answer.status_code
        self._frames = self._parse()

    def _parse(self) -> Iterator[dict[str, Any]]:
        event: dict[str, str] = {}
        for line in self._answer.iter_lines(chunk_size=1):
            name, _, value = line.decode().partition(": ")
            if name:
                event[name] = value
                continue
            self.last_id = event.get("id", self.last_id)
            self.retry = int(event["retry"]) if "retry" in event else self.retry
            if "data" in event:
                frame = self._frame(json.loads(event["data"]), event.get("event"))
                event = {}
                yield frame
            event = {}

    def _frame(self, data: dict[str, Any], name: str | None) -> dict[str, Any]:
        assert data["type"] == name
        return data


class TensorlakeEvents(Events):
    """Tensorlake's event stream: reports, and nothing else."""

    frames = states = False
    path = "/applications/app/requests/{}/progress"

    def _frame(self, data: dict[str, Any], name: str | None) -> dict[str, Any]:
        assert name is None
        return data

    def _believe(self, frame: Mapping[str, Any]) -> None:
        self.beliefs.append(Belief("", "", frame["current"]))

    def sees(self, status: str, phase: str | None = None, current: float | None = None) -> None:
        known = self.beliefs[-1].current if self.beliefs else None
        while known != current is not None:
            assert self.next(), f"the stream ended: {self.ending}"
            known = self.beliefs[-1].current

    def is_told_of_an_outage(self) -> None:
        """It is told nothing."""

    def was_told(self, beliefs: list[Belief], kinds: list[str]) -> bool:
        told = [belief.current for belief in self.beliefs]
        currents = [belief.current for belief in beliefs if belief.current is not None]
        return told == [current for current, _ in itertools.groupby(currents)]


class LongPoll(Transport):
    """Held polls, one after the other: each answer is a state."""

    frames = False

    def open(self) -> None:
        self._etag: str | None = None
        self._over = False

    def step(self) -> dict[str, Any] | str:
        if self._over:
            return "over"
        [answer] = until(
            self._ask, within=PATIENCE, what="an answer that says more than the one before"
        )
        if answer.status_code == 304:
            return "back"
        if answer.status_code == 503:
            return {"type": "error", "code": "unavailable"}
        if answer.status_code != 200:
            return ANSWERS[answer.status_code]
        self._etag = answer.headers["ETag"]
        state = answer.json()
        self._over = state["status"] in ENDS
        return {
            "type": state["status"],
            **{name: state[name] for name in ("execution_id", "status", "phase", "progress")},
        }

    def close(self) -> None:
        """Nothing is open between two polls."""

    def _ask(self) -> list[requests.Response]:
        """The next answer; none while it is what was told already, that the backend is away or that
        nothing is new.

        A 304 before its time says something: the server lets go of everybody.
        """
        headers = {**self.headers, **({"If-None-Match": self._etag} if self._etag else {})}
        url = f"{self.url}{PREFIX}/executions/{self.execution_id}?wait={HOLD}"
        asked = time.monotonic()
        answer = requests.get(url, headers=headers, timeout=PATIENCE)
        if answer.status_code == 304 and time.monotonic() - asked >= HOLD:
            return []
        again = answer.status_code == 503 and bool(self.told) and self.told[-1]["type"] == "error"
        return [] if again else [answer]


TRANSPORTS: Mapping[str, type[Transport]] = {
    "socket": OneSocket,
    "many": ManySocket,
    "events": Events,
    "poll": LongPoll,
    "tensorlake": TensorlakeEvents,
}
