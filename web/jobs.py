"""The jobs that the page can start, with their texts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One card of the page."""

    task: str
    title: str
    #: One or two sentences for the card.
    about: str
    #: Unit of ``current`` and ``total``; "bytes" are shown as kB and MB; empty: no unit.
    unit: str = ""
    #: True if the job needs a file.
    upload: bool = False


JOBS = (
    Job(
        "tasks.checksum",
        "Checksums",
        "SHA-256 of Python’s standard library, in several passes. Progress in bytes.",
        "bytes",
    ),
    Job(
        "tasks.import_csv",
        "CSV import",
        "Imports rows into SQLite. Counts invalid rows live and stores them.",
        "rows",
        upload=True,
    ),
    Job(
        "tasks.pipeline",
        "Index in steps",
        "Five steps, from reading sources to querying the index, each with a message.",
        "steps",
    ),
    Job(
        "tasks.fails_half_way",
        "Fails half way",
        "Packs files until it finds a damaged archive. The bar keeps its last value.",
        "files",
    ),
    Job(
        "tasks.unknown_length",
        "Unknown length",
        "Follows imports until none are left. The total is unknown in advance.",
        "modules",
    ),
)
