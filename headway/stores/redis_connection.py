"""A Redis client with the settings of the result backend's own, and the patience of ours.

Celery's client has no connect timeout and 120 s for a read (fact 40, web fact 19), and redis-py's
default retries hide an outage for seconds (web fact 17). The settings of *where* (host, socket,
TLS, Sentinel, credentials, database) are the backend's; the settings of *how long* are given here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from headway.errors import Unavailable

logger = logging.getLogger(__name__)

#: Seconds for a connection to be made, and for each answer.
TIMEOUT = 0.5

#: Faults of a server that is away, going, coming, or not the right one just now. Nothing to learn
#: from but that.
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
#: Of these, the ones that somebody should look at all the same.
AUTH_ERRORS = (exceptions.AuthenticationError, exceptions.AuthorizationError)
#: A node that keeps only a part of the keys.
CLUSTERED = (exceptions.AskError, exceptions.ClusterCrossSlotError)  # and Moved
NO_CLUSTER = (
    "The result backend is a node of a Redis Cluster, in which neither Celery nor Headway can keep results: "
    "use a plain server, or Sentinel (%s)"
)
#: Faults that somebody should look at: no memory, no permission, a key that something else has
#: taken, a wrong setting.
COMMAND_ERRORS: tuple[type[BaseException], ...] = (
    exceptions.RedisError,
    exceptions.RedisClusterException,
    exceptions.ChildDeadlockedError,
)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Driver errors as ``Unavailable``, with the driver's error as the cause. The one place where
    that is done for Redis.
    """
    try:
        yield
    except CONNECTION_ERRORS as exc:
        if isinstance(exc, AUTH_ERRORS):
            logger.error("The result backend doesn't let us in: %s", exc)
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
    """A new client, with a pool of its own, to where ``backend`` (Celery's Redis or Sentinel
    backend) keeps its results.

    ``timeout`` in seconds, for connecting and for each answer; None: the backend's own. Never
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
        if (
            "path" not in params
        ):  # a UNIX socket connects at once, and its class doesn't know the word
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
