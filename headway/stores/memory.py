"""The fake: a store in the memory of one process. It passes the same suite as the real stores.

For tests of code that uses a store: no server, nothing to clean up. It keeps results like the Redis
store, calls subscribers with everything that is published, and can be made unavailable (``away``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from threading import RLock
from typing import Any

from headway.core import states
from headway.core.history import MAX_BYTES, should_keep, starts_new_history, thin_out
from headway.core.registry import (
    AttemptStart,
    AttemptStarted,
    Page,
    Registration,
    Snapshot,
    StateWrite,
    TaskRecord,
    WriteResult,
)
from headway.errors import ExecutionExpired, Unavailable
from headway.models import History, Query, Status
from headway.stores.base import Store
from headway.stores.codec import decode_reports, encode_report_of, to_micros
from headway.stores.pagination import (
    IndexEntry,
    IndexReader,
    Position,
    Slice,
    indexed_status,
    owner_index,
    page,
    position_of,
    status_index,
    task_index,
)

#: Called with each accepted state: the task's id and Celery's record as plain data.
Callback = Callable[[str, Mapping[str, Any]], None]


class MemoryStore(Store, IndexReader):
    """The state of executions, in this process.

    ``decode`` and ``encode`` convert results from and to bytes (by default JSON, like Celery);
    ``clock`` returns the current time, for results that expire.
    """

    keeps_results = True
    publishes = True

    def __init__(
        self,
        *,
        decode: Callable[[bytes], Mapping[str, Any]] = json.loads,
        encode: Callable[[Mapping[str, Any]], bytes] = lambda meta: json.dumps(meta).encode(),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        #: While True, every call raises ``Unavailable``, as without a server.
        self.away = False
        self._decode, self._encode, self._clock = decode, encode, clock
        self._lock = RLock()
        self._records: dict[str, TaskRecord] = {}
        self._results: dict[str, tuple[bytes, float | None]] = {}
        #: The reports that are kept, and ``min_interval`` (`core.history`).
        self._histories: dict[str, tuple[Sequence[bytes], int]] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._callbacks: list[Callback] = []

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback`` with each record that is published from now on, in order.

        Returns a function that ends the subscription.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def put_result(
        self, task_id: str, meta: Mapping[str, Any], expires: float | None = None
    ) -> None:
        """Store and publish a result without the fence, like a process without Headway."""
        with self._lock:
            self._check()
            self._store(task_id, self._encode(meta), expires)

    def register(self, registrations: Iterable[Registration]) -> None:
        with self._lock:
            self._check()
            for each in registrations:
                known = self._records.get(each.task_id)
                self._change(known, states.apply_registration(known, each))

    def start_attempt(self, start: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        with self._lock:
            self._check()
            record = self._records.get(start.task_id)
            there = self._result(start.task_id)
            answer = states.start_reply(record, start, result_gone=there is None)
            if not answer.attempt or states.is_same_delivery(record, start):
                return answer
            self._change(record, states.apply_start(record, start))
            raw = start.result or self._encode(states.empty_meta(start.task_id, "STARTED"))
            if start.store_result or there is not None:
                self._store(start.task_id, raw, None)
            else:
                self._publish(start.task_id, raw)
            return answer

    def write(self, write: StateWrite, *, full_timeout: bool = False) -> WriteResult:
        with self._lock:
            self._check()
            record = self._records.get(write.task_id)
            answer = states.write_reply(record, write)
            if not answer:
                return answer
            self._records[write.task_id] = states.apply_write(record, write)
            self._remember(record, write)
            if write.result is not None:
                self._store(write.task_id, write.result, write.expires)
            else:
                self._publish(
                    write.task_id, self._encode(states.empty_meta(write.task_id, write.state))
                )
            return answer

    def revoke(self, task_id: str, reason: str, at: datetime) -> bool:
        error = {
            "exc_type": "TaskRevokedError",
            "exc_message": [reason],
            "exc_module": "celery.exceptions",
        }
        raw = self._encode(states.empty_meta(task_id, "REVOKED") | {"result": error})
        return self.write(StateWrite(task_id, "REVOKED", at, result=raw)).accepted

    def heartbeat(self, task_ids: Sequence[str], worker: str, lifetime: float) -> frozenset[str]:
        with self._lock:
            self._check()
            signs = [
                states.apply_heartbeat(self._records.get(task_id), worker, lifetime, self._clock())
                for task_id in task_ids
            ]
            alive = {sign.task_id: sign for sign in signs if sign is not None}
            self._records |= alive
            return frozenset(
                task_id
                for task_id, record in alive.items()
                if record.cancel_requested_at is not None
            )

    def request_cancel(self, task_id: str, at: datetime) -> Snapshot | None:
        with self._lock:
            self._check()
            record = self._records.get(task_id)
            if record is None and self._result(task_id) is None:
                return None
            self._records[task_id] = states.apply_cancel_request(record, task_id, at)
            if self._records[task_id] != record:
                self._publish(task_id, self._encode(states.empty_meta(task_id, "PENDING")))
            return self.read([task_id])[0]

    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        with self._lock:
            self._check()
            return [self._look(task_id) for task_id in task_ids]

    def query(self, query: Query) -> Page:
        with self._lock:
            return page(self, query, self._clock())

    def scan(self, indexes: Sequence[str], part: Slice) -> Sequence[Sequence[Position]]:
        self._check()
        found: dict[str, list[Position]] = {index: [] for index in indexes}
        for record in self._records.values():
            position = position_of(record)
            if position.at >= part.since and (part.after is None or position < part.after):
                for index in found.keys() & self._indexes(record):
                    found[index].append(position)
        return [sorted(found[index], reverse=True)[: part.most] for index in indexes]

    def peek_many(self, task_ids: Sequence[str]) -> Sequence[Snapshot]:
        return self.read(task_ids)

    def repair(self, stale: Sequence[tuple[IndexEntry, Status | None]]) -> None:
        """Nothing to repair: the indexes are computed for each page."""

    def _reports(self, task_id: str) -> History:
        with self._lock:
            self._check()
            kept, min_interval = self._histories.get(task_id, ((), 0))
            return History(tuple(decode_reports(b"".join(kept))), not min_interval)

    def counts(self) -> Mapping[Status, int]:
        with self._lock:
            self._check()
            indexes = [name for record in self._records.values() for name in self._indexes(record)]
            return {status: indexes.count(status_index(status)) for status in Status}

    def claim_key(
        self, key: str, value: str, expires: float, *, instead_of: str | None = None
    ) -> str:
        with self._lock:
            self._check()
            now = self._clock().timestamp()
            bound, until = self._claims.get(key, (value, 0.0))
            if until > now and bound != instead_of:
                return bound
            self._claims[key] = (value, now + expires)
            return value

    def ping(self) -> None:
        self._check()

    def close(self) -> None:
        """Nothing to close: the state is kept."""

    def _change(self, before: TaskRecord | None, after: TaskRecord) -> None:
        self._records[after.task_id] = after
        if starts_new_history(None if before is None else before.state, after.state):
            self._histories.pop(after.task_id, None)

    def _remember(self, before: TaskRecord | None, write: StateWrite) -> None:
        record, at = self._records[write.task_id], to_micros(write.at)
        report = encode_report_of(write, record.attempt)
        kept, min_interval = self._histories.get(write.task_id, ((), 0))
        last = before.updated_at if before is not None else None
        if report and should_keep(min_interval, None if last is None else to_micros(last), at):
            kept = [*kept, report]
            sizes = [len(each) for each in kept]
            if sum(sizes) > MAX_BYTES:
                staying, min_interval = thin_out(
                    sizes,
                    min_interval,
                    at - to_micros(record.started_at or record.listed_at or write.at),
                )
                kept = [kept[n] for n in staying]
            self._histories[write.task_id] = kept, min_interval

    def _indexes(self, record: TaskRecord) -> set[str]:
        try:
            status = states.resolve(self._look(record.task_id), self._clock()).status
        except ExecutionExpired:
            status = indexed_status(record)
        names = {status_index(status)}
        names |= {task_index(record.task)} if record.task is not None else set()
        return names | ({owner_index(record.owner)} if record.owner is not None else set())

    def _look(self, task_id: str) -> Snapshot:
        record, raw = self._records.get(task_id), self._result(task_id)
        meta = None if raw is None else self._decode(raw)
        return Snapshot(task_id, record, meta, alive=states.is_alive(record, self._clock()))

    def _check(self) -> None:
        if self.away:
            raise Unavailable from ConnectionError("this store is set to be unavailable")

    def _result(self, task_id: str) -> bytes | None:
        raw, until = self._results.get(task_id, (None, None))
        if until is not None and self._clock().timestamp() >= until:
            del self._results[task_id]
            return None
        return raw

    def _store(self, task_id: str, raw: bytes, expires: float | None) -> None:
        self._results[task_id] = (raw, self._clock().timestamp() + expires if expires else None)
        self._publish(task_id, raw)

    def _publish(self, task_id: str, raw: bytes) -> None:
        """Called with the lock held, so that callbacks see writes in order; they must not block."""
        meta = self._decode(raw)
        for callback in list(self._callbacks):
            callback(task_id, meta)
