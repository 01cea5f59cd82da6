"""Facts beside the bar: what went wrong is counted in ``attributes`` while the job goes on, and
kept for whoever mends it.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

from celery import shared_task

import headway
from tasks.data import data_folder, inside

#: Rows a transaction: what a killed worker has to do again at most.
BATCH = 100
#: SQLite takes 2000 columns; a header wider than this is hardly one.
COLUMNS = 500


class NotImportableError(ValueError):
    """A file that no row can be read from. Says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of the file: its values, or the reason why it can't be taken."""

    #: The line that it begins on, starts at 1 (the header).
    line: int
    #: The text as it stands in the file.
    raw: str
    values: list[str]
    reason: str | None = None


@shared_task(name="tasks.import_csv")
def import_csv(path: str) -> dict[str, Any]:
    """Import an uploaded CSV file (UTF-8, with a header) into a SQLite database beside it.

    Table ``rows`` has the header's columns, table ``rejects`` every row that isn't as wide as the
    header or can't be read: line, reason and text; so rows and rejects together are all of the
    file. Rows are keyed by their line: a second delivery of the same job writes the same ones
    again. Raises ``NotImportableError`` where there is no usable header.
    """
    source = inside(path)
    progress = headway.RequestContext.get().progress
    progress.update(0, 0, "Counting rows")
    with source.open("rb") as file:
        rows = _rows(file)
        columns = _header(rows)
        total = sum(1 for _ in rows)
    database = source.with_suffix(".sqlite3")
    taken = rejected = 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, source.open("rb") as file:
        rows = _rows(file)
        _header(rows)
        insert = _prepare(connection, columns)
        for row in rows:
            # One at a time and not a list of all: the file may be bigger than the memory.
            reason = row.reason
            if reason is None and len(row.values) != len(columns):
                reason = f"{len(row.values)} fields instead of {len(columns)}"
            if reason is None:
                connection.execute(insert, (row.line, *row.values))
                taken += 1
            else:
                connection.execute(
                    "INSERT OR REPLACE INTO rejects VALUES (?, ?, ?)", (row.line, reason, row.raw)
                )
                rejected += 1
            if (taken + rejected) % BATCH == 0:
                connection.commit()
            progress.update(
                taken + rejected,
                total,
                "Importing rows",
                {"imported": f"{taken:,}", "rejected": f"{rejected:,}"},
            )
        connection.commit()
    return {
        "rows": taken,
        "rejected": rejected,
        "database": database.relative_to(data_folder()).as_posix(),
    }


def _rows(file: BinaryIO) -> Iterator[Row]:
    """All records from the begin of the file, the bad ones included; blank lines aren't records."""
    file.seek(0)
    lines = _Lines(file)
    reader = csv.reader(
        lines, strict=True
    )  # strict: a quote that is never closed swallows the rest of a file silently otherwise
    while True:
        begin = lines.number + 1
        lines.taken.clear()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:  # the reader goes on with the next line
            yield Row(begin, lines.text(), [], str(exc))
            continue
        if lines.undecodable():
            yield Row(begin, lines.text(), [], "not UTF-8")
        elif values:
            yield Row(begin, lines.text(), values)


class _Lines:
    """The file's lines as text, and what of them the reader has taken for the present record."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            # Excel begins its UTF-8 files with a byte order mark.
            text = (line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line).decode(
                "utf-8", "surrogateescape"
            )
            self.taken.append(text)
            yield text

    def text(self) -> str:
        """The record as it stands in the file; bytes that are no UTF-8 as ``\\xff``, which SQLite
        can keep.
        """
        return (
            "".join(self.taken)
            .rstrip("\r\n")
            .encode("utf-8", "surrogateescape")
            .decode("utf-8", "backslashreplace")
        )

    def undecodable(self) -> bool:
        """Whether the record has bytes that are no UTF-8."""
        return any(
            "\udc80" <= character <= "\udcff"
            for line in self.taken
            if not line.isascii()
            for character in line
        )


def _header(rows: Iterator[Row]) -> list[str]:
    row = next(rows, None)
    if row is None:
        raise NotImportableError("The file is empty")
    if row.reason is not None:
        raise NotImportableError(f"The first line is no CSV header: {row.reason}")
    columns = [name.strip() for name in row.values]
    if len(columns) > COLUMNS:
        raise NotImportableError(
            f"The header names {len(columns)} columns; {COLUMNS} are the most that are taken"
        )
    if not all(columns) or any("\0" in name for name in columns):
        raise NotImportableError("The header has a column without a name")
    if len({name.casefold() for name in columns} | {"_line"}) <= len(columns):
        raise NotImportableError(
            "The header names a column twice, or one '_line', which is the import's own"
        )
    return columns


def _prepare(connection: sqlite3.Connection, columns: list[str]) -> str:
    """Make the tables; returns the statement that takes ``(line, *values)``."""
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    with connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS rows (_line INTEGER PRIMARY KEY, {names})")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS rejects (line INTEGER PRIMARY KEY, reason TEXT, content TEXT)"
        )
    return f"INSERT OR REPLACE INTO rows VALUES ({', '.join('?' * (len(columns) + 1))})"  # noqa: S608 (question marks only)
