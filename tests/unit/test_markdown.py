"""The reader of the code blocks of a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.markdown import Block, blocks

PAGE = """# Title

```python theme={null}
one
```

## Part
````text
```python
not this
```
````

```bash no-run: it takes all day
two

three
```
"""


def test_block_has_language_heading_and_line(tmp_path: Path) -> None:
    """Each block has its language, info string, heading, first line and text."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert list(blocks(page)) == [
        Block("python", "theme={null}", "Title", 4, "one\n"),
        Block("text", "", "Part", 9, "```python\nnot this\n```\n"),
        Block("bash", "no-run: it takes all day", "Part", 15, "two\n\nthree\n"),
    ]


def test_unclosed_block_is_an_error(tmp_path: Path) -> None:
    """A block without an end raises an error with the line where it starts."""
    page = tmp_path / "page.md"
    page.write_text("```python\nx\n")
    with pytest.raises(AssertionError, match="from line 2 isn't closed"):
        list(blocks(page))
