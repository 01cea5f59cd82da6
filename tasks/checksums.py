"""Progress in bytes: ``update(bytes done, bytes in all)``, called as often as the loop turns.
Headway decides what is written.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from celery import shared_task

import headway
from tasks.data import files_below, inside, standard_library

CHUNK = 1 << 20
#: Seconds that a check of the standard library should give somebody to watch, on any machine.
WORTH_WATCHING = 12.0


@shared_task(name="tasks.checksum")
def checksum(path: str | None = None, passes: int | None = None) -> dict[str, Any]:
    """SHA-256 of every file below a folder, read ``passes`` times: a file, a disk or a memory that
    changes in between is found.

    ``path`` lies below ``HEADWAY_DATA``; none: the standard library, as often as fits about
    ``WORTH_WATCHING`` seconds. Returns the number of files and bytes, one digest over all, and the
    names of those that couldn't be read or weren't the same twice.
    """
    folder = standard_library() if path is None else inside(path)
    if not folder.is_dir():
        raise NotADirectoryError(f"{path!r} is a file: name the folder that it lies in")
    sizes = {file: file.stat().st_size for file in files_below(folder)}
    if passes is None:
        passes = _passes_worth_watching(sizes) if path is None else 1
    if passes < 1:
        raise ValueError("passes must be 1 or more")
    return _check(folder, sizes, passes)


def _check(folder: Path, sizes: dict[Path, int], passes: int) -> dict[str, Any]:
    progress = headway.RequestContext.get().progress
    total, done = sum(sizes.values()) * passes, 0
    digests: dict[str, str] = {}
    unreadable: set[str] = set()
    changed: set[str] = set()
    for turn in range(1, passes + 1):
        for number, (file, size) in enumerate(sizes.items(), start=1):
            name = file.relative_to(folder).as_posix()
            facts = {
                "pass": f"{turn} of {passes}",
                "files": f"{number} of {len(sizes)}",
                "changed": str(len(changed)),
            }
            digest = hashlib.sha256()
            try:
                for read in _read(file, digest):
                    progress.update(done + min(read, size), total, name, facts)
            except OSError:
                # gone or forbidden since it was listed: told in the result, and no reason to leave
                # the others unread
                unreadable.add(name)
            else:
                if digests.setdefault(name, digest.hexdigest()) != digest.hexdigest():
                    changed.add(name)
            done += size
    progress.update(
        total, total, "Done", {"files": str(len(digests)), "changed": str(len(changed))}
    )
    whole = hashlib.sha256(
        "".join(f"{digest}  {name}\n" for name, digest in digests.items()).encode(
            "utf-8", "surrogateescape"
        )
    )
    return {
        "files": len(digests),
        "bytes": sum(sizes.values()),
        "passes": passes,
        "sha256": whole.hexdigest(),
        "unreadable": sorted(unreadable)[:20],
        "changed": sorted(changed)[:20],
    }


def _read(file: Path, digest: hashlib._Hash) -> Iterator[int]:
    """Feed a file to the digest; yields how much of it was read so far."""
    read = 0
    # A link that was put in the file's place since it was listed isn't followed.
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as content:
        while part := content.read(CHUNK):
            digest.update(part)
            read += len(part)
            yield read


def _passes_worth_watching(sizes: dict[Path, int]) -> int:
    """How often a folder can be read in the time, from how fast the first part of it was."""
    begin, read = time.perf_counter(), 0
    for file, size in sizes.items():
        for _ in _read(file, hashlib.sha256()):
            pass
        read += size
        if time.perf_counter() - begin > 0.5:
            break
    speed = read / (time.perf_counter() - begin)
    return max(1, min(1000, math.ceil(WORTH_WATCHING * speed / max(1, sum(sizes.values())))))
