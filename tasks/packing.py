"""``track``: a loop over a list, with one call around the iterable. This job fails half way, as an
example.
"""

from __future__ import annotations

import hashlib
import lzma
from typing import Any

from celery import shared_task

import headway
from tasks.data import python_sources

#: Modules to pack. An even number, so that half of it is a whole one.
FILES = 300


class DamagedArchiveError(Exception):
    """The unpacked content differs from the packed one."""


@shared_task(name="tasks.fails_half_way")
def fails_half_way(files: int = FILES) -> dict[str, Any]:
    """Pack modules of the standard library and check each archive. The middle one is damaged.

    Raises ``DamagedArchiveError`` after half of the archives. The bar must stay at 50 %.
    """
    sources = python_sources()[: max(2, files // 2 * 2)]
    damaged = sources[len(sources) // 2]
    packed = 0
    for source in headway.RequestContext.get().progress.track(
        sources, message="Packing the standard library"
    ):
        content = source.read_bytes()
        archive = bytearray(lzma.compress(content, preset=9))
        if source == damaged:
            archive[len(archive) // 2] ^= 0xFF
        _check(source.name, bytes(archive), hashlib.sha256(content).digest())
        packed += len(archive)
    return {"files": len(sources), "bytes": packed}


def _check(name: str, archive: bytes, digest: bytes) -> None:
    try:
        same = hashlib.sha256(lzma.decompress(archive)).digest() == digest
    except lzma.LZMAError as exc:
        raise DamagedArchiveError(f"The archive of {name} is damaged: {exc}") from exc
    if not same:
        raise DamagedArchiveError(f"The archive of {name} has other content")
