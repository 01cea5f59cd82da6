"""A few connections to Redis, shared by all threads of a process, and as little as possible around them.

redis-py's client spends three times as long on a command as its own connections do (pool, metrics, callbacks), and its pool
raises where it is empty, instead of waiting (web fact 20). So connections are taken from a queue here, and commands are written
to them as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import ResponseError

from headway.errors import Unavailable
from headway.stores.client import translated

Word = bytes | str | int


def pack(head: bytes, count: int, words: Sequence[Word]) -> bytes:
    """A command in Redis' protocol: ``head``, which is ``count`` words already packed, then ``words``."""
    parts = [b"*%d\r\n" % (count + len(words)), head]
    for word in words:
        raw = word if isinstance(word, bytes) else word.encode() if isinstance(word, str) else b"%d" % word
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


class Line:
    """The connections of one process and one patience."""

    def __init__(self, pool: Any, connections: int, wait: float) -> None:
        """``pool`` makes connections; ``wait``: seconds to wait for a free one."""
        self._pool, self._wait = pool, wait
        #: A connection each, or None for one that isn't made yet.
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(connections):
            self._free.put(None)

    def exchange(self, commands: bytes, count: int) -> list[Any]:
        """Send packed commands and read as many answers; an answer may be a ``ResponseError``. Raises ``Unavailable``."""
        try:
            connection = self._free.get(timeout=self._wait)
        except Empty as exc:
            raise Unavailable("The result backend is too slow for all that is asked of it") from exc
        try:
            with translated():
                if connection is None:
                    connection = self._pool.make_connection()
                elif connection.can_read():
                    connection.disconnect()  # the server has closed it, or it holds what nobody waits for
                return self._talk(connection, commands, count)
        finally:
            self._free.put(connection)

    def close(self) -> None:
        """Close the connections that are free; they are made again when they are needed."""
        idle = []
        try:
            while True:
                idle.append(self._free.get_nowait())
        except Empty:
            for connection in idle:
                if connection is not None:
                    connection.disconnect()
                self._free.put(connection)

    @staticmethod
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
            # Whatever it was (a soft time limit may strike in between): answers may be left that the next caller would take
            # for its own.
            connection.disconnect()
            raise
        return answers
