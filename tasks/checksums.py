"""Progress in bytes: ``update(bytes read, all bytes)`` in each turn of the loop.

Headway decides when to write.
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
#: Seconds that a check of the standard library should take on any machine, so that people can
#: watch it.
DEMO_SECONDS = 12.0


@shared_task(name="tasks.checksum")
def checksum(path: str | None = None, passes: int | None = None) -> dict[str, Any]:
    """SHA-256 of each file below a folder, read ``passes`` times to detect a file, disk or memory
    that changes.

    ``path`` is below ``HEADWAY_DATA``. None: the standard library, for about ``DEMO_SECONDS``.
    Returns the number of files and bytes, one digest of all files, and the names of files that
    couldn't be read or have changed.
    """
    folder = standard_library() if path is None else inside(path)
    if not folder.is_dir():
        raise NotADirectoryError(f"{path!r} is not a folder: name its parent folder")
    sizes = {file: file.stat().st_size for file in files_below(folder)}
    if passes is None:
        passes = _passes_for_demo(sizes) if path is None else 1
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
                # Removed or forbidden since the listing. The result names it; read the others.
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
    """Update the digest with a file. Yields the number of bytes read so far."""
    read = 0
    # Don't follow a link that has replaced the file since the listing.
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as content:
        while part := content.read(CHUNK):
            digest.update(part)
            read += len(part)
            yield read


def _passes_for_demo(sizes: dict[Path, int]) -> int:
    """How many passes fit into ``DEMO_SECONDS``, from the speed of the first files."""
    start, read = time.perf_counter(), 0
    for file, size in sizes.items():
        for _ in _read(file, hashlib.sha256()):
            pass
        read += size
        if time.perf_counter() - start > 0.5:
            break
    speed = read / (time.perf_counter() - start)
    return max(1, min(1000, math.ceil(DEMO_SECONDS * speed / max(1, sum(sizes.values())))))
