"""The service's jobs, called directly: their results and their reports."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import app
import headway
import tasks
from headway.worker.step import Step, Steps
from tasks import checksums, imports
from tasks.data import OutsideDataError, data_folder, inside
from tasks.imports import NotImportableError
from tasks.packing import DamagedArchiveError


@dataclass
class Reports:
    """Replaces ``RequestContext`` and records what a task reports."""

    seen: list[tuple[float, float, str | None, dict[str, str] | None]] = field(default_factory=list)

    @property
    def progress(self) -> Reports:
        return self

    def get(self) -> Reports:
        return self

    def update(
        self,
        current: float,
        total: float,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        self.seen.append((current, total, message, attributes))

    def step(self, name: str) -> Step:
        return Step(Steps(self.update, lambda: self.seen[-1]), name, 1)

    def track(self, iterable: list[Any], message: str | None = None) -> Iterator[Any]:
        for number, item in enumerate(iterable):
            self.update(number, len(iterable), message)
            yield item
        self.update(len(iterable), len(iterable), message)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``HEADWAY_DATA``."""
    monkeypatch.setenv("HEADWAY_DATA", str(tmp_path / "data"))
    return data_folder()


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """What the task under test reports."""
    recorded = Reports()
    monkeypatch.setattr(headway, "RequestContext", recorded)
    return recorded


def test_jobs_have_the_names_of_contract() -> None:
    """The service's app registers the five jobs under their names."""
    names = {
        f"tasks.{name}"
        for name in ("checksum", "import_csv", "pipeline", "fails_half_way", "unknown_length")
    }
    assert {getattr(tasks, name).name for name in tasks.__all__} == names
    assert names <= set(app.celery.tasks)


# --- the data folder ---


@pytest.mark.parametrize("path", ["..", "../secret", "/etc", "a/../../secret", "link", "link/file"])
def test_path_outside_data_folder_is_refused(data: Path, path: str) -> None:
    """No path leads out of HEADWAY_DATA, and the error doesn't reveal whether it exists."""
    (data / "link").symlink_to(data.parent)
    with pytest.raises(OutsideDataError):
        inside(path)


def test_missing_path_in_data_folder_is_named(data: Path) -> None:
    """The error has the path as the caller gave it."""
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        inside("nothing-here")


def test_data_folder_is_private(data: Path) -> None:
    """Other users of the machine can't read uploads."""
    assert data.stat().st_mode & 0o077 == 0


# --- tasks.checksum ---


def test_checksum_reads_each_file_and_skips_links(data: Path, reports: Reports) -> None:
    """The progress ends at all bytes of all passes."""
    (data / "folder" / "deep").mkdir(parents=True)
    (data / "folder" / "a").write_bytes(b"one")
    (data / "folder" / "deep" / "b").write_bytes(b"three")
    (data / "secret").write_text("not this one")
    (data / "folder" / "link").symlink_to(data / "secret")

    done = tasks.checksum("folder", passes=3)

    expected = "".join(
        f"{hashlib.sha256(text).hexdigest()}  {name}\n"
        for name, text in (("a", b"one"), ("deep/b", b"three"))
    )
    assert done == {
        "files": 2,
        "bytes": 8,
        "passes": 3,
        "sha256": hashlib.sha256(expected.encode()).hexdigest(),
        "unreadable": [],
        "changed": [],
    }
    currents = [current for current, *_ in reports.seen]
    assert currents == sorted(currents)
    assert reports.seen[-1][:2] == (24, 24)


def test_checksum_names_unreadable_and_changed_files(
    data: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other files are read."""
    for name in ("changing", "forbidden", "good"):
        (data / name).write_text(name)
    original = checksums._read

    def read(file: Path, digest: Any) -> Iterator[int]:
        if file.name == "forbidden":
            raise PermissionError(13, "Permission denied")
        yield from original(file, digest)
        if file.name == "changing":
            file.write_text("changed!")

    monkeypatch.setattr(checksums, "_read", read)
    done = tasks.checksum(".", passes=2)
    assert (done["files"], done["unreadable"], done["changed"]) == (2, ["forbidden"], ["changing"])
    assert reports.seen[-1][3] == {"files": "2", "changed": "1"}


def test_checksum_of_a_file_is_refused(data: Path, reports: Reports) -> None:
    """The error says what to name instead."""
    (data / "file").touch()
    with pytest.raises(NotADirectoryError, match="folder"):
        tasks.checksum("file")


def test_checksum_of_standard_library_adapts_passes_to_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a path there is at least one pass, and more on a fast machine."""
    now = {"clock": 0.0}
    monkeypatch.setattr(checksums.time, "perf_counter", lambda: now["clock"])

    def read(file: Path, digest: Any) -> Iterator[int]:
        now["clock"] += 1.0
        yield 100

    monkeypatch.setattr(checksums, "_read", read)
    sizes = {Path("a"): 100, Path("b"): 500}  # the first is read at 100 bytes a second
    assert checksums._passes_for_demo(sizes) == 2
    assert checksums._passes_for_demo({Path("a"): 100, Path("b"): 10**9}) == 1


# --- tasks.import_csv ---


def rows_of(data: Path, table: str, name: str = "it.sqlite3") -> list[tuple[Any, ...]]:
    """All rows of a table by line."""
    with closing(sqlite3.connect(data / name)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


def test_import_keeps_each_row_or_its_reject(data: Path, reports: Reports) -> None:
    """A rejected row is kept with its line, its reason and its text."""
    (data / "it.csv").write_bytes(
        b'\xef\xbb\xbfid,"name of it"\r\n1,one\r\n\r\n2\r\n3,"two\r\nlines"\r\n'
        b'4,\xff\xfe\r\n5,five,more\r\n6,"broken"quote\r\n7,seven\r\n'
    )
    done = tasks.import_csv("it.csv")
    assert done == {"rows": 3, "rejected": 4, "database": "it.sqlite3"}
    assert rows_of(data, "rows") == [(2, "1", "one"), (5, "3", "two\r\nlines"), (10, "7", "seven")]
    assert [(line, text) for line, _, text in rows_of(data, "rejects")] == [
        (4, "2"),
        (7, "4,\\xff\\xfe"),
        (8, "5,five,more"),
        (9, '6,"broken"quote'),
    ]
    reasons = {line: reason for line, reason, _ in rows_of(data, "rejects")}
    assert reasons[4] == "1 fields instead of 2"
    assert reasons[7] == "not UTF-8"
    assert reports.seen[-1] == (7, 7, "Importing rows", {"imported": "3", "rejected": "4"})


def test_import_rejects_unclosed_quote(data: Path, reports: Reports) -> None:
    """The rest of the file becomes a reject and isn't lost."""
    (data / "it.csv").write_text('id,name\n1,one\n2,"never closed\n3,three\n')
    assert tasks.import_csv("it.csv") == {"rows": 1, "rejected": 1, "database": "it.sqlite3"}
    assert rows_of(data, "rejects")[0][::2] == (3, '2,"never closed\n3,three')


def test_second_delivery_of_import_writes_the_same_rows(data: Path, reports: Reports) -> None:
    """No row is written twice."""
    (data / "it.csv").write_text("id,name\n1,one\n2\n3,three\n")
    assert tasks.import_csv("it.csv") == tasks.import_csv("it.csv")
    assert [len(rows_of(data, table)) for table in ("rows", "rejects")] == [2, 1]


def test_interrupted_import_is_completed_by_next_delivery(
    data: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are there after the second delivery."""
    (data / "it.csv").write_text("id,name\n" + "".join(f"{number},x\n" for number in range(1000)))
    original = reports.update

    def cut(current: float, *rest: Any) -> None:
        if current == 500:
            raise SystemExit
        original(current, *rest)

    monkeypatch.setattr(reports, "update", cut)
    with pytest.raises(SystemExit):
        tasks.import_csv("it.csv")
    assert 0 < len(rows_of(data, "rows")) < 1000
    monkeypatch.setattr(reports, "update", original)
    assert tasks.import_csv("it.csv")["rows"] == 1000
    assert len(rows_of(data, "rows")) == 1000


def test_column_names_are_escaped(data: Path, reports: Reports) -> None:
    """A header can't inject SQL."""
    (data / "it.csv").write_text('"a""); DROP TABLE rejects; --",select\n1,2\n')
    assert tasks.import_csv("it.csv")["rows"] == 1
    assert rows_of(data, "rejects") == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("a,A\n1,2\n", "twice"),
        ("a,,c\n", "without a name"),
        ("_line,b\n", "_line"),
        (",".join(f"c{number}" for number in range(imports.MAX_COLUMNS + 1)), "columns"),
        ('"a', "header"),
    ],
)
def test_file_without_usable_header_is_refused(
    data: Path, reports: Reports, content: str, why: str
) -> None:
    """Nothing is imported, and the error has the reason."""
    (data / "it.csv").write_text(content)
    with pytest.raises(NotImportableError, match=why):
        tasks.import_csv("it.csv")


# --- the others ---


def test_pipeline_reports_five_steps_in_order(reports: Reports) -> None:
    """The progress never goes back, has each step's message and ends at 5 of 5."""
    done = tasks.pipeline(files=12)
    assert done["files"] > 0
    assert done["words"] > 0
    currents = [current for current, *_ in reports.seen]
    assert currents == sorted(currents)
    assert {int(current) for current in currents} == {0, 1, 2, 3, 4, 5}
    assert reports.seen[-1][:3] == (5, 5, "Done")
    assert any(message and message.startswith("Parsing: ") for _, _, message, _ in reports.seen)


def test_fails_half_way_raises_at_half(reports: Reports) -> None:
    """It raises after exactly half of the archives."""
    with pytest.raises(DamagedArchiveError, match="archive of"):
        tasks.fails_half_way(files=10)
    assert reports.seen[-1][:2] == (5, 10)


def test_unknown_length_reports_no_total(reports: Reports) -> None:
    """The total is always 0, and modules are counted."""
    done = tasks.unknown_length(roots=["json"], limit=12)
    assert done["modules"] == 12  # json, its decoder, encoder, scanner, re ...
    assert done["instructions"] > done["functions"] > 0
    assert {total for _, total, _, _ in reports.seen} == {0}
    assert reports.seen[-1][0] == done["modules"]
    assert tasks.unknown_length(roots=["keyword"])["modules"] == 1, "it ends when no import is left"


def test_jobs_work_as_plain_functions(data: Path) -> None:
    """Without a worker and a server they do the same work."""
    (data / "it.csv").write_text("id\n1\n")
    # Shared tasks belong to the current app, which other tests may have changed.
    app.celery.set_current()
    assert os.environ.get("CELERY_RESULT_BACKEND") is None
    assert tasks.import_csv("it.csv")["rows"] == 1
    assert tasks.checksum(".", passes=1)["files"] == 2
    with pytest.raises(DamagedArchiveError):
        tasks.fails_half_way(files=2)
