"""An unknown total: ``update(done, 0)``. The bar moves and shows a count, but no percentage."""

from __future__ import annotations

import ast
import dis
import hashlib
import importlib.util
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from celery import shared_task

import headway
from tasks.data import standard_library

#: The modules to start with. They lead to most of the library.
ROOTS = (
    "asyncio",
    "concurrent.futures",
    "email",
    "http.server",
    "logging.config",
    "pydoc",
    "sqlite3",
    "tkinter",
    "unittest",
    "xmlrpc.client",
)


@shared_task(name="tasks.unknown_length")
def unknown_length(roots: list[str] | None = None, limit: int = 1000) -> dict[str, Any]:
    """Follow the imports of some modules through the standard library, count their bytecode, and
    find duplicate functions.

    The number of modules is known only at the end; ``limit`` bounds it. Returns the numbers of
    modules, functions and instructions, the most frequent instructions, and the number of functions
    that repeat an earlier one (``twins``).
    """
    progress = headway.RequestContext.get().progress
    waiting = deque(roots or ROOTS)
    seen = set(waiting)
    opcodes: Counter[str] = Counter()
    bodies: set[bytes] = set()
    modules = functions = twins = 0
    while waiting and modules < limit:
        name = waiting.popleft()
        progress.update(
            modules, 0, name, {"waiting": str(len(waiting)), "instructions": f"{opcodes.total():,}"}
        )
        file = _source(name)
        if file is None:
            continue
        tree = ast.parse(file.read_bytes(), file.name)
        for code in _codes(compile(tree, file.name, "exec")):
            opcodes.update(instruction.opname for instruction in dis.get_instructions(code))
        for body in _functions(tree):
            functions += 1
            twins += body in bodies
            bodies.add(body)
        modules += 1
        found = [other for other in _imports(tree, name, file) if other not in seen]
        seen.update(found)
        waiting.extend(dict.fromkeys(found))
    progress.update(
        modules,
        0,
        "Nothing left to follow",
        {"waiting": str(len(waiting)), "instructions": f"{opcodes.total():,}"},
    )
    return {
        "modules": modules,
        "functions": functions,
        "instructions": opcodes.total(),
        "most_frequent": dict(opcodes.most_common(5)),
        "twins": twins,
    }


def _source(name: str) -> Path | None:
    """A module's file. None if it is built in, written in C, or no module but a name in one."""
    base = standard_library().joinpath(*name.split("."))
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _functions(tree: ast.Module) -> Iterator[bytes]:
    """A fingerprint of each function, without its layout and comments."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield hashlib.sha256(ast.dump(node).encode("utf-8", "surrogatepass")).digest()


def _imports(tree: ast.Module, name: str, file: Path) -> Iterator[str]:
    """The full names of a module's imports. ``from a import b`` may mean the module ``a.b``, so it
    yields both.
    """
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # more dots than packages
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
