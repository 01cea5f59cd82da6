"""Generate docs/reference.md from the docstrings of the public API. ``make reference`` calls it.

``--check`` only compares, and exits with 1 if the page is out of date (tests/test_docs.py).
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"

#: The public API: heading -> names, as ``module:name`` or ``module:Class.member``.
SECTIONS: dict[str, tuple[str, ...]] = {
    "In the Celery app": (
        "headway:install",
        "headway:ProgressTask",
        "headway:owned_by",
        "headway:cancel",
    ),
    "In a task": (
        "headway:RequestContext",
        "headway.worker.reporter:Reporter.update",
        "headway.worker.reporter:Reporter.track",
        "headway.worker.reporter:Reporter.step",
        "headway.worker.reporter:Reporter.previous",
        "headway:Step",
        "headway:TaskCancelled",
        "headway:ProgressTimeout",
        "headway.tqdm:patch_all",
    ),
    "In your tests": (
        "headway.testing:recording_context",
        "headway.testing:Recorded",
        "headway.testing:MemoryStore",
        "headway.testing:MemoryFeed",
    ),
    "In the Flask app": (
        "headway.server:Headway",
        "headway.server:Action",
        "headway.server:Identity",
    ),
    "Settings": ("headway.server.settings:Settings",),
    "From Python, over HTTP": ("headway:Client",),
    "What `Client.watch` yields": (
        "headway.client:StatusChanged",
        "headway.client:Started",
        "headway.client:ProgressReported",
        "headway.client:Completed",
        "headway.client:Failed",
        "headway.client:Cancelled",
        "headway.client:Interrupted",
    ),
    "Records": (
        "headway:Execution",
        "headway:Progress",
        "headway:Report",
        "headway:History",
        "headway:Failure",
        "headway:Status",
        "headway:Phase",
    ),
    "Reading what others wrote": ("headway:progress_from_meta",),
}

#: How users write a class, if not by its name.
DISPLAY_NAMES = {"Reporter": "ctx.progress"}
#: Classes that users instantiate. The constructors of the others are not documented.
CONSTRUCTED = ("Headway", "Client")
#: The documented members of classes that also have public members for Celery or for this package.
MEMBERS: dict[str, tuple[str, ...]] = {
    "ProgressTask": (),
    "Headway": ("init_app", "get_execution"),
    "MemoryStore": ("put_result",),
    "MemoryFeed": ("publish", "disconnect", "reconnect"),
}


def main() -> int:
    """Write the page, or with ``--check`` compare it."""
    page = "\n".join(lines()).rstrip() + "\n"
    if "--check" not in sys.argv:
        PAGE.write_text(page)
        return 0
    if PAGE.exists() and PAGE.read_text() == page:
        return 0
    sys.stderr.write("docs/reference.md is out of date: run make reference\n")
    return 1


def lines() -> Iterator[str]:
    """The lines of the page."""
    yield "# Reference"
    yield ""
    yield (
        "Generated from the code by `make reference`. "
        "`/openapi.json` and [contract.md](contract.md) describe HTTP and WebSocket."
    )
    for heading, names in SECTIONS.items():
        yield from ("", f"## {heading}")
        for name in names:
            yield from ("", *section(name))
    yield from ("", "## Errors", "", *docstring(import_module("headway.errors")))


def section(name: str) -> Iterator[str]:
    """One public object: its signature, its docstring and its members."""
    module_name, _, path = name.partition(":")
    module = import_module(module_name)
    first, *rest = path.split(".")
    thing: Any = getattr(module, first)  # some modules import it on first access
    for part in rest:
        thing = inspect.getattr_static(thing, part)
    holder, _, last = path.rpartition(".")
    shown = f"{DISPLAY_NAMES.get(holder, holder)}.{last}" if holder else f"{module_name}.{path}"
    yield f"### `{shown}{signature(thing)}`"
    yield from ("", *docstring(thing))
    if not inspect.isclass(thing):
        return
    if is_dataclass(thing) or issubclass(thing, Enum):
        yield from ("", *table(thing))
    else:
        documented = MEMBERS.get(thing.__name__)
        for key, member in vars(thing).items():
            if documented is not None and key not in documented:
                continue
            if not key.startswith("_") and (
                inspect.isfunction(member)
                or isinstance(member, property | classmethod | staticmethod)
            ):
                yield from ("", f"**`{key}{signature(member)}`**", "", *docstring(member))


def signature(thing: Any) -> str:
    """The parameters without ``self`` and without quotes in annotations. Empty if not callable."""
    if isinstance(thing, property) or (
        inspect.isclass(thing) and thing.__name__ not in CONSTRUCTED
    ):
        return ""
    function = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
    full = inspect.signature(function)
    kept = [each for each in full.parameters.values() if each.name not in ("self", "cls")]
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(full.replace(parameters=kept)))
    return re.sub(r"<function .*? at 0x\w+>|<object object at 0x\w+>", "...", text)


def docstring(thing: Any) -> Iterator[str]:
    """The docstring as Markdown: double backticks become single ones, and ``::`` a colon."""
    text = inspect.getdoc(thing)
    if not text:
        raise SystemExit(f"{thing!r} is public and has no docstring")
    text = text.replace("``", "`")
    text = re.sub(r"^::\n", "", text, flags=re.M)
    yield from re.sub(r"::$", ":", text, flags=re.M).splitlines()


def table(thing: type) -> Iterator[str]:
    """The fields of a dataclass or enum, each with its ``#:`` comment."""
    meanings = comments(thing)
    if issubclass(thing, Enum) and not any(meanings.values()):
        yield "`" + "`, `".join(member.value for member in thing) + "`"
        return
    if issubclass(thing, Enum):
        yield from ("| value | meaning |", "|---|---|")
        yield from (f"| `{member.value}` | {meanings.get(member.name, '')} |" for member in thing)
        return
    yield from ("| field | type | default | meaning |", "|---|---|---|---|")
    for each in fields(thing):
        missing = type(each.default).__name__ == "_MISSING_TYPE"
        default = "" if missing else f"`{each.default!r}`"
        kind = str(each.type).replace("|", "\\|")
        yield f"| `{each.name}` | `{kind}` | {default} | {meanings.get(each.name, '')} |"


def comments(thing: type) -> dict[str, str]:
    """The ``#:`` comment above each field of a class."""
    source = textwrap.dedent(inspect.getsource(thing))
    code = source.splitlines()
    found: dict[str, str] = {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    for node in body.body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if not isinstance(target, ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 2
        while line >= 0 and code[line].strip().startswith("#:"):
            above.insert(0, code[line].strip().removeprefix("#:").strip())
            line -= 1
        found[target.id] = " ".join(above).replace("``", "`").replace("|", "\\|")
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
