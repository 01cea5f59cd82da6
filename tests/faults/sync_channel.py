"""Messages between a job and its scenario, as lists on a Redis server: neither waits for time."""

from __future__ import annotations

from typing import Any

import redis

from tests.support.timing import seconds

#: Seconds that a job waits to be released.
RELEASE_TIMEOUT = seconds(120)
#: Seconds that a scenario waits for a job's notification.
NOTIFY_TIMEOUT = seconds(30)


class SyncChannel:
    """Both ends of the channel."""

    def __init__(self, url: str) -> None:
        self.url = url

    def wait_for_release(self, name: str) -> str:
        """In a job: wait for `release`, and return its word."""
        return self._pop(f"release:{name}", RELEASE_TIMEOUT)

    def notify(self, name: str, value: Any = "") -> None:
        """In a job: send a value to the scenario."""
        self._push(f"notify:{name}", value)

    def release(self, name: str, word: str = "on") -> None:
        """In a scenario: let a waiting job continue."""
        self._push(f"release:{name}", word)

    def wait_for(self, name: str, timeout: float = NOTIFY_TIMEOUT) -> str:
        """In a scenario: wait for the value of `notify`."""
        return self._pop(f"notify:{name}", timeout)

    def was_notified(self, name: str) -> bool:
        """In a scenario: whether there is an unread value of `notify`."""
        with self._client() as client:
            return bool(client.exists(f"notify:{name}"))

    def _push(self, key: str, value: Any) -> None:
        with self._client() as client:
            client.rpush(key, str(value))

    def _pop(self, key: str, timeout: float) -> str:
        with self._client() as client:
            item = client.blpop([key], timeout=timeout)
        assert item is not None, f"no {key} within {timeout:g} s"
        return str(item[1], "utf-8")

    def _client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=None)
