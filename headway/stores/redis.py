"""Registry and results in one Redis (or Valkey): every write is one script and one round trip.

Beside each result (``celery-task-meta-<id>``) is a hash, ``hw:{celery-task-meta-<id>}``; both are
in one cluster slot (celery-facts#guarded-write). The hash outlives the result by
``REGISTRY_RETENTION``. It contains the `TaskRecord`, and two more fields: ``live`` is the attempt
whose last progress is in the result itself (so that a report is not stored twice), and ``progress``
is the whole record of the last report after another state has replaced it. The history has its own
key (``lua/_history.lua``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from headway.core import states
from headway.core.meta import progress_from_meta
from headway.core.registry import (
    READY_STATES,
    AttemptStart,
    AttemptStarted,
    Page,
    Registration,
    Snapshot,
    StateWrite,
    TaskRecord,
    WriteResult,
)
from headway.models import History, Progress, Query, Status
from headway.stores.base import REGISTRY_RETENTION, Store
from headway.stores.codec import decode_reports, encode_report, from_micros, to_micros
from headway.stores.pagination import IndexEntry, IndexReader, Position, Slice, page, status_index
from headway.stores.redis_connection import (
    TIMEOUT,
    ConnectionPool,
    Word,
    connect,
    pack,
    translate_errors,
)
from headway.stores.result_backend import ResultBackend

#: The reply of the write script: bit 1 for an accepted state, bit 2 for a requested cancel.
WRITTEN = [WriteResult(False), WriteResult(True), WriteResult(False, True), WriteResult(True, True)]
#: The suffix of the key that exists while an open attempt sends heartbeats.
HEARTBEAT_SUFFIX = b":life"
#: The suffix of the key of the reports.
HISTORY_SUFFIX = b":history"
#: Connections per process and timeout, at most. Further callers wait for one, as long as for a
#: reply.
CONNECTIONS = 16
#: The full timeout in seconds if the backend configures none: Celery's default.
FULL_TIMEOUT = 120.0


class Script:
    """A Lua file of this package, as packed commands."""

    def __init__(self, name: str, keys: int, *before: bytes) -> None:
        text = b"".join((*before, _lua(name)))
        sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
        #: The first three words of a call, packed: by its name, and with the whole text for a
        #: server that hasn't seen it.
        self.named = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n%d\r\n" % (sha, keys)
        self.whole = b"$4\r\nEVAL\r\n$%d\r\n%b\r\n$1\r\n%d\r\n" % (len(text), text, keys)


def _lua(name: str) -> bytes:
    return resources.files(__package__).joinpath("lua", name + ".lua").read_bytes()


CLAIM_KEY, PEEK = Script("claim_key", 1), Script("peek", 2)


class Scripts:
    """The scripts that also update the indexes."""

    def __init__(self, id_at: int) -> None:
        """``id_at``: how many bytes of a result's key come before the id. In the text, since it is
        the same in every call.
        """
        shared = b"local ID_AT = %d\n" % (id_at + 1), _lua("_indexes"), _lua("_history")
        (
            self.write_state,
            self.start_attempt,
            self.register_task,
            self.heartbeat,
            self.request_cancel,
        ) = (
            Script(name, 2, *shared)
            for name in (
                "write_state",
                "start_attempt",
                "register_task",
                "heartbeat",
                "request_cancel",
            )
        )


class Names(NamedTuple):
    """The parts that all keys of a result backend share."""

    #: The prefix of our keys. The global prefix comes first: a user may be limited to it by ACL.
    own: bytes
    #: The prefix of a registry's hash.
    hash: bytes
    scripts: Scripts


class RedisStore(Store, IndexReader):
    """The state of executions, beside the results of ``app`` in its Redis.

    ``timeout`` in seconds, for a free connection, to connect, and for each reply.
    """

    keeps_results = True
    publishes = True

    def __init__(
        self,
        app: Any,
        *,
        results: ResultBackend | None = None,
        timeout: float = TIMEOUT,
        connections: int = CONNECTIONS,
    ) -> None:
        self.results = results if results is not None else ResultBackend(app)
        self._timeout, self._connections = timeout, connections
        self._pools: dict[tuple[int, bool], ConnectionPool] = {}
        self._cached_names: Names | None = None
        self._last_ttls: tuple[tuple[float | None, float | None] | None, tuple[int, int]] = (
            None,
            (0, 0),
        )

    def register(self, registrations: Iterable[Registration]) -> None:
        life = self._ttls(None)[1]
        calls: list[list[Word]] = [
            [*self._keys(each.task_id), to_micros(each.created_at), life, *_fields(each)]
            for each in registrations
        ]
        if calls:
            self._run(self._names.scripts.register_task, calls)

    def start_attempt(self, start: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        record = start.result or self.results.encode(states.empty_meta(start.task_id, "STARTED"))
        words: list[Word] = [
            *self._keys(start.task_id),
            to_micros(start.at),
            start.retries,
            start.worker or "",
            start.task or "",
            record,
            int(start.store_result),
            *self._ttls(self.results.expires, ends=False),
            0 if start.heartbeat_ttl is None else _milliseconds(start.heartbeat_ttl),
            start.delivery_id or "",
            start.owner or "",
            int(start.retry_published),
        ]
        attempt, cancel, previous = self._run(
            self._names.scripts.start_attempt, [words], full_timeout=full_timeout
        )[0]
        return AttemptStarted(attempt, bool(cancel), self._progress(start.task_id, previous))

    def write(self, write: StateWrite, *, full_timeout: bool = False) -> WriteResult:
        kind = (
            "end" if write.state in READY_STATES else "retry" if write.state == "RETRY" else "plain"
        )
        progress = states.progress_of(write) if kind == "plain" else None
        if progress is not None:
            kind = "report"
        record = write.result
        if record is None:
            record = self.results.encode(
                states.empty_meta(write.task_id, write.state)
                | {"result": write.meta if kind == "report" else None}
            )
        way = (
            ("clear" if write.no_result else "store")
            if write.result is not None
            else "follows"
            if write.result_follows
            else "publish"
        )
        expires = write.expires if write.result is not None else self.results.expires
        words: list[Word] = [
            *self._keys(write.task_id),
            write.state,
            to_micros(write.at),
            "" if write.attempt is None else write.attempt,
            write.task or "",
            f"{kind}-{way}",
            record,
            *self._ttls(expires, ends=kind == "end"),
        ]
        if write.attempt is None:
            words += [
                "" if write.retries is None else write.retries,
                write.worker or "",
                write.delivery_id or "",
            ]
        if progress is not None:
            words.append(encode_report(write.attempt, progress, write.at))
        answer: int = self._run(
            self._names.scripts.write_state, [words], full_timeout=full_timeout
        )[0]
        return WRITTEN[answer]

    def revoke(self, task_id: str, reason: str, at: datetime) -> bool:
        raw = self.results.encode(self.results.revoked(task_id, reason))
        return self.write(
            StateWrite(task_id, "REVOKED", at, result=raw, expires=self.results.expires)
        ).accepted

    def heartbeat(self, task_ids: Sequence[str], worker: str, lifetime: float) -> frozenset[str]:
        if not task_ids:
            return frozenset()
        life, kept = _milliseconds(lifetime), self._ttls(None)[1]
        asked = self._run(
            self._names.scripts.heartbeat,
            [(*self._keys(task_id), worker, life, kept) for task_id in task_ids],
        )
        return frozenset(task_id for task_id, cancel in zip(task_ids, asked, strict=True) if cancel)

    def request_cancel(self, task_id: str, at: datetime) -> Snapshot | None:
        notice = self.results.encode(
            states.empty_meta(task_id, "PENDING")
        )  # readers of Celery ignore PENDING
        words: list[Word] = [*self._keys(task_id), to_micros(at), notice, self._ttls(None)[1]]
        return (
            self.read([task_id])[0]
            if self._run(self._names.scripts.request_cancel, [words])[0]
            else None
        )

    def query(self, query: Query) -> Page:
        return page(self, query, datetime.now(UTC))

    def scan(self, indexes: Sequence[str], part: Slice) -> Sequence[Sequence[Position]]:
        newest = b"+" if part.after is None else b"(" + _member(part.after)
        oldest = b"[" + _member(Position(part.since, ""))
        words: tuple[Word, ...] = (newest, oldest, "LIMIT", 0, part.most)
        own = self._names.own
        replies = self._exchange(
            [pack(b"", 0, ["ZREVRANGEBYLEX", own + index.encode(), *words]) for index in indexes]
        )
        return [
            [Position(int(member[:16]), str(member[16:], "utf-8")) for member in reply]
            for reply in replies
        ]

    def peek_many(self, task_ids: Sequence[str]) -> Sequence[Snapshot]:
        if not task_ids:
            return []
        replies = self._run(PEEK, [self._keys(task_id) for task_id in task_ids])
        return [
            self._snapshot(
                task_id,
                fields,
                raw,
                life,
                {"status": "SUCCESS", "result": None} if succeeded else None,
            )
            for task_id, (fields, raw, life, succeeded) in zip(task_ids, replies, strict=True)
        ]

    def repair(self, stale: Sequence[tuple[IndexEntry, Status | None]]) -> None:
        # The execution may have changed since it was read, and is then in two indexes: the next
        # page repairs that.
        commands, own = [], self._names.own
        for (place, name), status in stale:
            commands.append(pack(b"", 0, ["ZREM", own + name.encode(), _member(place)]))
            if status is not None:
                commands.append(
                    pack(b"", 0, ["ZADD", own + status_index(status).encode(), 0, _member(place)])
                )
        self._exchange(commands)

    def counts(self) -> Mapping[Status, int]:
        own = self._names.own
        found = self._exchange(
            [pack(b"", 0, ["ZCARD", own + status_index(status).encode()]) for status in Status]
        )
        return dict(zip(Status, found, strict=True))

    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        if not task_ids:
            return []
        commands = [pack(b"", 0, ["MULTI"])]  # one consistent read of all keys
        for task_id in task_ids:
            record, key = self._keys(task_id)
            commands += (
                pack(b"", 0, ["HGETALL", record]),
                pack(b"", 0, ["GET", key]),
                pack(b"", 0, ["EXISTS", record + HEARTBEAT_SUFFIX]),
            )
        replies = self._exchange([*commands, pack(b"", 0, ["EXEC"])])[-1]
        for reply in replies:
            _check(reply)
        return [
            self._snapshot(task_id, *replies[3 * n : 3 * n + 3])
            for n, task_id in enumerate(task_ids)
        ]

    def _reports(self, task_id: str) -> History:
        record = self._keys(task_id)[0]
        commands: list[list[Word]] = [
            ["MULTI"],
            ["GET", record + HISTORY_SUFFIX],
            ["HEXISTS", record, "history_gap"],
            ["EXEC"],
        ]
        entries, thinned = map(
            _check, self._exchange([pack(b"", 0, words) for words in commands])[-1]
        )
        return History(tuple(decode_reports(entries or b"")), not thinned)

    def claim_key(
        self, key: str, value: str, expires: float, *, instead_of: str | None = None
    ) -> str:
        name = self._names.own + b"claim:" + key.encode()
        bound = self._run(CLAIM_KEY, [(name, value, _milliseconds(expires), instead_of or "")])[0]
        return str(bound, "utf-8")

    def ping(self) -> None:
        self._exchange([pack(b"", 0, ["PING"])])

    def close(self) -> None:
        pools, self._pools = self._pools, {}
        for (pid, _), pool in pools.items():
            if pid == os.getpid():
                pool.close()

    def _run(
        self, script: Script, calls: Sequence[Sequence[Word]], *, full_timeout: bool = False
    ) -> list[Any]:
        """Call a script once for each of ``calls`` (keys and arguments), in one round trip."""
        pool = self._pool_for(full_timeout=full_timeout)
        replies = pool.exchange(
            b"".join(pack(script.named, 3, words) for words in calls), len(calls)
        )
        unknown = [n for n, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:  # the server was restarted, or its scripts were flushed: send the text
            again = pool.exchange(
                b"".join(pack(script.whole, 3, calls[n]) for n in unknown), len(unknown)
            )
            for n, reply in zip(unknown, again, strict=True):
                replies[n] = reply
        return [_check(reply) for reply in replies]

    def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        return [
            _check(reply) for reply in self._pool_for().exchange(b"".join(commands), len(commands))
        ]

    def _pool_for(self, *, full_timeout: bool = False) -> ConnectionPool:
        """The connection pool of this process, made on first use."""
        pid = os.getpid()
        pool = self._pools.get((pid, full_timeout))
        if pool is None:
            # After a fork, drop the parent's connections unused: a connection belongs to one
            # process.
            self._pools = {place: known for place, known in self._pools.items() if place[0] == pid}
            pool = self._pools.setdefault(
                (pid, full_timeout), self._new_pool(full_timeout=full_timeout)
            )
        return pool

    def _new_pool(self, *, full_timeout: bool) -> ConnectionPool:
        backend = self.results.backend
        client = connect(
            backend,
            timeout=None if full_timeout else self._timeout,
            max_connections=self._connections,
        )
        wait = (
            (backend.connparams.get("socket_timeout") or FULL_TIMEOUT)
            if full_timeout
            else self._timeout
        )
        return ConnectionPool(client.connection_pool, self._connections, wait)

    @property
    def _names(self) -> Names:
        if self._cached_names is None:
            backend = self.results.backend
            plain = type(backend).task_keyprefix.encode()
            own = bytes(backend.task_keyprefix).removesuffix(plain) + b"hw:"
            self._cached_names = Names(own, own + b"{", Scripts(len(self.results.key("-")) - 1))
        return self._cached_names

    def _keys(self, task_id: str) -> tuple[bytes, bytes]:
        """The keys of the registry's hash and of the result."""
        result = self.results.key(task_id)
        return self._names.hash + result + b"}", result

    def _ttls(self, expires: float | None, *, ends: bool = True) -> tuple[int, int]:
        """The lifetimes of a result and of the hash, from now on, in ms; 0 means for ever.

        The hash lives ``REGISTRY_RETENTION`` longer. A state that is not an end is kept as long as
        the hash: it contains the last progress, and a job may be silent for longer than results are
        kept (celery-facts#expiry-restarts-at-each-write).
        """
        usual = self.results.expires
        if self._last_ttls[0] != (expires, usual):  # cached: nearly always the same
            kept = (
                max(usual, expires or 0.0) + REGISTRY_RETENTION.total_seconds() if usual else None
            )
            self._last_ttls = (expires, usual), (_milliseconds(expires), _milliseconds(kept))
        life, kept_for = self._last_ttls[1]
        return (life if ends else kept_for), kept_for

    def _progress(self, task_id: str, raw: bytes | None) -> Progress | None:
        meta = self.results.decode_or_empty(task_id, raw) if raw else None
        return _reported_in(meta)

    def _snapshot(
        self,
        task_id: str,
        fields: Any,
        raw: bytes | None,
        life: int,
        meta: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        meta = self.results.decode_or_empty(task_id, raw) if raw is not None else meta
        pairs = (
            fields.items()
            if isinstance(fields, Mapping)
            else zip(fields[::2], fields[1::2], strict=True)
        )
        known = {str(name, "utf-8"): value for name, value in pairs}
        if not known:
            return Snapshot(task_id, None, meta)
        live = known.get("live")
        progress = _reported_in(meta) if live else self._progress(task_id, known.get("progress"))
        record = _record(task_id, known, progress, int(live or known.get("progress_attempt", 0)))
        signs = record.is_open and record.heartbeat_attempt == record.attempt
        return Snapshot(task_id, record, meta, alive=bool(life) if signs else None)


def _reported_in(meta: Mapping[str, Any] | None) -> Progress | None:
    """The progress in a stored report; None if another state has replaced it."""
    state = meta.get("status") if meta is not None else None
    if meta is None or not isinstance(state, str) or state in READY_STATES or state == "RETRY":
        return None
    return progress_from_meta(state, meta.get("result"))


def _record(
    task_id: str, known: Mapping[str, bytes], progress: Progress | None, progress_attempt: int
) -> TaskRecord:
    def text(name: str) -> str | None:
        return str(known[name], "utf-8") if name in known else None

    def time(name: str) -> datetime | None:
        return from_micros(int(known[name])) if name in known else None

    heartbeat_attempt, heartbeat_ttl = known.get("sign", b"0 0").split()
    return TaskRecord(
        task_id=task_id,
        task=text("task"),
        owner=text("owner"),
        root_id=text("root_id"),
        parent_id=text("parent_id"),
        group_id=text("group_id"),
        created_at=time("created_at"),
        started_at=time("started_at"),
        updated_at=time("updated_at"),
        finished_at=time("finished_at"),
        attempt=int(known.get("attempt", 0)),
        last_ended_attempt=int(known.get("ended", 0)),
        state=text("state"),
        retries=int(known.get("retries", 0)),
        worker=text("worker"),
        delivery_id=text("run"),
        progress=progress,
        progress_attempt=progress_attempt if progress is not None else 0,
        result_stored=known.get("result_stored") == b"1",
        cancel_requested_at=time("cancel_requested_at"),
        expected_by=time("due_at"),
        first_seen_at=time("heard_at"),
        heartbeat_attempt=int(heartbeat_attempt),
        heartbeat_ttl=int(heartbeat_ttl) / 1000,
    )


def _check(reply: Any) -> Any:
    """Return the reply, or raise it if it is an error."""
    if isinstance(reply, Exception):
        with translate_errors():
            raise reply
    return reply


def _member(place: Position) -> bytes:
    return b"%016d%b" % (place.at, place.task_id.encode())


def _fields(registration: Registration) -> list[Word]:
    expected_by = "" if registration.expected_by is None else to_micros(registration.expected_by)
    names = ("task", "owner", "root_id", "parent_id", "group_id")
    said = ((name, getattr(registration, name)) for name in names)
    return [expected_by, *(word for pair in said if pair[1] is not None for word in pair)]


def _milliseconds(seconds: float | None) -> int:
    """Milliseconds for the scripts, in which 0 means for ever; so at least 1 for a given time."""
    return max(1, round(seconds * 1000)) if seconds else 0
