"""What the page offers to start, in its words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One card of the page."""

    task: str
    title: str
    #: What it does, and what is to be seen.
    about: str
    #: What ``current`` and ``total`` count: "bytes" are shown as kB and MB; empty: not worth
    #: telling.
    unit: str = ""
    #: Whether it wants a file.
    upload: bool = False


JOBS = (
    Job(
        "tasks.checksum",
        "Checksums",
        "SHA-256 of Python’s whole standard library, read again and again. Progress in bytes.",
        "bytes",
    ),
    Job(
        "tasks.import_csv",
        "CSV import",
        "Rows into SQLite. Bad rows are counted while it runs, and kept.",
        "rows",
        upload=True,
    ),
    Job(
        "tasks.pipeline",
        "Index in steps",
        "Five steps from reading sources to asking the index. A message for each.",
        "steps",
    ),
    Job(
        "tasks.fails_half_way",
        "Fails half way",
        "Packs files until it finds a damaged archive. The bar stays where it was.",
        "files",
    ),
    Job(
        "tasks.unknown_length",
        "Unknown length",
        "Follows imports until none are left. Nobody knows the total beforehand.",
        "modules",
    ),
)
