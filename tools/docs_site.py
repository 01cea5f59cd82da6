"""A hook of mkdocs: makes the code blocks of docs/ readable for its Markdown parser.

``tests/test_docs.py`` reads notes after the language of a block (``bash no-run: it installs``).
Forges ignore them, but mkdocs would not see a code block.
"""

from __future__ import annotations

import re

NOTE = re.compile(r"^(```\w+) .*$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Remove the notes from a page."""
    return NOTE.sub(r"\1", markdown)
