"""The result backend of an app as data: keys, bytes and plain dicts, and never an exception object
or a pickle (facts 18, 19).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError

from headway.errors import ConfigurationError, Unavailable

logger = logging.getLogger(__name__)

PICKLE = (
    "result_serializer is 'pickle': to read such a result is to run whatever code is in it, and anybody who can write to the "
    "result backend can put some there. Set result_serializer = 'json' (and accept_content = ['json']), or, if only trusted "
    "processes can write there, build Headway with allow_pickle=True"
)
DISABLED = (
    "No result backend is configured, so nobody can see how far a task is. Set result_backend for workers and web processes "
    "alike, for example to 'redis://localhost:6379/0'"
)
RPC = (
    "result_backend 'rpc://' sends results to the process that called the task, and no other process can read them. Set "
    "result_backend to one that is shared, for example 'redis://localhost:6379/0' or 'db+postgresql://...'"
)
IN_MEMORY = (
    "result_backend {url!r} lives in the memory of one process, and no other process can read it. Set result_backend to one "
    "that is shared, for example 'redis://localhost:6379/0' or 'db+sqlite:////var/lib/app/results.sqlite'"
)
NOT_ACCEPTED = (
    "result_serializer is {serializer!r}, but result_accept_content (or accept_content) doesn't accept {content_type!r}: no "
    "result could be read. Add {serializer!r} to result_accept_content"
)


class ResultBackend:
    """The result backend of ``app``, for reading and writing its records as bytes and as data.

    One backend instance per process, made on first use: ``app.backend`` is another one in each
    thread and greenlet (fact 20). No connection of it is ever used for what is here but `read`.
    """

    def __init__(self, app: Any, *, allow_pickle: bool = False) -> None:
        self.app = getattr(app, "_get_current_object", lambda: app)()
        self.allow_pickle = allow_pickle
        self._backends: dict[int, Any] = {}

    @property
    def backend(self) -> Any:
        """A backend of our own that gives out data only; another one in a child process, which must
        not share its connections.

        Two threads may make one each at the same time; the first one serves.
        """
        pid = os.getpid()
        return self._backends.get(pid) or self._backends.setdefault(pid, self._new_backend())

    def _new_backend(self) -> Any:
        # Past a wrapper that `install` may have put on the instance: our own reads and writes must
        # not pass the fence.
        backend = type(self.app)._get_backend(self.app)
        # Instance attributes, so that the driver's own reading code ends in plain data too.
        backend.meta_from_decoded = lambda meta: meta
        backend.always_retry = False  # it would retry without end, with sleeps in between (fact 5)
        return backend

    @property
    def expires(self) -> float | None:
        """Seconds that the backend keeps a result; None for ever."""
        seconds = self.backend.expires
        seconds = getattr(seconds, "total_seconds", lambda: seconds)()
        return float(seconds) if seconds else None

    def key(self, task_id: str) -> bytes:
        """Where the backend keeps the record of a task, ``global_keyprefix`` included. Key-value
        backends only.
        """
        return _bytes(self.backend.get_key_for_task(task_id))

    def encode(self, meta: Mapping[str, Any]) -> bytes:
        """A record as the backend would store it: serialised, and compressed where
        ``result_compression`` is set.
        """
        return _bytes(self.backend.encode(meta))

    def decode(self, raw: bytes | str) -> dict[str, Any]:
        """What `encode` made, or Celery. An exception is a dict (``exc_type``, ``exc_message``,
        ``exc_module``), never an object.

        Raises ``ConfigurationError`` where that would unpickle, ``ValueError`` where the bytes are
        no record.
        """
        meta = self._decoded(raw)
        if not isinstance(meta, dict):
            raise ValueError(f"a result that is no record: {type(meta).__name__}")
        return meta | {"result": _as_data(meta.get("result"))}

    def _decoded(self, raw: bytes | str) -> Any:
        if self.backend.serializer == "pickle" and not self.allow_pickle:
            raise ConfigurationError(PICKLE)
        try:
            return self.backend.decode(_bytes(raw))
        except Exception as exc:  # every serializer and compressor has errors of its own
            raise ValueError(f"a result that can't be decoded: {exc}") from exc

    def decode_or_empty(self, task_id: str, raw: bytes | str | None) -> dict[str, Any] | None:
        """As `decode`, but for a reader that must get an answer: what can't be decoded is logged
        and says nothing.
        """
        if raw is None:
            return None
        try:
            return self.decode(raw)
        except ValueError as exc:
            logger.warning("The result of task %s is unreadable: %s", task_id, exc)
            return {"status": None, "result": None}

    def decode_value(self, task_id: str, raw: bytes | None) -> Any:
        """As `decode_or_empty`, for a backend that encodes the result alone and keeps the rest of a
        record in columns.
        """
        try:
            return None if raw is None else _as_data(self._decoded(raw))
        except ValueError as exc:
            logger.warning("The result of task %s is unreadable: %s", task_id, exc)
            return None

    def revoked(self, task_id: str, reason: str) -> dict[str, Any]:
        """The record of a task that was revoked, as the backend would make it. Key-value backends
        only.
        """
        error, backend = TaskRevokedError(reason), self.backend
        meta = backend._get_result_meta(
            backend.encode_result(error, "REVOKED"), "REVOKED", None, None
        )
        return {**meta, "task_id": task_id}

    def revoke(self, task_id: str, reason: str) -> None:
        """Store that record through the backend's own code. Raises ``Unavailable`` for whatever the
        driver raises.
        """
        try:
            self.backend.store_result(task_id, TaskRevokedError(reason), "REVOKED")
        except Exception as exc:
            raise Unavailable from exc

    def read(self, task_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """The records of tasks as data, in the order asked for, through the backend's own code;
        None where there is none.

        Raises ``Unavailable`` for whatever the driver raises. Takes as long as the driver takes.
        """
        try:
            return [self._read_one(task_id) for task_id in task_ids]
        except (ConfigurationError, SoftTimeLimitExceeded):
            raise
        except Exception as exc:
            raise Unavailable from exc

    def _read_one(self, task_id: str) -> dict[str, Any] | None:
        if hasattr(self.backend, "get_key_for_task"):
            return self.decode_or_empty(
                task_id, self.backend.get(self.backend.get_key_for_task(task_id))
            )
        meta = dict(self.backend._get_task_meta_for(task_id))
        nothing = (
            meta.get("status") == "PENDING" and meta.get("result") is None
        )  # every backend's way to say "not there"
        return None if nothing else meta


def _as_data(result: object) -> object:
    """An exception object (only a pickle can hold one) as Celery's other serialisers say it."""
    if not isinstance(result, BaseException):
        return result
    kind = type(result)
    return {
        "exc_type": kind.__name__,
        "exc_message": [str(part) for part in result.args],
        "exc_module": kind.__module__,
    }


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


def check_readable(app: Any, *, allow_pickle: bool = False) -> None:
    """Raise ``ConfigurationError``, with the help text, if no other process can read the results of
    this app (fact 20).
    """
    try:
        backend = ResultBackend(app).backend
    except Exception as exc:  # noqa: BLE001  whatever a driver raises for a setting that it can't use
        # Celery's own words may hold the URL, and its chained traceback would: no password may
        # reach a log.
        given = str(app.conf.result_backend)
        url, why = without_password(given), str(exc).replace(given, without_password(given))
        raise ConfigurationError(
            f"The result backend {url!r} can't be used: {type(exc).__name__}: {why}"
        ) from None
    names = {cls.__name__ for cls in type(backend).__mro__}
    if "DisabledBackend" in names:
        raise ConfigurationError(DISABLED)
    if "RPCBackend" in names:
        raise ConfigurationError(RPC)
    url = without_password(str(app.conf.result_backend))
    if ("CacheBackend" in names and backend.backend == "memory") or (
        "DatabaseBackend" in names and _is_memory(str(backend.url))
    ):
        raise ConfigurationError(IN_MEMORY.format(url=url))
    if backend.serializer == "pickle" and not allow_pickle:
        raise ConfigurationError(PICKLE)
    if backend.accept is not None and backend.content_type not in backend.accept:
        raise ConfigurationError(
            NOT_ACCEPTED.format(serializer=backend.serializer, content_type=backend.content_type)
        )


def without_password(url: str) -> str:
    """A URL that may be shown."""
    # Not by kombu's `maybe_sanitize_url`: it parses, and raises where that is just what is wrong;
    # of several URLs it takes one. A driver's options may hold one too.
    return re.sub(
        r"(://[^:@/]*):.*@",
        r"\1:**@",
        re.sub(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", r"\1**", url),
    )


def _is_memory(url: str) -> bool:
    """SQLite without a file: ``sqlite://``, ``sqlite:///:memory:``, ``mode=memory``."""
    return url.startswith("sqlite") and (
        url.endswith("://") or url.endswith(":///") or ":memory:" in url or "mode=memory" in url
    )
