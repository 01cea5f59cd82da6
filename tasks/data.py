"""Where jobs may read: one folder for uploads, and the standard library of the running Python."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

#: Folders below the standard library that aren't part of it.
_FOREIGN = frozenset({"site-packages", "dist-packages", "__pycache__"})
#: The standard library's tests, which are not always installed.
_TESTS = frozenset({"test", "tests", "idlelib"})


class OutsideDataError(ValueError):
    """A path that is not below ``HEADWAY_DATA``, after following symbolic links."""


def data_folder() -> Path:
    """``HEADWAY_DATA`` (default: ``.headway/data`` in the working directory). Created if missing,
    for this user only.
    """
    folder = Path(os.environ.get("HEADWAY_DATA") or ".headway/data")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.resolve()


def inside(path: str) -> Path:
    """Resolve a caller's path, which is absolute or relative to ``HEADWAY_DATA``.

    Raises ``OutsideDataError`` if it is outside, also through a symbolic link, and
    ``FileNotFoundError`` if it doesn't exist. The first check comes first, so that an error doesn't
    reveal which files exist outside.
    """
    folder = data_folder()
    resolved = (folder / path).resolve()
    if not resolved.is_relative_to(folder):
        raise OutsideDataError(f"{path!r} is not below the service's data folder (HEADWAY_DATA)")
    if not resolved.exists():
        raise FileNotFoundError(f"{path!r} does not exist in the service's data folder")
    return resolved


def files_below(folder: Path) -> Iterator[Path]:
    """All regular files in a fixed order. Skips symbolic links, which may lead elsewhere."""
    foreign = _FOREIGN if folder == standard_library() else frozenset[str]()
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - foreign)
        for name in sorted(names):
            file = Path(parent, name)
            if file.is_file() and not file.is_symlink():
                yield file


def standard_library() -> Path:
    """The folder of the standard library."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def python_sources() -> list[Path]:
    """The files of the standard library in a fixed order, without its tests."""
    found = []
    for parent, folders, names in os.walk(standard_library()):
        folders[:] = sorted(set(folders) - _FOREIGN - _TESTS)
        found += [Path(parent, name) for name in sorted(names) if name.endswith(".py")]
    return found
