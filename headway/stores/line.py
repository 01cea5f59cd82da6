"""A few connections to Redis, shared by all threads of a process, and as little as possible around
them.

redis-py's client spends three times as long on a command as its own connections do (pool, metrics,
callbacks), and its pool raises where it is empty, instead of waiting (web fact 20). So connections
are taken from a queue here, and commands are written to them as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import ResponseError

from headway.errors import Unavailable
from headway.stores.redis_connection import CONNECTION_ERRORS, translate_errors

Word = bytes | str | int


def pack(head: bytes, count: int, words: Sequence[Word]) -> bytes:
    """A command in Redis' protocol: ``head``, which is ``count`` words already packed, then
    ``words``.
    """
    parts = [b"*%d\r\n" % (count + len(words)), head]
    for word in words:
        raw = (
            word
            if isinstance(word, bytes)
            else word.encode()
            if isinstance(word, str)
            else b"%d" % word
        )
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class ConnectionPool:
    """The connections of one process and one patience."""

    def __init__(self, pool: Any, connections: int, wait: float) -> None:
        """``pool``: a pool of redis-py, which knows how connections are made; ``wait``: seconds to
        wait for a free one.
        """
        self._pool, self._wait = pool, wait
        #: A token for each connection that may be in use.
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(connections):
            self._free.put(None)
        #: Connections that nobody uses, the one that was used last at the end: as few are made as
        #: are needed.
        self._idle: deque[Any] = deque()

    def exchange(self, commands: bytes, count: int) -> list[Any]:
        """Send packed commands and read as many answers; an answer may be a ``ResponseError``.
        Raises ``Unavailable``.
        """
        try:
            self._free.get(timeout=self._wait)
        except Empty as exc:
            raise Unavailable("The result backend is too slow for all that is asked of it") from exc
        try:
            with translate_errors():
                connection = self._take()
                answers = _talk(connection, commands, count)
                self._idle.append(connection)
                return answers
        finally:
            self._free.put(None)

    def close(self) -> None:
        """Close the connections that are idle; others are made when they are needed."""
        while self._idle:
            self._idle.pop().disconnect()

    def _take(self) -> Any:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took it
                break
            if not _is_stale(connection):
                return connection
            connection.disconnect()
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        # Left to the first command, it would go past what Sentinel's connections do here: ask where
        # the master is.
        connection.connect()
        return connection


def _is_stale(connection: Any) -> bool:
    """Whether the server has closed it since, or something lies in it that nobody waits for: what
    is sent would be lost.
    """
    try:
        return bool(connection.can_read())
    except CONNECTION_ERRORS:
        return True


def _talk(connection: Any, commands: bytes, count: int) -> list[Any]:
    answers: list[Any] = []
    try:
        connection.send_packed_command([commands])
        while len(answers) < count:
            try:
                answers.append(connection.read_response())
            except ResponseError as refusal:
                answers.append(refusal)
    except BaseException:
        # Whatever it was (a soft time limit may strike in between): answers may be left that the
        # next caller would take for its own.
        connection.disconnect()
        raise
    return answers
