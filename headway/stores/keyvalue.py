"""Registries for result backends of which only the common part of Celery's interface is known.

`KeyValueStore` is for any ``KeyValueStoreBackend`` (files, memcached, S3, DynamoDB, ...): the
record of a task is JSON under a key of its own. `TaskMetaStore` is for the rest (MongoDB,
Cassandra, django-db, ...): the record is stored as if it were another task's result. Neither can
compare and write in one step: two processes that write at the same moment may undo each other
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

#: Seconds to wait for another thread of this process to be done with the backend, which serves one
#: at a time.
LOCK_TIMEOUT = 5.0
#: How often a document is read again that was caught while it was being written.
READS = 5


class DocumentStore(RegistryStore):
    """The record of a task is one document. One call at a time in a process: few drivers may be
    shared between threads.
    """

    def __init__(self, app: Any, *, results: ResultBackend | None = None) -> None:
        self.results = results if results is not None else ResultBackend(app)
        self._locks: dict[int, Lock] = {}

    @abstractmethod
    def _load(self, name: str) -> Mapping[str, Any] | None:
        """The document of this name, or None."""

    @abstractmethod
    def _save(self, name: str, document: Mapping[str, Any]) -> None:
        """Put it there, in place of what is there."""

    def query(self, query: Query) -> Page:
        """Not possible: the common part of these backends finds a document by its name only."""
        raise NotSupported("This result backend can't list executions; Redis and SQL databases can")

    def counts(self) -> Mapping[Status, int]:
        """Not possible, as `find`."""
        raise NotSupported(
            "This result backend can't count executions; Redis and SQL databases can"
        )

    def _reports(self, task_id: str) -> History:
        """None is kept: each report would write all of it again."""
        return History(complete=False)

    def claim_key(
        self, key: str, value: str, expires: float, *, instead_of: str | None = None
    ) -> str:
        name = (
            "claim-" + hashlib.sha256(key.encode()).hexdigest()
        )  # whatever the backend permits in a name
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
        """The backend's driver keeps its connections: Celery has no way to give them back."""

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
        # One lock a process: a child must not inherit one that another thread of its parent holds.
        lock = self._locks.get(os.getpid()) or self._locks.setdefault(os.getpid(), Lock())
        taken: list[bool] = []
        try:
            # In one call from C to C: a time limit that strikes as `acquire` returns would leave it
            # taken for good.
            taken.extend(map(lock.acquire, (True,), (LOCK_TIMEOUT,)))
            if taken != [True]:
                raise Unavailable("The result backend is too slow for all that is asked of it")
            yield
        except (ConfigurationError, Unavailable, SoftTimeLimitExceeded):
            raise
        except Exception as exc:
            # each of these drivers has errors of its own, and Celery knows no common root of them
            raise Unavailable from exc
        finally:
            if taken == [True]:
                lock.release()


class KeyValueStore(DocumentStore):
    """For any ``KeyValueStoreBackend``. Documents live and are cleaned up as results are: their
    keys look like a result's.
    """

    def _load(self, name: str) -> Mapping[str, Any] | None:
        for again in reversed(range(READS)):
            raw = self.results.backend.get(self._key(name))
            if raw is None:
                return None
            try:
                return json.loads(raw)  # type: ignore[no-any-return]
            except ValueError:
                # a file backend truncates, then writes; what stays broken is no moment's accident
                if not again:
                    raise
        return None

    def _save(self, name: str, document: Mapping[str, Any]) -> None:
        self.results.backend.set(self._key(name), json.dumps(document).encode())

    def _key(self, name: str) -> Any:
        return self.results.backend.get_key_for_task(name, ".hw")


class TaskMetaStore(DocumentStore):
    """For every other backend: the document is the result of a task that doesn't exist, in a state
    that nobody waits for.
    """

    STATE = "HEADWAY"

    def _load(self, name: str) -> Mapping[str, Any] | None:
        meta = self.results.backend._get_task_meta_for(name + ".hw")
        return meta["result"] if meta.get("status") == self.STATE else None

    def _save(self, name: str, document: Mapping[str, Any]) -> None:
        self.results.backend._store_result(name + ".hw", dict(document), self.STATE)
