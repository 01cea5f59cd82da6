"""One client for each transport, with the same interface: the frames that it received, the states
that these show, and how its stream ended.
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

from tests.support.timing import RESPONSE_TIMEOUT
from tests.support.wait import until

PREFIX = "/api/v1"
#: Seconds that a long poll waits at the server.
POLL_WAIT = 10

#: How a stream ended, the same for all transports. "over": with the execution. "back": the client
#: should reconnect.
CLOSES = {
    1000: "over",
    1008: "unknown",
    1012: "back",
    1013: "full",
    4401: "unauthenticated",
    4403: "forbidden",
    4410: "expired",
}
RESPONSES = {
    401: "unauthenticated",
    403: "forbidden",
    404: "unknown",
    410: "expired",
    422: "unknown",
    429: "full",
}
REFUSALS = {"not_found": "unknown", "expired": "expired", "not_allowed": "forbidden"}
ENDS = ("completed", "failed", "cancelled")


class ShownState(NamedTuple):
    """The state that a viewer shows after a frame."""

    status: str
    phase: str | None
    current: float | None


class TransportClient(ABC):
    """One viewer of one execution, which keeps all frames."""

    #: Whether the transport sends each frame of the contract.
    sends_frames = True
    #: Whether the transport sends more than the progress.
    sends_states = True

    def __init__(
        self, url: str, execution_id: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url, self.execution_id, self.headers = url, execution_id, dict(headers or {})
        self.received: list[dict[str, Any]] = []
        self.shown: list[ShownState] = []
        #: How the stream ended. None while it is open.
        self.ending: str | None = None
        #: The number of "unavailable" errors received.
        self.outages = 0
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Connect."""

    @abstractmethod
    def step(self) -> dict[str, Any] | str:
        """Read the next frame, or how the stream ended."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect."""

    @property
    def kinds(self) -> list[str]:
        """The types of the frames, in order."""
        return [frame["type"] for frame in self.received]

    def next(self) -> bool:
        """Read the next frame. False at the end of the stream."""
        assert self.ending is None, f"the stream has ended: {self.ending}"
        step = self.step()
        if isinstance(step, str):
            self.ending = step
            return False
        self.received.append(step)
        self._show(step)
        return True

    def wait_for(self, status: str, phase: str | None = None, current: float | None = None) -> None:
        """Read frames until this state is shown."""
        expected = ShownState(status, phase or status, current)
        while not self.shown or self.shown[-1] != expected:
            assert self.next(), (
                f"the stream ended ({self.ending}) before {expected}; received: {self.received}"
            )

    def wait_for_outage(self) -> None:
        """Read frames until one reports that the backend is unavailable."""
        before = self.outages
        while self.outages == before:
            assert self.next(), f"the stream ended: {self.ending}"

    def wait_for_end(self) -> str:
        """Read the rest of the stream, and return how it ended."""
        while self.next():
            pass
        assert self.ending is not None
        return self.ending

    def received_only(self, shown: list[ShownState], kinds: list[str]) -> bool:
        """Whether it received exactly these frames, or these states from a transport without
        frames.
        """
        if self.sends_frames:
            return self.kinds == kinds and list(dict.fromkeys(self.shown)) == list(
                dict.fromkeys(shown)
            )
        return self.shown == shown

    def _show(self, frame: Mapping[str, Any]) -> None:
        if frame["type"] == "error":
            assert frame["code"] == "unavailable", frame
            self.outages += 1
            return
        assert frame["execution_id"] == self.execution_id
        before = self.shown[-1] if self.shown else None
        phase = frame.get("phase") or {
            "started": "running",
            "progress": before.phase if before else None,
            "completed": "succeeded",
        }.get(frame["type"])
        current = before.current if before else None
        if "progress" in frame:
            current = frame["progress"]["current"] if frame["progress"] else None
        state = ShownState(frame["status"], phase or frame["status"], current)
        if state != before:
            self.shown.append(state)


class SingleSocket(TransportClient):
    """A WebSocket for one execution."""

    def open(self) -> None:
        path = f"{PREFIX}/executions/{self.execution_id}/progress/ws"
        self.socket = websocket.create_connection(
            self.url.replace("http", "ws") + path,
            timeout=RESPONSE_TIMEOUT,
            header=[f"{k}: {v}" for k, v in self.headers.items()],
        )

    def step(self) -> dict[str, Any] | str:
        opcode, data = self.socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            self.socket.shutdown()  # type: ignore[no-untyped-call]
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


class MultiSocket(SingleSocket):
    """A WebSocket for many executions, subscribed to one."""

    def open(self) -> None:
        self.socket = websocket.create_connection(
            self.url.replace("http", "ws") + f"{PREFIX}/progress/ws",
            timeout=RESPONSE_TIMEOUT,
            header=[f"{k}: {v}" for k, v in self.headers.items()],
        )
        self.socket.send(json.dumps({"subscribe": [self.execution_id]}))

    def step(self) -> dict[str, Any] | str:
        if self.kinds and self.kinds[-1] in ENDS:
            self.close()  # the server keeps this socket open
            return "over"
        return super().step()

    def _refused(self, frame: Mapping[str, Any]) -> dict[str, Any] | str:
        assert frame["execution_id"] == self.execution_id
        self.close()
        return REFUSALS[frame["code"]]


class Events(TransportClient):
    """Server-sent events, parsed by HTML's rules. It reconnects after the end, as EventSource
    does.
    """

    path = PREFIX + "/executions/{}/progress/events"

    def open(self) -> None:
        self.last_id = ""
        self.retry: int | None = None
        self._refusal: str | None = None
        self._connect()

    def step(self) -> dict[str, Any] | str:
        if self._refusal is not None:
            return self._refusal
        for frame in self._frames:
            return frame
        # EventSource can't know why a stream ended. It reconnects, unless the response is a 204.
        self.close()
        self._connect()
        self.close()
        return self._refusal or "back"

    def close(self) -> None:
        self._response.close()

    def reconnect(self, url: str) -> None:
        """Disconnect, and connect again to any process."""
        self.close()
        self.url = url
        self._connect()

    def _connect(self) -> None:
        headers = {
            "Accept": "text/event-stream",
            **self.headers,
            **({"Last-Event-ID": self.last_id} if self.last_id else {}),
        }
        url = self.url + self.path.format(self.execution_id)
        self._response = requests.get(url, headers=headers, stream=True, timeout=RESPONSE_TIMEOUT)
        self._refusal = {204: "over", **RESPONSES}.get(self._response.status_code)
        assert self._refusal or self._response.headers["Content-Type"].startswith(
            "text/event-stream"
        ), self._response.status_code
        self._frames = self._parse()

    def _parse(self) -> Iterator[dict[str, Any]]:
        event: dict[str, str] = {}
        for line in self._response.iter_lines(chunk_size=1):
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
    """Tensorlake's event stream, which has only reports."""

    sends_frames = sends_states = False
    path = "/applications/app/requests/{}/progress"

    def _frame(self, data: dict[str, Any], name: str | None) -> dict[str, Any]:
        assert name is None
        return data

    def _show(self, frame: Mapping[str, Any]) -> None:
        self.shown.append(ShownState("", "", frame["current"]))

    def wait_for(self, status: str, phase: str | None = None, current: float | None = None) -> None:
        last = self.shown[-1].current if self.shown else None
        while last != current is not None:
            assert self.next(), f"the stream ended: {self.ending}"
            last = self.shown[-1].current

    def wait_for_outage(self) -> None:
        """Return at once: the stream reports no outages."""

    def received_only(self, shown: list[ShownState], kinds: list[str]) -> bool:
        received = [state.current for state in self.shown]
        currents = [state.current for state in shown if state.current is not None]
        return received == [current for current, _ in itertools.groupby(currents)]


class LongPoll(TransportClient):
    """Long polls, one after the other. Each response is a state."""

    sends_frames = False

    def open(self) -> None:
        self._etag: str | None = None
        self._over = False

    def step(self) -> dict[str, Any] | str:
        if self._over:
            return "over"
        [response] = until(self._poll, what="a response with news")
        if response.status_code == 304:
            return "back"
        if response.status_code == 503:
            return {"type": "error", "code": "unavailable"}
        if response.status_code != 200:
            return RESPONSES[response.status_code]
        self._etag = response.headers["ETag"]
        state = response.json()
        self._over = state["status"] in ENDS
        return {
            "type": state["status"],
            **{name: state[name] for name in ("execution_id", "status", "phase", "progress")},
        }

    def close(self) -> None:
        """Do nothing: no connection is open between two polls."""

    def _poll(self) -> list[requests.Response]:
        """The next response, or none if it has no news: a 304, or a second error in a row.

        A 304 before the wait is over is news: the server ends all streams.
        """
        headers = {**self.headers, **({"If-None-Match": self._etag} if self._etag else {})}
        url = f"{self.url}{PREFIX}/executions/{self.execution_id}?wait={POLL_WAIT}"
        sent_at = time.monotonic()
        response = requests.get(url, headers=headers, timeout=RESPONSE_TIMEOUT)
        if response.status_code == 304 and time.monotonic() - sent_at >= POLL_WAIT:
            return []
        again = response.status_code == 503 and self.kinds[-1:] == ["error"]
        return [] if again else [response]


TRANSPORTS: Mapping[str, type[TransportClient]] = {
    "socket": SingleSocket,
    "many": MultiSocket,
    "events": Events,
    "poll": LongPoll,
    "tensorlake": TensorlakeEvents,
}
