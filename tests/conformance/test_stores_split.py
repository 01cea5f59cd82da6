"""Stores with separate registry and results: changes between two reads or two writers."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from headway.core import states
from headway.core.registry import Registration, StateWrite
from headway.errors import ConfigurationError, Unavailable
from headway.models import Progress, Query, Status
from headway.stores import sql
from headway.stores.base import RegistryStore
from headway.stores.pagination import Slice
from headway.stores.sql import SqlStore
from tests.support import stores
from tests.support.stores import StoreUnderTest, at, report


@pytest.mark.parametrize("name", ["sql", "files", "other"])
@pytest.mark.parametrize("state", ["PROGRESS", "SUCCESS"])
def test_attempt_between_two_reads_has_own_number(
    name: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that runs between the registry read and the result read has its own number."""
    subject = stores.make(name, tmp_path)
    assert isinstance(subject.store, RegistryStore)
    results = subject.store._results
    subject.open("a", 0)

    def meanwhile(task_ids: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        monkeypatch.undo()
        subject.write("a", "RETRY", 1, attempt=1)
        subject.open("a", 2, retries=1)
        subject.write(
            "a", state, 3, attempt=2, result=report(2, attempt=2) if state == "PROGRESS" else "done"
        )
        return results(task_ids)

    monkeypatch.setattr(subject.store, "_results", meanwhile)
    execution = states.resolve(subject.snapshot("a"), at(4))
    subject.store.close()
    assert (execution.status, execution.attempt) == (
        (Status.COMPLETED, 2) if state == "SUCCESS" else (Status.RUNNING, 2)
    )


def test_progress_of_previous_attempt_is_hidden_before_first_result(tmp_path: Path) -> None:
    """An earlier attempt's result is hidden until the new attempt's result is stored."""
    subject = stores.make("sql", tmp_path)
    subject.open("a", 0)
    subject.write("a", "PROGRESS", 1, attempt=1, result=report(9, attempt=1))
    subject.open("a", 2)
    assert subject.store.write(
        StateWrite(
            "a", "PROGRESS", at(3), attempt=2, meta=report(1, attempt=2), result_follows=True
        )
    )
    execution = states.resolve(subject.snapshot("a"), at(4))
    subject.store.close()
    assert (execution.attempt, execution.progress) == (2, Progress(1, 10))


def test_execution_that_ends_during_listing_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing contains an execution that ends between the reads of two indexes."""
    subject = stores.make("sql", tmp_path)
    assert isinstance(subject.store, SqlStore)
    subject.open("a", 0)
    scan, ends = subject.store._places, iter(["", "REVOKED"])

    def meanwhile(index: str, part: Slice) -> Any:
        if end := next(ends, ""):
            subject.write("a", end, 1, attempt=1)
        return scan(index, part)

    monkeypatch.setattr(subject.store, "_places", meanwhile)
    found = subject.store.query(Query()).snapshots
    subject.store.close()
    assert [each.task_id for each in found] == ["a"]


def test_concurrent_table_creation_is_accepted(tmp_path: Path) -> None:
    """Several processes may create the tables at the same time."""

    def create_first(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE TABLE" in statement and statement not in created:
            created.append(statement)
            with sqlite3.connect(tmp_path / "results.sqlite") as other:
                other.execute(statement)
            other.close()

    created: list[str] = []
    subject = stores.make("sql", tmp_path)
    sa.event.listen(sa.Engine, "before_cursor_execute", create_first)
    try:
        assert subject.open("a").attempt == 1
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", create_first)
    subject.store.close()
    assert len(created) >= 3


def test_start_waits_longer_than_report_for_locked_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start waits for a locked SQLite database for longer than a report and succeeds."""
    monkeypatch.setattr(sql, "FULL_TIMEOUT", 60.0)  # enough for a slow machine
    subject: StoreUnderTest = stores.make("sql", tmp_path, timeout=sql.TIMEOUT)
    subject.open("other", 0)
    locked = sqlite3.connect(tmp_path / "results.sqlite", isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        start = pool.submit(subject.open, "a", 0)
        try:
            with pytest.raises(Unavailable):
                subject.write("other", "PROGRESS", 1, attempt=1, result=report())
        finally:
            locked.execute("COMMIT")
            locked.close()
        assert start.result(timeout=60).attempt == 1
    subject.store.close()


def test_table_without_column_is_configuration_error(tmp_path: Path) -> None:
    """A table that lacks a column raises an error that names the table and the remedy."""
    with sqlite3.connect(tmp_path / "results.sqlite") as before:
        before.execute(
            "CREATE TABLE headway_executions (task_id VARCHAR PRIMARY KEY, version INTEGER)"
        )
    before.close()
    subject = stores.make("sql", tmp_path)
    with pytest.raises(ConfigurationError, match=r"headway_executions.* attempt, .*Drop the table"):
        subject.open("a", 0)
    subject.store.close()


def test_cleanup_keeps_delayed_and_running_executions(tmp_path: Path) -> None:
    """A publication deletes old rows, but not delayed ones or ones with heartbeats."""
    subject = stores.make("sql", tmp_path)
    assert isinstance(subject.store, SqlStore)
    year = 365 * 24 * 3600
    subject.store.register(
        [
            Registration("old", "t", at(0)),
            Registration("delayed", "t", at(0), expected_by=at(2 * year)),
        ]
    )
    for each in ("old", "runs"):
        subject.open(each, 1)
        subject.write(each, "PROGRESS", 2, attempt=1, result=report())
    subject.store.clock = lambda: at(year)
    subject.store.heartbeat(["runs"], "w", 60)
    subject.store.register([Registration("new", "t", at(year))])
    snapshots = subject.store.read(["old", "delayed", "runs", "new"])
    histories = [subject.store.history(each).reports for each in ("old", "runs")]
    subject.store.close()
    assert [snapshot.record is not None for snapshot in snapshots] == [False, True, True, True]
    assert [len(reports) for reports in histories] == [0, 1]
