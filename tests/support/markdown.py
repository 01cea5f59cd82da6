"""The code blocks of a Markdown page, with their positions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    #: The first word of the info string, such as ``python``. Empty without one.
    language: str
    #: The rest of the info string, such as ``no-run: needs two machines``.
    info: str
    #: The nearest heading above it.
    heading: str
    #: The line number of the first line of code. Starts at 1.
    line: int
    code: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    heading, fence, info, start = "", "", "", 0
    code: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        marker = re.match(r"(`{3,}|~{3,})(.*)", line)
        if fence:
            if marker and marker[1].startswith(fence) and not marker[2].strip():
                language, _, rest = info.strip().partition(" ")
                yield Block(language, rest.strip(), heading, start, "\n".join(code) + "\n")
                fence, code = "", []
            else:
                code.append(line)
        elif marker:
            fence, info, start = marker[1], marker[2], number + 1
        elif title := re.match(r"#{1,6}\s+(.*)", line):
            heading = title[1].strip()
    assert not fence, f"{page}: the block from line {start} isn't closed"
