"""`make` calls tools/venv.py first: it creates .venv once, and reports problems in one line."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.support.processes import ROOT

SCRIPT = ROOT / "tools" / "venv.py"


@pytest.fixture
def calls() -> list[list[str]]:
    """The commands of the script."""
    return []


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[list[str]]) -> ModuleType:
    """The script in an empty folder. Its commands are recorded and not run."""
    spec = importlib.util.spec_from_file_location("headway_venv", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("x==1\n")
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["builder>=3"]\n')
    python = tmp_path / ".venv" / "bin" / "python"

    def run(argv: list[str], **_: Any) -> SimpleNamespace:
        calls.append(argv)
        if "venv" in argv:
            python.parent.mkdir(parents=True)
            python.touch()
        return SimpleNamespace(returncode=0 if python.exists() else 1)

    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "PYTHON", python)
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL))
    monkeypatch.delenv("HEADWAY", raising=False)
    return module


def installs(calls: list[list[str]]) -> list[list[str]]:
    return [call for call in calls if "pip" in call]


def test_first_call_creates_and_installs(
    venv: ModuleType, calls: list[list[str]], tmp_path: Path
) -> None:
    """It installs the pinned lists and the build requirements, then the checkout."""
    venv.main("dev")
    pinned, itself = installs(calls)
    assert "builder>=3" in pinned
    assert pinned[-4:] == [
        "-r",
        str(tmp_path / "requirements.txt"),
        "-r",
        str(tmp_path / "requirements-dev.txt"),
    ]
    assert itself[-2:] == ["--editable", str(tmp_path)]
    assert {"--no-deps", "--no-build-isolation"} <= set(itself)


def test_second_call_does_nothing(venv: ModuleType, calls: list[list[str]]) -> None:
    """Nothing is installed again. The list for tests includes the one for the service."""
    venv.main("dev")
    calls.clear()
    venv.main("dev")
    venv.main("service")
    assert installs(calls) == []


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "pyproject.toml"])
def test_changed_list_is_installed_again(
    venv: ModuleType, calls: list[list[str]], tmp_path: Path, name: str
) -> None:
    """Each file with requirements is compared."""
    venv.main("dev")
    calls.clear()
    with (tmp_path / name).open("a") as file:
        file.write("# more\n")
    venv.main("dev")
    assert len(installs(calls)) == 2


def test_wheel_replaces_checkout(
    venv: ModuleType, calls: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HEADWAY names a wheel to install, and without it the checkout is installed again."""
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"1")
    venv.main("dev")
    monkeypatch.setenv("HEADWAY", str(wheel))
    venv.main("dev")
    assert calls[-1][-1] == str(wheel)
    monkeypatch.delenv("HEADWAY")
    venv.main("dev")
    assert calls[-1][-2:] == ["--editable", str(tmp_path)]


def test_failed_install_is_repeated(
    venv: ModuleType,
    calls: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A failed install prints a message and leaves no stamp."""
    venv.create()
    run = venv.subprocess.run

    def fails(argv: list[str], **options: Any) -> SimpleNamespace:
        run(argv, **options)
        return SimpleNamespace(returncode=1 if "pip" in argv else 0)

    monkeypatch.setattr(venv.subprocess, "run", fails)
    with pytest.raises(SystemExit, match="1"):
        venv.main("service")
    assert "package index" in capsys.readouterr().err
    monkeypatch.setattr(venv.subprocess, "run", run)
    calls.clear()
    venv.main("service")
    assert len(installs(calls)) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda patch, venv: patch.setattr(sys, "version_info", (3, 9, 1)),
            "Headway needs Python 3.11 or newer",
        ),
        (
            lambda patch, venv: patch.setattr(importlib.util, "find_spec", lambda name: None),
            "apt install python3-venv",
        ),
    ],
    ids=["old", "no ensurepip"],
)
def test_unusable_python_is_reported(
    *,
    venv: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[pytest.MonkeyPatch, ModuleType], None],
    message: str,
) -> None:
    """An old Python, or one without ensurepip, prints one line and no traceback."""
    with monkeypatch.context() as patch:
        spoil(patch, venv)
        with pytest.raises(SystemExit, match="1"):
            venv.main("service")
    output = capsys.readouterr().err.strip()
    assert message in output
    assert len(output.splitlines()) == 1


def test_script_parses_under_python_36() -> None:
    """An old Python must be able to print the message."""
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))
