"""How a job and its row speak, over lists on a server of their own: no row waits for time."""

from __future__ import annotations

from typing import Any

import redis

#: Seconds that a job waits for the row's word.
PATIENCE = 120
#: Seconds that a row waits for a job's.
JOB_PATIENCE = 30


class Wire:
    """Both ends of it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def gate(self, name: str) -> str:
        """In a job: wait for the row's word, and return it."""
        return self._take(f"gate:{name}", PATIENCE)

    def tell(self, name: str, value: Any = "") -> None:
        """In a job: say something to the row."""
        self._put(f"told:{name}", value)

    def open(self, name: str, word: str = "on") -> None:
        """In a row: the other side of `gate`."""
        self._put(f"gate:{name}", word)

    def heard(self, name: str, patience: int = JOB_PATIENCE) -> str:
        """In a row: the other side of `tell`."""
        return self._take(f"told:{name}", patience)

    def was_told(self, name: str) -> bool:
        """In a row: whether a job has said it, without taking the word."""
        with self._client() as client:
            return bool(client.exists(f"told:{name}"))

    def _put(self, key: str, value: Any) -> None:
        with self._client() as client:
            client.rpush(key, str(value))

    def _take(self, key: str, patience: int) -> str:
        with self._client() as client:
            word = client.blpop([key], timeout=patience)
        assert word is not None, f"nobody said {key}"
        return str(word[1], "utf-8")

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=None)
