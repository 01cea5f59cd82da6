"""Connections to the result backend's Redis: where it is, how long to wait, errors, and a pool.

Celery's client has no connect timeout and waits 120 s for a read
(celery-facts#backend-client-has-no-connect-timeout), and redis-py's default retries hide an outage
for seconds (web-facts#redis-client-retries). So *where* to connect (host, socket, TLS, Sentinel,
credentials, database) is taken from the backend, and *how long* to wait is given here.

redis-py's client needs three times as long for a command as its connections do (pool, metrics,
callbacks), and its pool raises when it is empty instead of waiting (web-facts#backend-per-thread).
So `ConnectionPool` hands out connections itself and writes packed commands to them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from headway.errors import Unavailable

logger = logging.getLogger(__name__)

Word = bytes | str | int

#: Seconds to connect, and to wait for each reply.
TIMEOUT = 0.5

#: Errors of a server that is unavailable, starting, stopping, or not the master.
CONNECTION_ERRORS: tuple[type[BaseException], ...] = (
    exceptions.ConnectionError,
    # and BusyLoading, Authentication, MaxConnections, MasterNotFound (Sentinel)
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,  # and MasterDown
    exceptions.TryAgainError,
    exceptions.AskError,  # and Moved
    OSError,
)
#: Those of them that an operator must fix: they are logged.
AUTH_ERRORS = (exceptions.AuthenticationError, exceptions.AuthorizationError)
#: Errors of a cluster node, which has only a part of the keys.
CLUSTERED = (exceptions.AskError, exceptions.ClusterCrossSlotError)  # and Moved
NO_CLUSTER = (
    "The result backend is a node of a Redis Cluster. Neither Celery nor Headway supports that: use "
    "a plain server, or Sentinel (%s)"
)
#: Errors that an operator must fix: no memory, no permission, a key of another type, a wrong
#: setting.
COMMAND_ERRORS: tuple[type[BaseException], ...] = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    exceptions.ChildDeadlockedError,
)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise redis-py's errors as ``Unavailable``, with the original error as the cause."""
    try:
        yield
    except CONNECTION_ERRORS as exc:
        if isinstance(exc, AUTH_ERRORS):
            logger.error("The result backend refused the login: %s", exc)
        elif isinstance(exc, CLUSTERED):
            logger.error(NO_CLUSTER, exc)
        raise Unavailable from exc
    except COMMAND_ERRORS as exc:
        if isinstance(exc, CLUSTERED):
            logger.error(NO_CLUSTER, exc)
        else:
            logger.error("The result backend refused a command: %s: %s", type(exc).__name__, exc)
        raise Unavailable("The result backend refused a command") from exc


def connect(
    backend: Any, *, timeout: float | None = TIMEOUT, max_connections: int = 16
) -> redis.Redis:
    """Make a client with its own pool, for the server of ``backend`` (Celery's Redis or Sentinel
    backend).

    ``timeout`` in seconds, to connect and for each reply; None means the backend's own. Never
    retries: the caller decides. Makes no connection yet.
    """
    params = dict(backend.connparams)
    params.update(
        max_connections=max_connections,
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),
        retry_on_timeout=False,
        retry_on_error=[],
    )
    params.pop("single_connection_client", None)
    if timeout is not None:
        params["socket_timeout"] = timeout
        if "path" not in params:  # UNIX sockets connect at once, and do not support the option
            params["socket_connect_timeout"] = timeout
    pool = backend._get_pool(**params)
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        sentinel.set_retry(Retry(NoBackoff(), 0))
        sentinel.connection_pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)
        if timeout is not None:
            sentinel.connection_pool.connection_kwargs.update(
                socket_timeout=timeout, socket_connect_timeout=timeout
            )
    return redis.Redis(connection_pool=pool)


def pack(head: bytes, count: int, words: Sequence[Word]) -> bytes:
    """A command in Redis' protocol: ``head`` (``count`` packed words), then ``words``."""
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
    """The connections of one process, with the same timeout. Shared by all threads."""

    def __init__(self, pool: Any, connections: int, wait: float) -> None:
        """``pool`` is a pool of redis-py, which makes the connections; ``wait`` is the longest wait
        for a free connection, in seconds.
        """
        self._pool, self._wait = pool, wait
        #: One token per connection that may be in use.
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(connections):
            self._free.put(None)
        #: Idle connections, the last used one at the end, so that as few as possible are made.
        self._idle: deque[Any] = deque()

    def exchange(self, commands: bytes, count: int) -> list[Any]:
        """Send ``count`` packed commands and read as many replies.

        A reply may be a ``ResponseError``. Raises ``Unavailable``.
        """
        try:
            self._free.get(timeout=self._wait)
        except Empty as exc:
            raise Unavailable(
                "The result backend is overloaded: no connection became free"
            ) from exc
        try:
            with translate_errors():
                connection = self._acquire()
                replies = _round_trip(connection, commands, count)
                self._idle.append(connection)
                return replies
        finally:
            self._free.put(None)

    def close(self) -> None:
        """Close the idle connections. New ones are made when needed."""
        while self._idle:
            self._idle.pop().disconnect()

    def _acquire(self) -> Any:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took it
                break
            if not _is_stale(connection):
                return connection
            connection.disconnect()
        connection = self._pool.connection_class(**self._pool.connection_kwargs)
        # Connect explicitly: Sentinel's connections look up the master only in `connect`.
        connection.connect()
        return connection


def _is_stale(connection: Any) -> bool:
    """Whether the server has closed it, or unread data is in it: a command would be lost."""
    try:
        return bool(connection.can_read())
    except CONNECTION_ERRORS:
        return True


def _round_trip(connection: Any, commands: bytes, count: int) -> list[Any]:
    replies: list[Any] = []
    try:
        connection.send_packed_command([commands])
        while len(replies) < count:
            try:
                replies.append(connection.read_response())
            except exceptions.ResponseError as refusal:
                replies.append(refusal)
    except BaseException:
        # Also a soft time limit may be raised in between. Unread replies must not reach the next
        # caller.
        connection.disconnect()
        raise
    return replies
