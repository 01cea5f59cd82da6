"""Several steps: ``with progress.step("Parsing") as step``, then ``step.update`` or ``step.track``.

The overall progress includes the current step (2.4 of 5), so the bar also moves in a long step.
"""

from __future__ import annotations

import ast
import hashlib
import sqlite3
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from celery import shared_task

import headway
from headway import Step
from tasks.data import python_sources, standard_library

STEPS = ("Reading sources", "Parsing", "Indexing words", "Writing the index", "Checking the index")


@shared_task(name="tasks.pipeline")
def pipeline(files: int = 600) -> dict[str, Any]:
    """Build a full-text index of the standard library's sources in five steps, and check it.

    ``files`` bounds the sources. Returns the numbers of files, definitions, postings and words, and
    the most frequent names.
    """
    progress = headway.RequestContext.get().progress

    reading, parsing, counting, writing, checking = (progress.step(name) for name in STEPS)
    progress.update(0, len(STEPS))
    with reading:
        sources = _read(python_sources()[:files], reading)
    with parsing:
        definitions = _parse(sources, parsing)
    with counting:
        words = _count_words(sources, counting)
    with _new_index() as index:
        with writing:
            rows = _write(index, words, writing)
        with checking:
            found = _check(index, words, checking)
    progress.update(len(STEPS), len(STEPS), "Done")
    return {
        "files": len(sources),
        "definitions": definitions,
        "postings": rows,
        "words": found,
        "most_frequent": _most(words),
    }


def _read(files: list[Path], step: Step) -> dict[str, bytes]:
    """Step 1: read the sources, without duplicates."""
    sources: dict[str, bytes] = {}
    seen: set[bytes] = set()
    for number, file in enumerate(files):
        name = file.relative_to(standard_library()).as_posix()
        step.update(number, len(files), name)
        content = file.read_bytes()
        digest = hashlib.sha256(content).digest()
        if digest not in seen:
            seen.add(digest)
            sources[name] = content
    return sources


def _parse(sources: dict[str, bytes], step: Step) -> int:
    """Step 2: count the functions and classes."""
    definitions = 0
    for number, (name, content) in enumerate(sources.items()):
        step.update(number, len(sources), name)
        try:
            tree = ast.parse(content, name)
        except SyntaxError:  # lib2to3 has files for older Pythons
            continue
        definitions += sum(
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            for node in ast.walk(tree)
        )
    return definitions


def _count_words(sources: dict[str, bytes], step: Step) -> dict[str, Counter[str]]:
    """Step 3: count the names in each file."""
    words: dict[str, Counter[str]] = {}
    for number, (name, content) in enumerate(sources.items()):
        step.update(number, len(sources), name)
        words[name] = Counter(_names(content))
    return words


def _names(content: bytes) -> Iterator[str]:
    try:
        for token in tokenize.tokenize(BytesIO(content).readline):
            if token.type == tokenize.NAME:
                yield token.string
    except (tokenize.TokenError, SyntaxError):  # as above: keep the names so far
        return


@contextmanager
def _new_index() -> Iterator[sqlite3.Connection]:
    with (
        tempfile.TemporaryDirectory(prefix="headway-index-") as folder,
        closing(sqlite3.connect(Path(folder, "i.sqlite3"))) as index,
    ):
        yield index


def _write(index: sqlite3.Connection, words: dict[str, Counter[str]], step: Step) -> int:
    """Step 4: write one row for each word of each file."""
    index.execute(
        "CREATE TABLE posting "
        "(word TEXT, file TEXT, times INTEGER, PRIMARY KEY (word, file)) WITHOUT ROWID"
    )
    rows = 0
    for number, (name, counts) in enumerate(words.items()):
        step.update(number, len(words), name)
        with index:
            index.executemany(
                "INSERT INTO posting VALUES (?, ?, ?)",
                ((word, name, times) for word, times in counts.items()),
            )
        rows += len(counts)
    return rows


def _check(index: sqlite3.Connection, words: dict[str, Counter[str]], step: Step) -> int:
    """Step 5: compare the index with the counts. Returns the number of different words."""
    for number, (name, counts) in enumerate(words.items()):
        step.update(number, len(words), name)
        word, times = counts.most_common(1)[0] if counts else ("", None)
        row = index.execute(
            "SELECT times FROM posting WHERE word = ? AND file = ?", (word, name)
        ).fetchone()
        if row != (times and (times,)):
            raise AssertionError(
                f"The index has {row} for {word!r} in {name}, but {times} were counted"
            )
    return int(index.execute("SELECT count(DISTINCT word) FROM posting").fetchone()[0])


def _most(words: dict[str, Counter[str]]) -> dict[str, int]:
    return dict(sum(words.values(), Counter[str]()).most_common(5))
