"""Run Python code from a document in a new process, as a reader would.

    python -m tests.support.snippet FILE '{"exec_id": "..."}'

``await`` works at the top level, as in a notebook or in ``python -m asyncio``.
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
    # Not exec: code with a top-level await becomes a coroutine, which only a function call returns.
    result = FunctionType(code, scope)()
    if inspect.isawaitable(result):

        async def finish() -> None:
            await result

        asyncio.run(finish())


if __name__ == "__main__":
    main(*sys.argv[1:])
