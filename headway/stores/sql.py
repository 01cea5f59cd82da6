"""The registry in the SQL database of the results (``db+...``), in its own table.

The fence is the statement ``UPDATE ... WHERE task_id = ? AND version = ?``: it changes a row only
if no other writer did so since it was read; otherwise the row is read again. This needs no row
locks and works the same on SQLite.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from headway.core import states
from headway.core.registry import Page, Registration, Snapshot, TaskRecord
from headway.errors import ConfigurationError, Unavailable
from headway.models import History, Query, Status
from headway.stores import sql_history
from headway.stores.base import REGISTRY_RETENTION, RegistryStore, Transition
from headway.stores.codec import decode_reports, record_from_json, record_to_json, to_micros
from headway.stores.pagination import (
    IndexEntry,
    IndexReader,
    Position,
    Slice,
    indexed_status,
    page,
    position_of,
)
from headway.stores.result_backend import ResultBackend

logger = logging.getLogger(__name__)

#: Seconds that a write waits for SQLite's lock, and retries after conflicts.
TIMEOUT = 0.5
#: The same with ``full_timeout``: SQLite's own default.
FULL_TIMEOUT = 5.0
#: The time between two sweeps of one process, which delete expired rows.
SWEEP = timedelta(hours=1)

#: Errors of a database that is unavailable or too slow. All other errors are logged.
CONNECTION_ERRORS = (
    exc.OperationalError,
    exc.InterfaceError,
    exc.TimeoutError,
    exc.DisconnectionError,
    OSError,
)


OTHER_TABLE = (
    "The table {table!r} in the database of the results was created by another version of Headway: "
    "it has no column {missing}. Drop the table while no worker runs; Headway creates it again, and "
    "results are not affected"
)

#: Compared byte by byte, like in Python: cursors compare ids.
ID = (
    sa.String(255)
    .with_variant(sa.String(255, collation="C"), "postgresql")
    .with_variant(sa.String(255, collation="utf8mb4_bin"), "mysql", "mariadb")
)
#: The kind of an index (`pagination`) -> its column.
INDEXES = {"in": "status", "of": "task", "by": "owner"}


def _tables(schema: str | None) -> tuple[sa.Table, sa.Table, sa.Table]:
    """Times are microseconds since the epoch: databases treat time zones differently."""
    metadata = sa.MetaData(schema=schema)
    executions = sa.Table(
        "headway_executions",
        metadata,
        sa.Column("task_id", ID, primary_key=True),
        #: Incremented by every change: the fence against writes based on an older version.
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("task", sa.String(255)),
        sa.Column("owner", sa.String(255)),
        sa.Column("root_id", sa.String(255)),
        sa.Column("parent_id", sa.String(255)),
        sa.Column("group_id", sa.String(255)),
        sa.Column("created_at", sa.BigInteger),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger, index=True),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("last_ended_attempt", sa.Integer, nullable=False),
        sa.Column("state", sa.String(255)),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(255)),
        sa.Column("delivery_id", sa.String(64)),
        sa.Column("progress", sa.Text),
        sa.Column("progress_attempt", sa.Integer, nullable=False),
        sa.Column("result_stored", sa.Boolean, nullable=False),
        sa.Column("cancel_requested_at", sa.BigInteger),
        sa.Column("expected_by", sa.BigInteger),
        sa.Column("first_seen_at", sa.BigInteger),
        sa.Column("heartbeat_attempt", sa.Integer, nullable=False),
        sa.Column("heartbeat_ttl", sa.Float, nullable=False),
        sa.Column("heartbeat_at", sa.BigInteger),
        #: The position in listings (`pagination.Position`), and the status it is listed under.
        sa.Column("listed_at", sa.BigInteger, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        *sql_history.columns(),
    )
    for name in INDEXES.values():
        sa.Index(
            f"headway_executions_{name}",
            executions.c[name],
            executions.c.listed_at,
            executions.c.task_id,
        )
    claims = sa.Table(
        "headway_claims",
        metadata,
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("value", sa.String(255), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
    return executions, claims, sql_history.table(metadata, ID)


class SqlStore(RegistryStore, IndexReader):
    """The state of executions, beside the results of ``app`` in its SQL database."""

    def __init__(
        self, app: Any, *, results: ResultBackend | None = None, timeout: float = TIMEOUT
    ) -> None:
        self.results = results if results is not None else ResultBackend(app)
        self._timeout = timeout
        self._engines: dict[tuple[int, bool], sa.Engine] = {}
        self._prepared = False
        self._swept: datetime | None = None
        self._executions, self._claims, self._reported = _tables(
            self.results.backend.task_cls.__table__.schema
        )

    def register(self, registrations: Iterable[Registration]) -> None:
        waiting: dict[str, Registration] = {}
        for each in registrations:
            waiting.setdefault(each.task_id, each)
        if not waiting:
            return
        known: Mapping[str, object] = waiting
        self._sweep(max(each.created_at for each in waiting.values()))
        try:
            with self._engine() as engine:
                known = self._records(list(waiting))
                rows = [
                    _row(states.apply_registration(None, each))
                    for task_id, each in waiting.items()
                    if task_id not in known
                ]
                if rows:
                    with engine.begin() as connection:
                        connection.execute(self._executions.insert(), rows)
        except exc.IntegrityError:  # another process inserted one of them: update one by one
            known = waiting
        super().register(waiting[task_id] for task_id in known)

    def heartbeat(self, task_ids: Sequence[str], worker: str, lifetime: float) -> frozenset[str]:
        """See `Store`. One statement for all. The time is this process's: the clocks of readers
        must not differ by more than ``ttl``.
        """
        table = self._executions
        alive = table.c.task_id.in_(task_ids) & (table.c.attempt > table.c.last_ended_attempt)
        alive &= table.c.worker.is_(None) | (table.c.worker == worker)
        beat = {
            "heartbeat_attempt": table.c.attempt,
            "heartbeat_ttl": lifetime,
            "heartbeat_at": to_micros(self.clock()),
        }
        asked = sa.select(table.c.task_id).where(alive & table.c.cancel_requested_at.is_not(None))
        with self._engine() as engine, engine.begin() as connection:
            connection.execute(
                table.update().where(alive).values(beat | {"version": table.c.version + 1})
            )
            return frozenset(connection.execute(asked).scalars())

    def query(self, query: Query) -> Page:
        return page(self, query, self.clock())

    def scan(self, indexes: Sequence[str], part: Slice) -> Sequence[Sequence[Position]]:
        # One statement: between two, an execution could move from one index to another and be found
        # in neither.
        parts = [self._places(index, part).subquery() for index in indexes]
        wanted = sa.union_all(
            *(
                sa.select(sa.literal(n), each.c.listed_at, each.c.task_id)
                for n, each in enumerate(parts)
            )
        )
        found: list[list[Position]] = [[] for _ in indexes]
        with self._engine() as engine, engine.connect() as connection:
            for n, at, task_id in connection.execute(wanted):
                found[n].append(Position(at, task_id))
        return [sorted(each, reverse=True) for each in found]

    def _places(self, index: str, part: Slice) -> sa.Select[tuple[int, str]]:
        table, (kind, _, what) = self._executions, index.partition(":")
        at, task_id = table.c.listed_at, table.c.task_id
        wanted = sa.select(at, task_id).where(table.c[INDEXES[kind]] == what, at >= part.since)
        if part.after is not None:  # in a form that lets the database use the index
            wanted = wanted.where(
                at <= part.after.at, (at < part.after.at) | (task_id < part.after.task_id)
            )
        return wanted.order_by(at.desc(), task_id.desc()).limit(part.most)

    def peek_many(self, task_ids: Sequence[str]) -> Sequence[Snapshot]:
        return self.read(task_ids)

    def repair(self, stale: Sequence[tuple[IndexEntry, Status | None]]) -> None:
        """See `IndexReader`. Expired rows stay until they are swept: the row is the index."""
        table = self._executions
        with self._engine() as engine, engine.begin() as connection:
            for (place, name), status in stale:
                if status is not None:
                    found = (table.c.task_id == place.task_id) & (
                        table.c.status == name.partition(":")[2]
                    )
                    connection.execute(table.update().where(found).values(status=status.value))

    def _reports(self, task_id: str) -> History:
        # In this order: reports that are thinned out in between may be missing, and the row read
        # afterwards says so.
        with self._engine() as engine, engine.connect() as connection:
            entries = sql_history.entries(connection, self._reported, task_id)
        with self._engine() as engine:
            row = self._rows(engine, [task_id]).get(task_id)
        return History(
            tuple(decode_reports(b"".join(entries))), row is None or not row["history_gap"]
        )

    def counts(self) -> Mapping[Status, int]:
        """See `Store`. One statement, answered from the index."""
        status = self._executions.c.status
        with self._engine() as engine, engine.connect() as connection:
            found = connection.execute(sa.select(status, sa.func.count()).group_by(status)).all()
        return dict.fromkeys(Status, 0) | {Status(name): count for name, count in found}

    def claim_key(
        self, key: str, value: str, expires: float, *, instead_of: str | None = None
    ) -> str:
        claims, now = self._claims, to_micros(datetime.now(UTC))
        mine = {"value": value, "until": now + round(expires * 1e6)}
        with self._engine() as engine:
            try:
                with engine.begin() as connection:
                    replaced = (claims.c.until <= now) | (claims.c.value == instead_of)
                    connection.execute(claims.delete().where(claims.c.key == key, replaced))
                    connection.execute(claims.insert().values(key=key, **mine))
            except exc.IntegrityError:
                with engine.connect() as connection:
                    bound = connection.execute(
                        sa.select(claims.c.value).where(claims.c.key == key)
                    ).scalar()
                return str(bound) if bound is not None else value
        return value

    def ping(self) -> None:
        with self._engine() as engine, engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))

    def close(self) -> None:
        engines, self._engines = self._engines, {}
        for (pid, _), engine in engines.items():
            if pid == os.getpid():
                engine.dispose()

    def _update(
        self, task_id: str, change: Transition, *, report: bytes = b"", full_timeout: bool = False
    ) -> bool:
        deadline = time.monotonic() + (FULL_TIMEOUT if full_timeout else self._timeout)
        with self._engine(full_timeout=full_timeout) as engine:
            while True:
                row = self._rows(engine, [task_id]).get(task_id)
                changed = change(None if row is None else _record(row))
                if changed is None:
                    return False
                if self._replace(engine, row, _row(changed), report):
                    return True
                if time.monotonic() > deadline:
                    raise Unavailable("The result backend is overloaded: too many conflicts")

    def _replace(
        self,
        engine: sa.Engine,
        old: Mapping[str, Any] | None,
        new: Mapping[str, Any],
        report: bytes,
    ) -> bool:
        """Write a new version of a row. Returns False after a conflict."""
        table = self._executions
        history = sql_history.changed(old, new, report)
        new = {**new, **history, "version": 1 if old is None else old["version"] + 1}
        try:
            with engine.begin() as connection:
                if old is None:
                    connection.execute(table.insert().values(new))
                else:
                    unchanged = (
                        table.c.task_id == old["task_id"],
                        table.c.version == old["version"],
                    )
                    if (
                        connection.execute(table.update().where(*unchanged).values(new)).rowcount
                        != 1
                    ):
                        return False
                if history:
                    sql_history.store(connection, table, self._reported, new, report)
                return True
        except exc.IntegrityError:  # inserted by another process
            return False

    def _rows(self, engine: sa.Engine, task_ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        table = self._executions
        with engine.connect() as connection:
            found = connection.execute(
                sa.select(table).where(table.c.task_id.in_(task_ids))
            ).mappings()
            return {row["task_id"]: dict(row) for row in found}

    def _records(self, task_ids: Sequence[str]) -> Mapping[str, TaskRecord]:
        with self._engine() as engine:
            return {task_id: _record(row) for task_id, row in self._rows(engine, task_ids).items()}

    def _results(self, task_ids: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        """Read Celery's own table by columns: Celery's code would unpickle results."""
        table = self.results.backend.task_cls.__table__
        wanted = [
            table.c[name]
            for name in ("task_id", "status", "result", "date_done", "name", "worker", "retries")
            if name in table.c
        ]
        with self._engine() as engine, engine.connect() as connection:
            rows = connection.execute(
                sa.select(*wanted).where(table.c.task_id.in_(task_ids))
            ).mappings()
            metas = {row["task_id"]: self._meta(dict(row)) for row in rows}
        return [metas.get(task_id) for task_id in task_ids]

    def _meta(self, meta: dict[str, Any]) -> dict[str, Any]:
        meta["result"] = self.results.decode_value(meta["task_id"], meta["result"])
        if meta["date_done"] is not None:  # UTC, in a column without a time zone
            meta["date_done"] = meta["date_done"].replace(tzinfo=UTC).isoformat()
        return meta

    @contextmanager
    def _engine(self, *, full_timeout: bool = False) -> Iterator[sa.Engine]:
        """This process's engine, with the tables created. Translates the driver's errors."""
        place = (os.getpid(), full_timeout)
        try:
            engine = self._engines.get(place)
            if engine is None:
                engine = self._engines.setdefault(
                    place, self._new_engine(full_timeout=full_timeout)
                )
            if not self._prepared:
                self._prepare(engine)
            yield engine
        except exc.IntegrityError:
            raise  # not a fault: a conflict with another writer
        except CONNECTION_ERRORS as fault:
            self._prepared = False  # the database may return without its tables
            raise Unavailable from fault
        except exc.SQLAlchemyError as fault:
            self._prepared = False
            logger.error("The result backend refused a statement: %s", fault)
            raise Unavailable("The result backend refused a statement") from fault

    def _new_engine(self, *, full_timeout: bool) -> sa.Engine:
        backend = self.results.backend
        options = dict(backend.engine_options)
        if sa.make_url(backend.url).get_backend_name() == "sqlite":
            wait = {"timeout": FULL_TIMEOUT if full_timeout else self._timeout}
            options["connect_args"] = wait | dict(options.get("connect_args") or {})
        engine = sa.create_engine(backend.url, **options)
        callback = getattr(backend.session_manager, "engine_callback", None)  # 5.6.3 has none
        if callback is not None:
            callback(engine)
        return engine

    def _prepare(self, engine: sa.Engine) -> None:
        """Create missing tables, Celery's too: a reader may come before the first result.

        Celery's ``prepare_models`` is not used: it retries ten times with pauses while the database
        is unavailable.
        """
        for metadata in (self.results.backend.task_cls.metadata, self._executions.metadata):
            missing = _missing(engine, metadata)
            while missing:
                try:
                    metadata.create_all(engine)
                    break
                except exc.DatabaseError:
                    # Another process may create the same tables at the same time.
                    before, missing = missing, _missing(engine, metadata)
                    if missing == before:
                        raise
        for table in (self._executions, self._claims):
            there = {
                column["name"]
                for column in sa.inspect(engine).get_columns(table.name, schema=table.schema)
            }
            if missing := sorted(set(table.c.keys()) - there):
                raise ConfigurationError(
                    OTHER_TABLE.format(table=table.name, missing=", ".join(missing))
                )
        self._prepared = True

    def _sweep(self, now: datetime) -> None:
        """Delete rows that have outlived their result by ``REGISTRY_RETENTION``."""
        expires = self.results.expires
        if not expires or (self._swept is not None and now - self._swept < SWEEP):
            return
        self._swept = now
        oldest = to_micros(now - timedelta(seconds=expires) - REGISTRY_RETENTION)
        executions, claims = self._executions, self._claims
        last_seen = sa.func.coalesce(executions.c.updated_at, executions.c.created_at)
        over = executions.c.expected_by.is_(None) | (executions.c.expected_by < oldest)
        # A task that reports nothing may still run: its heartbeats tell.
        over &= executions.c.heartbeat_at.is_(None) | (executions.c.heartbeat_at < oldest)
        with self._engine() as engine, engine.begin() as connection:
            gone = sa.select(executions.c.task_id).where(last_seen < oldest, over)
            connection.execute(self._reported.delete().where(self._reported.c.task_id.in_(gone)))
            connection.execute(executions.delete().where(last_seen < oldest, over))
            connection.execute(claims.delete().where(claims.c.until < to_micros(now)))


def _missing(engine: sa.Engine, metadata: sa.MetaData) -> list[str]:
    inspector = sa.inspect(engine)
    return [
        table.name
        for table in metadata.sorted_tables
        if not inspector.has_table(table.name, schema=table.schema)
    ]


def _row(record: TaskRecord) -> dict[str, Any]:
    values = record_to_json(record)
    listed = {"listed_at": position_of(record).at, "status": indexed_status(record).value}
    return (
        values
        | listed
        | {
            "version": 1,
            "progress": None if values["progress"] is None else json.dumps(values["progress"]),
        }
    )


def _record(row: Mapping[str, Any]) -> TaskRecord:
    return record_from_json(
        dict(row) | {"progress": None if row["progress"] is None else json.loads(row["progress"])}
    )
