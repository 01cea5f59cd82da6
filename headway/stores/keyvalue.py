"""Registries for result backends that offer only the common part of Celery's interface.

`KeyValueStore` is for any ``KeyValueStoreBackend`` (files, memcached, S3, DynamoDB, ...): the
record of a task is JSON under its own key. `TaskMetaStore` is for all others (MongoDB, Cassandra,
django-db, ...): the record is stored as the result of another task. Neither can compare and write
in one step: of two processes that write at the same time, one may undo the other
(``docs/backends.md``).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

from headway.core.registry import Page, TaskRecord
from headway.errors import ConfigurationError, NotSupported, Unavailable
from headway.models import History, Query, Status
from headway.stores.base import RegistryStore, Transition
from headway.stores.codec import record_from_json, record_to_json
from headway.stores.result_backend import ResultBackend

#: Seconds to wait for another thread of this process that uses the backend: one at a time may.
LOCK_TIMEOUT = 5.0
#: How often a document is read again that was read while another process wrote it.
READS = 5


class DocumentStore(RegistryStore):
    """The record of a task is one document.

    A process makes one call at a time: few drivers may be shared between threads.
    """

    def __init__(self, app: Any, *, results: ResultBackend | None = None) -> None:
        self.results = results if results is not None else ResultBackend(app)
        self._locks: dict[int, Lock] = {}

    @abstractmethod
    def _load(self, name: str) -> Mapping[str, Any] | None:
        """Read the document with this name; None if there is none."""

    @abstractmethod
    def _save(self, name: str, document: Mapping[str, Any]) -> None:
        """Store the document, replacing an existing one."""

    def query(self, query: Query) -> Page:
        """Not supported: these backends find documents by their name only."""
        raise NotSupported(
            "This result backend cannot list executions; Redis and SQL databases can"
        )

    def counts(self) -> Mapping[Status, int]:
        """Not supported, like `query`."""
        raise NotSupported(
            "This result backend cannot count executions; Redis and SQL databases can"
        )

    def _reports(self, task_id: str) -> History:
        """None are kept: each report would rewrite the whole history."""
        return History(complete=False)

    def claim_key(
        self, key: str, value: str, expires: float, *, instead_of: str | None = None
    ) -> str:
        # Hashed: backends restrict the characters of a name.
        name = "claim-" + hashlib.sha256(key.encode()).hexdigest()
        with self._serialized():
            bound = self._load(name)
            if bound is not None and bound["until"] > time.time() and bound["value"] != instead_of:
                return str(bound["value"])
            self._save(name, {"value": value, "until": time.time() + expires})
            return value

    def ping(self) -> None:
        with self._serialized():
            self._load("ping")

    def close(self) -> None:
        """The backend's driver keeps its connections: Celery cannot close them."""

    def _update(
        self, task_id: str, change: Transition, *, report: bytes = b"", full_timeout: bool = False
    ) -> bool:
        with self._serialized():
            changed = change(self._record(task_id))
            if changed is not None:
                self._save(task_id, record_to_json(changed))
            return changed is not None

    def _records(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        with self._serialized():
            found = {task_id: self._record(task_id) for task_id in task_ids}
        return {task_id: record for task_id, record in found.items() if record is not None}

    def _results(self, task_ids: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        return self.results.read(task_ids)

    def _record(self, task_id: str) -> TaskRecord | None:
        document = self._load(task_id)
        return None if document is None else record_from_json(document)

    @contextmanager
    def _serialized(self) -> Iterator[None]:
        # One lock per process: a child must not inherit a lock that a thread of its parent holds.
        lock = self._locks.get(os.getpid()) or self._locks.setdefault(os.getpid(), Lock())
        taken: list[bool] = []
        try:
            # A single call into C: a time limit raised between `acquire` and the assignment would
            # leave the lock held for ever.
            taken.extend(map(lock.acquire, (True,), (LOCK_TIMEOUT,)))
            if taken != [True]:
                raise Unavailable("The result backend is overloaded: other calls take too long")
            yield
        except (ConfigurationError, Unavailable, SoftTimeLimitExceeded):
            raise
        except Exception as exc:
            # Each of these drivers has its own errors, without a common base class.
            raise Unavailable from exc
        finally:
            if taken == [True]:
                lock.release()


class KeyValueStore(DocumentStore):
    """For any ``KeyValueStoreBackend``.

    Documents expire and are cleaned up like results, because their keys look like those of results.
    """

    def _load(self, name: str) -> Mapping[str, Any] | None:
        for again in reversed(range(READS)):
            raw = self.results.backend.get(self._key(name))
            if raw is None:
                return None
            try:
                return json.loads(raw)  # type: ignore[no-any-return]
            except ValueError:
                # A file backend truncates the file before it writes: read again.
                if not again:
                    raise
        return None

    def _save(self, name: str, document: Mapping[str, Any]) -> None:
        self.results.backend.set(self._key(name), json.dumps(document).encode())

    def _key(self, name: str) -> Any:
        return self.results.backend.get_key_for_task(name, ".hw")


class TaskMetaStore(DocumentStore):
    """For every other backend: a document is the result of a task that does not exist."""

    STATE = "HEADWAY"

    def _load(self, name: str) -> Mapping[str, Any] | None:
        meta = self.results.backend._get_task_meta_for(name + ".hw")
        return meta["result"] if meta.get("status") == self.STATE else None

    def _save(self, name: str, document: Mapping[str, Any]) -> None:
        self.results.backend._store_result(name + ".hw", dict(document), self.STATE)
