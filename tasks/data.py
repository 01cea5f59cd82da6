"""Where jobs may read: below one folder for what people bring, and the running Python's own library
for what everybody has.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: Folders below the standard library's that aren't it.
_FOREIGN = frozenset({"site-packages", "dist-packages", "__pycache__"})
#: Its tests, which not every installation has.
_TESTS = frozenset({"test", "tests", "idlelib"})


class OutsideDataError(ValueError):
    """A path that doesn't lie below ``HEADWAY_DATA``, symbolic links followed."""


def data_folder() -> Path:
    """``HEADWAY_DATA`` (default ``.headway/data`` below the working directory), made for this user
    alone if it isn't there.
    """
    folder = Path(os.environ.get("HEADWAY_DATA") or ".headway/data")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.resolve()


def inside(path: str) -> Path:
    """The real place of a path that a caller gave, relative to ``HEADWAY_DATA`` or absolute.

    Raises ``OutsideDataError`` where it lies elsewhere (also through a symbolic link),
    ``FileNotFoundError`` where nothing is there. Outside is looked at first: an answer must not
    tell which files exist elsewhere.
    """
    folder = data_folder()
    place = (folder / path).resolve()
    if not place.is_relative_to(folder):
        raise OutsideDataError(
            f"{path!r} doesn't lie below the service's data folder (HEADWAY_DATA)"
        )
    if not place.exists():
        raise FileNotFoundError(f"There is no {path!r} in the service's data folder")
    return place


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file, in a fixed order. Symbolic links are left out, so that none leads out of
    the folder.
    """
    foreign = _FOREIGN if folder == standard_library() else frozenset[str]()
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - foreign)
        for name in sorted(names):
            file = Path(here, name)
            if file.is_file() and not file.is_symlink():
                yield file


def standard_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def python_sources() -> list[Path]:
    """The standard library's modules, in a fixed order, without its tests."""
    found = []
    for here, folders, names in os.walk(standard_library()):
        folders[:] = sorted(set(folders) - _FOREIGN - _TESTS)
        found += [Path(here, name) for name in sorted(names) if name.endswith(".py")]
    return found
