"""Facts beside the bar: ``attributes`` counts bad rows during the import.

The database keeps these rows, so that people can correct them.
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

#: Rows per transaction: the most that is repeated after a worker is killed.
BATCH = 100
#: SQLite allows 2000 columns, but such a wide header is probably a mistake.
MAX_COLUMNS = 500


class NotImportableError(ValueError):
    """A file without a usable header. The message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file: its values, or the reason why it is rejected."""

    #: Number of its first line. The header is line 1.
    line: int
    #: The text in the file.
    raw: str
    values: list[str]
    reason: str | None = None


@shared_task(name="tasks.import_csv")
def import_csv(path: str) -> dict[str, Any]:
    """Import an uploaded CSV file (UTF-8, with a header) into a SQLite database beside it.

    Table ``rows`` has the columns of the header. Table ``rejects`` has the line, reason and text of
    each row that can't be read or has another number of fields. Together they have all rows of the
    file. The key is the line, so a second delivery of the same job writes the same rows again.
    Raises ``NotImportableError`` if there is no usable header.
    """
    source = inside(path)
    progress = headway.RequestContext.get().progress
    progress.update(0, 0, "Counting rows")
    with source.open("rb") as file:
        rows = _rows(file)
        columns = _header(rows)
        total = sum(1 for _ in rows)
    database = source.with_suffix(".sqlite3")
    imported = rejected = 0
    with closing(sqlite3.connect(database, timeout=60)) as connection, source.open("rb") as file:
        rows = _rows(file)
        _header(rows)
        insert = _prepare(connection, columns)
        for row in rows:
            # One row at a time: the file may be larger than the memory.
            reason = row.reason
            if reason is None and len(row.values) != len(columns):
                reason = f"{len(row.values)} fields instead of {len(columns)}"
            if reason is None:
                connection.execute(insert, (row.line, *row.values))
                imported += 1
            else:
                connection.execute(
                    "INSERT OR REPLACE INTO rejects VALUES (?, ?, ?)", (row.line, reason, row.raw)
                )
                rejected += 1
            if (imported + rejected) % BATCH == 0:
                connection.commit()
            progress.update(
                imported + rejected,
                total,
                "Importing rows",
                {"imported": f"{imported:,}", "rejected": f"{rejected:,}"},
            )
        connection.commit()
    return {
        "rows": imported,
        "rejected": rejected,
        "database": database.relative_to(data_folder()).as_posix(),
    }


def _rows(file: BinaryIO) -> Iterator[Row]:
    """All rows of the file, including bad ones, but no blank lines."""
    file.seek(0)
    lines = _Lines(file)
    # Without "strict" an unclosed quote would silently swallow the rest of the file.
    reader = csv.reader(lines, strict=True)
    while True:
        first = lines.number + 1
        lines.current.clear()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:  # the reader continues with the next line
            yield Row(first, lines.text(), [], str(exc))
            continue
        if lines.undecodable():
            yield Row(first, lines.text(), [], "not UTF-8")
        elif values:
            yield Row(first, lines.text(), values)


class _Lines:
    """The lines of the file as text. Remembers those of the current row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self.current: list[str] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            self.number += 1
            # Excel starts UTF-8 files with a byte order mark.
            text = (line.removeprefix(b"\xef\xbb\xbf") if self.number == 1 else line).decode(
                "utf-8", "surrogateescape"
            )
            self.current.append(text)
            yield text

    def text(self) -> str:
        """The text of the row. Bytes that aren't UTF-8 become ``\\xff``, which SQLite can store."""
        return (
            "".join(self.current)
            .rstrip("\r\n")
            .encode("utf-8", "surrogateescape")
            .decode("utf-8", "backslashreplace")
        )

    def undecodable(self) -> bool:
        """Whether the row has bytes that aren't UTF-8."""
        return any(
            "\udc80" <= character <= "\udcff"
            for line in self.current
            if not line.isascii()
            for character in line
        )


def _header(rows: Iterator[Row]) -> list[str]:
    row = next(rows, None)
    if row is None:
        raise NotImportableError("The file is empty")
    if row.reason is not None:
        raise NotImportableError(f"The first line is not a CSV header: {row.reason}")
    columns = [name.strip() for name in row.values]
    if len(columns) > MAX_COLUMNS:
        raise NotImportableError(
            f"The header has {len(columns)} columns, but at most {MAX_COLUMNS} are allowed"
        )
    if not all(columns) or any("\0" in name for name in columns):
        raise NotImportableError("The header has a column without a name")
    if len({name.casefold() for name in columns} | {"_line"}) <= len(columns):
        raise NotImportableError(
            "The header has a column twice, or a column '_line', which is reserved"
        )
    return columns


def _prepare(connection: sqlite3.Connection, columns: list[str]) -> str:
    """Create the tables. Returns an INSERT statement for ``(line, *values)``."""
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    with connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS rows (_line INTEGER PRIMARY KEY, {names})")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS rejects "
            "(line INTEGER PRIMARY KEY, reason TEXT, content TEXT)"
        )
    return f"INSERT OR REPLACE INTO rows VALUES ({', '.join('?' * (len(columns) + 1))})"  # noqa: S608 (question marks only)
