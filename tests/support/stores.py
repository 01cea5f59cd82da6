"""Every store, each with what a test needs to treat them alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import redis
from celery import Celery
from celery.backends.base import BaseBackend

from headway.backends import store_for
from headway.core.registry import (
    AttemptStart,
    AttemptStarted,
    Snapshot,
    StateWrite,
    TaskRecord,
    WriteResult,
)
from headway.stores.base import Store
from headway.stores.memory import MemoryStore
from headway.stores.result_backend import ResultBackend
from tests.support.processes import ROOT
from tests.support.timing import RESPONSE_TIMEOUT

T = TypeVar("T")

#: Seconds that a store waits for its server in tests: the machine may be busy. How long it waits by
#: itself is for a few of them.
PATIENCE = RESPONSE_TIMEOUT

BEGIN = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment of the tests' own time."""
    return BEGIN + timedelta(seconds=seconds)


def report(current: float = 3, total: float = 10, **more: Any) -> dict[str, Any]:
    """What a task's report looks like."""
    return {
        "current": current,
        "total": total,
        "message": None,
        "attributes": None,
        "timestamp": None,
        "rate": None,
    } | more


class DictBackend(BaseBackend):  # type: ignore[misc]
    """A result backend that is no key-value store: it stands for MongoDB, Cassandra and what others
    have written.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rows: dict[str, bytes] = self.app.__dict__.setdefault("_dict_backend_rows", {})

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        self.rows[task_id] = self.encode(meta | {"task_id": task_id})
        return result

    def _get_task_meta_for(self, task_id: str) -> Any:
        raw = self.rows.get(task_id)
        return (
            {"status": "PENDING", "result": None}
            if raw is None
            else self.meta_from_decoded(self.decode(raw))
        )

    def _forget(self, task_id: str) -> None:
        self.rows.pop(task_id, None)


@dataclass
class StoreUnderTest:
    """A store, and the result backend that goes with it."""

    store: Store
    #: None for the fake, which keeps its results itself.
    app: Celery | None = None

    def open(self, task_id: str, seconds: float = 0, **more: Any) -> AttemptStarted:
        """A new attempt, as a worker announces it."""
        return self.store.start_attempt(AttemptStart(task_id, "tasks.t", at(seconds), **more))

    def write(
        self, task_id: str, state: str, seconds: float = 1, *, result: Any = None, **more: Any
    ) -> WriteResult:
        """A state with its ``result``, stored as a caller does: in the write, or by the backend's
        own code afterwards.
        """
        write = StateWrite(task_id, state, at(seconds), meta=result, expires=3600, **more)
        if self.store.keeps_results:
            return self.store.write(replace(write, result=self.encode(task_id, state, result)))
        answer = self.store.write(replace(write, result_follows=True))
        if answer:
            self.put(task_id, state, result)
        return answer

    def encode(self, task_id: str, state: str, result: Any) -> bytes:
        """Celery's record as its backend would store it."""
        meta = {
            "status": state,
            "result": result,
            "traceback": None,
            "children": [],
            "date_done": None,
            "task_id": task_id,
        }
        store = self.store
        return (
            store._encode(meta)
            if isinstance(store, MemoryStore)
            else ResultBackend(self.app).encode(meta)
        )

    def put(self, task_id: str, state: str, result: Any = None) -> None:
        """Store a result as a process without Headway does."""
        if self.app is None:
            assert isinstance(self.store, MemoryStore)
            self.store.put_result(task_id, {"status": state, "result": result})
        else:
            self.app.backend._store_result(task_id, result, state)

    def forget(self, task_id: str) -> None:
        """Remove a result, as its expiry does."""
        if self.app is None:
            assert isinstance(self.store, MemoryStore)
            self.store._results.pop(task_id, None)
        elif self.meta(task_id) is not None:
            self.app.backend._forget(task_id)

    def snapshot(self, task_id: str) -> Snapshot:
        """One look at one task."""
        return self.store.read([task_id])[0]

    def record(self, task_id: str) -> TaskRecord:
        """What the registry knows of a task that it knows."""
        record = self.snapshot(task_id).record
        assert record is not None
        return record

    def meta(self, task_id: str) -> Mapping[str, Any] | None:
        """What the result backend has."""
        return self.snapshot(task_id).meta


def slow_tolerant(waits: T, timeout: float = PATIENCE) -> T:
    """The same store or feed, which waits for so long; before its first call."""
    vars(waits)["_timeout"] = timeout
    return waits


def _celery(url: str, **conf: Any) -> Celery:
    app = Celery("stores", backend=url, set_as_current=False)
    app.conf.update(conf)
    return app


#: name -> settings of the app on Redis.
REDIS: Mapping[str, Mapping[str, Any]] = {
    "redis": {},
    "redis-prefix": {"result_backend_transport_options": {"global_keyprefix": "proj:"}},
    "redis-gzip": {"result_compression": "gzip"},
    "redis-msgpack": {"result_serializer": "msgpack", "result_accept_content": ["msgpack"]},
    "redis-yaml": {"result_serializer": "yaml", "result_accept_content": ["yaml"]},
    "redis-forever": {"result_expires": None},
}
#: The server lets the app do what ``docs/backends.md`` says that it must, and no more.
REDIS_LOCKED = "redis-acl"
NAMES = ("memory", *REDIS, REDIS_LOCKED, "sql", "files", "other")


def acl_rules() -> list[str]:
    """The keys, channels and commands that ``docs/backends.md`` tells people to permit."""
    text = (ROOT / "docs" / "backends.md").read_text()
    [rules] = re.findall(r"ACL SETUSER headway on >password (.*?)\n\n", text, re.DOTALL)
    return str(rules).replace("\\\n", " ").split()


def _locked(redis_url: str) -> str:
    """The address for a user who may do only that."""
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command(
            "ACL", "SETUSER", "headway", "reset", "on", ">password", *acl_rules()
        )
    return redis_url.replace("redis://", "redis://headway:password@")


def make(
    name: str, directory: Path, redis_url: str | None = None, *, timeout: float = PATIENCE
) -> StoreUnderTest:
    """A new store of this kind, over the same data as any other of it with the same directory and
    address.

    ``timeout``: seconds that one with a server, or a file that many write, waits for it.
    """
    if name == "memory":
        return StoreUnderTest(MemoryStore())
    if name in REDIS or name == REDIS_LOCKED:
        assert redis_url is not None
        app = _celery(
            _locked(redis_url) if name == REDIS_LOCKED else redis_url, **REDIS.get(name, {})
        )
    elif name == "sql":
        app = _celery(f"db+sqlite:///{directory}/results.sqlite")
    elif name == "files":
        app = _celery(f"file://{directory}")
    else:
        app = _celery(f"{DictBackend.__module__}:{DictBackend.__qualname__}")
    return StoreUnderTest(slow_tolerant(store_for(app), timeout), app)
