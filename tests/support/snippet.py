"""Runs a piece of a document's Python in a process of its own, as its reader would.

    python -m tests.support.snippet FILE '{"exec_id": "..."}'

``await`` at the top level works, as it does in the notebook or the ``python -m asyncio`` that such
documents have in mind.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys
from pathlib import Path
from types import FunctionType


def main(path: str, names: str = "{}") -> None:
    """Run the file with these names defined."""
    code = compile(Path(path).read_text(), path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    scope = {"__name__": "__main__", "__builtins__": __builtins__, **json.loads(names)}
    # Not exec: code with a top-level await is a coroutine, which only a call of it as a function
    # hands out.
    result = FunctionType(code, scope)()
    if inspect.isawaitable(result):

        async def finish() -> None:
            await result

        asyncio.run(finish())


if __name__ == "__main__":
    main(*sys.argv[1:])
