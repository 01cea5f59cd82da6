"""The result backend of an app as data: keys, bytes and plain dicts.

It never creates exception objects (celery-facts#decode-result-revives-exceptions) and never
unpickles (celery-facts#pickle-results-run-code).
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
    "result_serializer is 'pickle': reading such a result runs the code in it, so anyone who can "
    "write to the result backend can run code here. Set result_serializer = 'json' (and "
    "accept_content = ['json']); or, if only trusted processes can write there, pass "
    "allow_pickle=True to Headway"
)
DISABLED = (
    "No result backend is configured, so no progress can be stored. Set result_backend for workers "
    "and web processes, for example to 'redis://localhost:6379/0'"
)
RPC = (
    "result_backend 'rpc://' sends results only to the process that called the task. Set "
    "result_backend to a shared one, for example 'redis://localhost:6379/0' or "
    "'db+postgresql://...'"
)
IN_MEMORY = (
    "result_backend {url!r} is in the memory of one process; other processes cannot read it. Set "
    "result_backend to a shared one, for example 'redis://localhost:6379/0' or "
    "'db+sqlite:////var/lib/app/results.sqlite'"
)
NOT_ACCEPTED = (
    "result_serializer is {serializer!r}, but result_accept_content (or accept_content) does not "
    "include {content_type!r}, so results cannot be read. Add {serializer!r} to "
    "result_accept_content"
)


class ResultBackend:
    """Reads and writes the records of ``app``'s result backend, as bytes and as data.

    One backend instance per process, made on first use: ``app.backend`` is a different one in each
    thread and greenlet (web-facts#backend-per-thread). Only `read` and `revoke` use its connection.
    """

    def __init__(self, app: Any, *, allow_pickle: bool = False) -> None:
        self.app = getattr(app, "_get_current_object", lambda: app)()
        self.allow_pickle = allow_pickle
        self._backends: dict[int, Any] = {}

    @property
    def backend(self) -> Any:
        """Our own backend instance, which returns data only.

        A child process gets a new one: connections must not be shared. If two threads make one at
        the same time, the first is used.
        """
        pid = os.getpid()
        return self._backends.get(pid) or self._backends.setdefault(pid, self._new_backend())

    def _new_backend(self) -> Any:
        # Bypass the wrapper of `install`: our own reads and writes must not pass the fence.
        backend = type(self.app)._get_backend(self.app)
        # Instance attributes, so that the driver's own code returns plain data too.
        backend.meta_from_decoded = lambda meta: meta
        backend.always_retry = False  # it would retry for ever
        return backend

    @property
    def expires(self) -> float | None:
        """Seconds that the backend keeps a result; None means for ever."""
        seconds = self.backend.expires
        seconds = getattr(seconds, "total_seconds", lambda: seconds)()
        return float(seconds) if seconds else None

    def key(self, task_id: str) -> bytes:
        """The key of a task's record, with ``global_keyprefix``. Key-value backends only."""
        return _bytes(self.backend.get_key_for_task(task_id))

    def encode(self, meta: Mapping[str, Any]) -> bytes:
        """A record as the backend stores it: serialized, and compressed with
        ``result_compression``.
        """
        return _bytes(self.backend.encode(meta))

    def decode(self, raw: bytes | str) -> dict[str, Any]:
        """Decode a record of `encode` or of Celery.

        An exception is a dict (``exc_type``, ``exc_message``, ``exc_module``), never an object.
        Raises ``ConfigurationError`` instead of unpickling, and ``ValueError`` for invalid bytes.
        """
        meta = self._decoded(raw)
        if not isinstance(meta, dict):
            raise ValueError(f"the result is not a record but {type(meta).__name__}")
        return meta | {"result": _as_data(meta.get("result"))}

    def _decoded(self, raw: bytes | str) -> Any:
        if self.backend.serializer == "pickle" and not self.allow_pickle:
            raise ConfigurationError(PICKLE)
        try:
            return self.backend.decode(_bytes(raw))
        except Exception as exc:  # every serializer and compressor has its own errors
            raise ValueError(f"the result cannot be decoded: {exc}") from exc

    def decode_or_empty(self, task_id: str, raw: bytes | str | None) -> dict[str, Any] | None:
        """As `decode`, but invalid bytes are logged and give an empty record."""
        if raw is None:
            return None
        try:
            return self.decode(raw)
        except ValueError as exc:
            logger.warning("The result of task %s is unreadable: %s", task_id, exc)
            return {"status": None, "result": None}

    def decode_value(self, task_id: str, raw: bytes | None) -> Any:
        """As `decode_or_empty`, for a backend that encodes only the result itself."""
        try:
            return None if raw is None else _as_data(self._decoded(raw))
        except ValueError as exc:
            logger.warning("The result of task %s is unreadable: %s", task_id, exc)
            return None

    def revoked(self, task_id: str, reason: str) -> dict[str, Any]:
        """The record of a revoked task. Key-value backends only."""
        error, backend = TaskRevokedError(reason), self.backend
        meta = backend._get_result_meta(
            backend.encode_result(error, "REVOKED"), "REVOKED", None, None
        )
        return {**meta, "task_id": task_id}

    def revoke(self, task_id: str, reason: str) -> None:
        """Store that record through the backend's own code. Raises ``Unavailable`` on any error."""
        try:
            self.backend.store_result(task_id, TaskRevokedError(reason), "REVOKED")
        except Exception as exc:
            raise Unavailable from exc

    def read(self, task_ids: Sequence[str]) -> list[dict[str, Any] | None]:
        """Read records as data through the backend's own code, in the given order; None if missing.

        Raises ``Unavailable`` on any error of the driver. The driver's own timeouts apply.
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
        # This is how every backend reports a missing record.
        missing = meta.get("status") == "PENDING" and meta.get("result") is None
        return None if missing else meta


def _as_data(result: object) -> object:
    """An exception object (only pickle has them) in the form of Celery's other serializers."""
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
    """Raise ``ConfigurationError`` with a help text if other processes cannot read the app's
    results (celery-facts#rpc-results-are-private).
    """
    try:
        backend = ResultBackend(app).backend
    except Exception as exc:  # noqa: BLE001 - any error of a driver about its settings
        # Celery's message may contain the URL, and its chained traceback does: no password may
        # reach a log.
        given = str(app.conf.result_backend)
        url, why = without_password(given), str(exc).replace(given, without_password(given))
        raise ConfigurationError(
            f"The result backend {url!r} cannot be used: {type(exc).__name__}: {why}"
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
