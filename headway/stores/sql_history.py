"""The history of reports in an SQL database (``core.history``).

It has its own table, and two columns in the registry's table. Every function runs in the
transaction that changes the registry's row, and holds that row's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from headway.core.history import MAX_BYTES, should_keep, starts_new_history, thin_out

Row = Mapping[str, Any]

NOTHING = {"history_size": 0, "history_gap": 0}


def columns() -> list[sa.Column[int]]:
    """Columns of the registry's table: the bytes kept, and ``min_interval`` in microseconds."""
    return [sa.Column(name, sa.BigInteger, nullable=False, default=0) for name in NOTHING]


def table(metadata: sa.MetaData, task_id: sa.types.TypeEngine[str]) -> sa.Table:
    """The table of reports. Its key contains the version of the registry's row with that report."""
    return sa.Table(
        "headway_reports",
        metadata,
        sa.Column("task_id", task_id, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
    )


def changed(old: Row | None, new: Row, report: bytes) -> dict[str, int]:
    """The new values of the columns; empty if they do not change."""
    if starts_new_history(None if old is None else old["state"], new["state"]):
        return NOTHING
    before: Row = old if old is not None else NOTHING | {"updated_at": None}
    if not report or not should_keep(
        before["history_gap"], before["updated_at"], new["updated_at"]
    ):
        return {}
    size = before["history_size"] + len(_entry(new, report))
    return {"history_size": size, "history_gap": before["history_gap"]}


def store(
    connection: sa.Connection, executions: sa.Table, reports: sa.Table, row: Row, report: bytes
) -> None:
    """Store a report after `changed`. ``row`` is the changed row."""
    own, entry = reports.c.task_id == row["task_id"], _entry(row, report)
    if row["history_size"] in (0, len(entry)):
        # Also before the first report: if only the registry's table was dropped, old reports have
        # the versions that new ones will get, and each new report would conflict.
        connection.execute(reports.delete().where(own))
    if not row["history_size"]:
        return
    connection.execute(
        reports.insert().values(task_id=row["task_id"], version=row["version"], entry=entry)
    )
    if row["history_size"] <= MAX_BYTES:
        return
    wanted = sa.select(reports.c.version, reports.c.entry).where(own).order_by(reports.c.version)
    sizes = {version: len(entry) for version, entry in connection.execute(wanted)}
    span = row["updated_at"] - (
        row["started_at"] or row["first_seen_at"] or row["created_at"] or row["updated_at"]
    )
    staying, min_interval = thin_out(list(sizes.values()), row["history_gap"], span)
    kept = {version: size for n, (version, size) in enumerate(sizes.items()) if n in staying}
    connection.execute(
        reports.delete().where(own, reports.c.version.in_(sizes.keys() - kept.keys()))
    )
    values = {"history_size": sum(kept.values()), "history_gap": min_interval}
    connection.execute(
        executions.update().where(executions.c.task_id == row["task_id"]).values(values)
    )


def entries(connection: sa.Connection, reports: sa.Table, task_id: str) -> Sequence[bytes]:
    """The reports that are kept, oldest first."""
    wanted = (
        sa.select(reports.c.entry).where(reports.c.task_id == task_id).order_by(reports.c.version)
    )
    return connection.execute(wanted).scalars().all()


def _entry(row: Row, report: bytes) -> bytes:
    return b"%d%b" % (row["attempt"], report)
