"""Reading the code blocks of a page."""

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


def test_blocks_are_found_with_where_they_stand(tmp_path: Path) -> None:
    """Each block has its language, the rest of its fence's line, the heading above it, its first
    line and its text.
    """
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert list(blocks(page)) == [
        Block("python", "theme={null}", "Title", 4, "one\n"),
        Block("text", "", "Part", 9, "```python\nnot this\n```\n"),
        Block("bash", "no-run: it takes all day", "Part", 15, "two\n\nthree\n"),
    ]


def test_a_block_that_is_not_closed_is_an_error(tmp_path: Path) -> None:
    """A fence without its end would swallow the page: the reader is told where it began."""
    page = tmp_path / "page.md"
    page.write_text("```python\nx\n")
    with pytest.raises(AssertionError, match="from line 2 isn't closed"):
        list(blocks(page))
