"""Registry and results in one Redis (or Valkey): every write is one script, one round trip, and one step.

Beside each result (``celery-task-meta-<id>``) lies a hash, ``hw:{celery-task-meta-<id>}``: in a cluster both are in one slot
(fact 39). It outlives the result by ``TOMBSTONE``. What is in it is `Record`, with two things of its own: ``live``, the attempt
whose last progress is in the result's own record just now (so that a report needn't be stored twice), and ``progress``, the whole
record of the last report once something else has taken its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from queue import Empty, SimpleQueue
from typing import Any

from redis.exceptions import NoScriptError

from headway.core import states
from headway.core.meta import progress_from_meta
from headway.errors import Unavailable
from headway.records import READY_STATES, Opened, Opening, Progress, Record, Registration, Snapshot, Write
from headway.stores.base import TOMBSTONE, Store
from headway.stores.client import TIMEOUT, connect, translated
from headway.stores.codec import micros, moment
from headway.stores.results import Results

#: Connections a process, at most, of each patience. Further callers wait for one, and for no longer than for an answer.
CONNECTIONS = 16
#: Celery's own default, where the backend names none (seconds).
PATIENCE = 120.0


class Script:
    """A Lua file of this package, and how the server knows it."""

    def __init__(self, name: str) -> None:
        self.text = resources.files(__package__).joinpath(name).read_text("utf-8")
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


WRITE, OPEN, REGISTER, CLAIM = (Script(f"{name}.lua") for name in ("write", "open", "register", "claim"))


@dataclass(frozen=True)
class _Line:
    """The connections of one process and one patience."""

    client: Any
    #: A token for each connection of the pool: redis-py's pool raises where it is empty, instead of waiting (web fact 20).
    free: SimpleQueue[None]
    #: Seconds to wait for one.
    wait: float


class RedisStore(Store):
    """What is known of executions, beside the results of ``app`` in its Redis.

    ``timeout`` in seconds, for a free connection, for connecting and for each answer.
    """

    keeps_results = True
    publishes = True

    def __init__(
        self, app: Any, *, results: Results | None = None, timeout: float = TIMEOUT, connections: int = CONNECTIONS
    ) -> None:
        self.results = results if results is not None else Results(app)
        self._timeout, self._connections = timeout, connections
        self._lines: dict[tuple[int, bool], _Line] = {}
        self._names: tuple[bytes, bytes] | None = None
        self._last_lives: tuple[tuple[float | None, float | None] | None, tuple[int, int]] = (None, (0, 0))

    def register(self, registrations: Iterable[Registration]) -> None:
        ttl = self._lives(None)[1]
        calls = [
            ([self._hash(self.results.key(each.task_id))], [micros(each.created_at), ttl, *_fields(each)])
            for each in registrations
        ]
        if not calls:
            return
        with self._line() as client, client.pipeline(transaction=False) as pipe:
            for keys, args in calls:
                pipe.execute_command("EVALSHA", REGISTER.sha, len(keys), *keys, *args)
            for (keys, args), reply in zip(calls, pipe.execute(raise_on_error=False), strict=True):
                if isinstance(reply, NoScriptError):
                    pipe.execute_command("EVAL", REGISTER.text, len(keys), *keys, *args)
                elif isinstance(reply, Exception):
                    raise reply
            pipe.execute()

    def open(self, opening: Opening, *, patient: bool = False) -> Opened:
        key = self.results.key(opening.task_id)
        record = opening.result or self.results.encode(states.notice(opening.task_id, "STARTED"))
        expires = self.results.expires
        attempt, cancel, previous = self._run(
            OPEN,
            [self._hash(key), key],
            [
                micros(opening.at),
                opening.retries,
                opening.worker or "",
                opening.task or "",
                record,
                int(opening.store_result),
                *self._lives(expires),
            ],
            patient=patient,
        )
        return Opened(attempt, bool(cancel), self._progress(opening.task_id, previous))

    def write(self, write: Write, *, patient: bool = False) -> bool:
        key = self.results.key(write.task_id)
        kind = "end" if write.state in READY_STATES else "retry" if write.state == "RETRY" else "plain"
        if kind == "plain" and states.reported(write) is not None:
            kind = "report"
        record = write.result
        if record is None:
            record = self.results.encode(
                states.notice(write.task_id, write.state) | {"result": write.meta if kind == "report" else None}
            )
        way = "store" if write.result is not None else "follows" if write.result_follows else "publish"
        expires = write.expires if write.result is not None else self.results.expires
        args: list[Any] = [
            write.state,
            micros(write.at),
            "" if write.attempt is None else write.attempt,
            write.task or "",
            f"{kind}-{way}",
            record,
            *self._lives(expires),
        ]
        if write.attempt is None:
            args += ["" if write.retries is None else write.retries, write.worker or ""]
        reply = self._run(WRITE, [self._hash(key), key], args, patient=patient)
        return bool(reply)

    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        if not task_ids:
            return []
        with self._line() as client, client.pipeline(transaction=True) as pipe:  # together: `.state` then `.info` tears (fact 17)
            for task_id in task_ids:
                key = self.results.key(task_id)
                pipe.execute_command("HGETALL", self._hash(key))
                pipe.execute_command("GET", key)
            replies = pipe.execute()
        return [self._snapshot(task_id, *replies[2 * n : 2 * n + 2]) for n, task_id in enumerate(task_ids)]

    def claim(self, key: str, task_id: str, expires: float) -> str:
        bound = self._run(CLAIM, [self._prefix()[0] + b"claim:" + key.encode()], [task_id, _milliseconds(expires)])
        return str(bound, "utf-8")

    def ping(self) -> None:
        with self._line() as client:
            client.execute_command("PING")

    def close(self) -> None:
        lines, self._lines = self._lines, {}
        for (pid, _), line in lines.items():
            if pid == os.getpid():
                line.client.connection_pool.disconnect()

    def _run(self, script: Script, keys: Sequence[bytes], args: Sequence[Any], *, patient: bool = False) -> Any:
        with self._line(patient=patient) as client:
            try:
                return client.execute_command("EVALSHA", script.sha, len(keys), *keys, *args)
            except NoScriptError:  # a server that was restarted, or flushed of its scripts: it learns it again on the way
                return client.execute_command("EVAL", script.text, len(keys), *keys, *args)

    @contextmanager
    def _line(self, *, patient: bool = False) -> Iterator[Any]:
        """A client whose pool has a connection free, made on first use in each process."""
        pid = os.getpid()
        line = self._lines.get((pid, patient))
        if line is None:
            # After a fork the parent's sockets are let go of here, unused: a connection belongs to one process.
            self._lines = {place: known for place, known in self._lines.items() if place[0] == pid}
            line = self._lines.setdefault((pid, patient), self._new_line(patient=patient))
        try:
            line.free.get(timeout=line.wait)
        except Empty as exc:
            raise Unavailable("The result backend is too slow for all that is asked of it") from exc
        try:
            with translated():
                yield line.client
        finally:
            line.free.put(None)

    def _new_line(self, *, patient: bool) -> _Line:
        backend = self.results.backend
        client = connect(backend, timeout=None if patient else self._timeout, max_connections=self._connections)
        wait = (backend.connparams.get("socket_timeout") or PATIENCE) if patient else self._timeout
        free: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._connections):
            free.put(None)
        return _Line(client, free, wait)

    def _prefix(self) -> tuple[bytes, bytes]:
        """What our keys begin with. The global prefix comes first, for servers that permit a user its own prefix only."""
        if self._names is None:
            backend = self.results.backend
            plain = type(backend).task_keyprefix.encode()
            own = bytes(backend.task_keyprefix).removesuffix(plain) + b"hw:"
            self._names = (own, own + b"{")
        return self._names

    def _hash(self, result_key: bytes) -> bytes:
        return self._prefix()[1] + result_key + b"}"

    def _lives(self, expires: float | None) -> tuple[int, int]:
        """How long a result is kept, and the hash since the last write: as long, and ``TOMBSTONE``. In ms, 0 is for ever."""
        usual = self.results.expires
        if self._last_lives[0] != (expires, usual):  # nearly always the same: a rounding saved is a microsecond
            kept = max(usual, expires or 0.0) + TOMBSTONE.total_seconds() if usual else None
            self._last_lives = (expires, usual), (_milliseconds(expires), _milliseconds(kept))
        return self._last_lives[1]

    def _progress(self, task_id: str, raw: bytes | None) -> Progress | None:
        meta = self.results.decode_or_blank(task_id, raw) if raw else None
        return _reported_in(meta)

    def _snapshot(self, task_id: str, fields: Any, raw: bytes | None) -> Snapshot:
        meta = self.results.decode_or_blank(task_id, raw)
        pairs = fields.items() if isinstance(fields, Mapping) else zip(fields[::2], fields[1::2], strict=True)
        known = {str(name, "utf-8"): value for name, value in pairs}
        if not known:
            return Snapshot(task_id, None, meta)
        live = known.get("live")
        progress = _reported_in(meta) if live else self._progress(task_id, known.get("progress"))
        return Snapshot(task_id, _record(task_id, known, progress, int(live or known.get("progress_attempt", 0))), meta)


def _reported_in(meta: Mapping[str, Any] | None) -> Progress | None:
    """The progress in a record that a report stored; None where another's record has taken its place."""
    state = meta.get("status") if meta is not None else None
    if meta is None or not isinstance(state, str) or state in READY_STATES or state == "RETRY":
        return None
    return progress_from_meta(state, meta.get("result"))


def _record(task_id: str, known: Mapping[str, bytes], progress: Progress | None, progress_attempt: int) -> Record:
    def text(name: str) -> str | None:
        return str(known[name], "utf-8") if name in known else None

    def time(name: str) -> datetime | None:
        return moment(int(known[name])) if name in known else None

    return Record(
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
        ended=int(known.get("ended", 0)),
        state=text("state"),
        retries=int(known.get("retries", 0)),
        worker=text("worker"),
        progress=progress,
        progress_attempt=progress_attempt if progress is not None else 0,
        result_stored=known.get("result_stored") == b"1",
        cancel_requested_at=time("cancel_requested_at"),
    )


def _fields(registration: Registration) -> list[str]:
    names = ("task", "owner", "root_id", "parent_id", "group_id")
    return [word for name in names if (value := getattr(registration, name)) is not None for word in (name, value)]


def _milliseconds(seconds: float | None) -> int:
    """For the scripts, to which 0 is for ever; whatever is asked to live lives for a millisecond at least."""
    return max(1, round(seconds * 1000)) if seconds else 0
