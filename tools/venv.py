"""Create and update .venv. `make` calls this first.

    python3 tools/venv.py service    what the service needs: requirements.txt
    python3 tools/venv.py dev        also tests and lint: requirements-dev.txt
    python3 tools/venv.py bench      also the benchmarks' baselines: requirements-bench.txt
    python3 tools/venv.py docs       also the generator of the docs site: requirements-docs.txt
    python3 tools/venv.py faults     like dev, and an older Celery in its own folder:
                                     requirements-celery56.txt

Two kinds have another folder than .venv, because they replace packages of it:

    python3 tools/venv.py lowest     .venv-lowest: like dev, with the lowest supported versions:
                                     requirements-lowest.txt
    python3 tools/venv.py newest     .venv-3.13 (for Python 3.13): like dev, for another Python

A stamp file remembers what is installed, so the second call is instant and needs no network. Two
calls at the same time wait for each other. HEADWAY=dist/x.whl installs that wheel instead of the
checkout.

Runs on any Python 3, so that an old one prints a message and not a SyntaxError. Uses only the
standard library.
"""

# ruff: noqa: S603 - no command contains user input

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
#: Kinds with another folder than .venv.
FOLDERS = {"lowest": ".venv-lowest", "newest": ".venv-{}.{}".format(*sys.version_info)}
VENV = ROOT / FOLDERS.get(sys.argv[-1], ".venv")
PYTHON = VENV / "bin" / "python"
LISTS = {
    "service": ["requirements.txt"],
    "dev": ["requirements.txt", "requirements-dev.txt"],
    "bench": ["requirements.txt", "requirements-dev.txt", "requirements-bench.txt"],
    "docs": ["requirements.txt", "requirements-dev.txt", "requirements-docs.txt"],
    "faults": ["requirements.txt", "requirements-dev.txt", "requirements-celery56.txt"],
    "lowest": ["requirements.txt", "requirements-dev.txt", "requirements-lowest.txt"],
    "newest": ["requirements.txt", "requirements-dev.txt"],
}
#: Lists that are installed into a folder of .venv. Tests put the folder on PYTHONPATH, and share
#: all other packages.
OVERLAYS = {"requirements-celery56.txt": "celery-5.6"}
#: Installed after the other lists, because it contradicts their pins.
LOWEST = "requirements-lowest.txt"


def main(kind):
    """Install what ``kind`` needs into .venv."""
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:3]))
        stop(
            f"Headway needs Python 3.11 or newer, and {sys.executable} is {version}. "
            "Choose a newer one: make PYTHON=python3.12 ..."
        )
    with one_at_a_time():
        if works(PYTHON):
            if is_current(kind):
                return
        else:
            create()
        install(kind)


def create():
    """Create a new virtual environment, or replace a broken one."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        stop(
            f"This Python has no {' and '.join(missing)}. "
            "On Debian and Ubuntu: apt install python3-venv"
        )
    say(f"creating {VENV.name}")
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
    if result.returncode:
        stop(
            f"Python could not create {VENV.name} (see above). "
            "On Debian and Ubuntu: apt install python3-venv"
        )


def install(kind):
    """Install all pinned packages, then Headway itself."""
    say("installing dependencies (only this first call needs the network)")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lists = [
        word
        for name in LISTS[kind]
        if name not in OVERLAYS and name != LOWEST
        for word in ("-r", str(ROOT / name))
    ]
    wheel = os.environ.get("HEADWAY")
    # With the build requirements installed, the editable install needs no network.
    steps = [[*pip, *build_requirements(), *lists]]
    if LOWEST in LISTS[kind]:
        steps.append([*pip, "-r", str(ROOT / LOWEST)])
    if wheel:
        steps.append([*pip, "--no-deps", "--force-reinstall", str(Path(wheel).resolve())])
    else:
        steps.append([*pip, "--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    for name in [name for name in LISTS[kind] if name in OVERLAYS]:
        steps.append(
            [
                *pip,
                "--no-deps",
                "--upgrade",
                "--target",
                str(VENV / OVERLAYS[name]),
                "-r",
                str(ROOT / name),
            ]
        )
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            stop("pip could not install everything (see above). Is the package index reachable?")
    for name, contained in LISTS.items():
        if set(contained) <= set(LISTS[kind]):
            stamp(name).write_text(fingerprint(name))


def build_requirements():
    """`build-system.requires` of pyproject.toml."""
    import tomllib  # noqa: PLC0415 - not in old Pythons, which don't get here

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


def fingerprint(kind):
    """A fingerprint of what `install` does: the lists, pyproject.toml, the folder, the wheel."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in [*LISTS[kind], "pyproject.toml"]:
        digest.update((ROOT / name).read_bytes())
    wheel = os.environ.get("HEADWAY")
    if wheel:
        digest.update(Path(wheel).read_bytes())
    return digest.hexdigest()


def stamp(kind):
    """The file with the fingerprint of what is installed."""
    return VENV / f".headway-{kind}"


def is_current(kind):
    """Whether the installed packages are up to date."""
    return stamp(kind).is_file() and stamp(kind).read_text() == fingerprint(kind)


def works(python):
    """Whether the environment's Python runs and is new enough. The folder may have been moved, or
    its base Python removed.
    """
    check = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
    try:
        return (
            subprocess.run(
                [str(python), "-c", check], check=False, stderr=subprocess.DEVNULL
            ).returncode
            == 0
        )
    except OSError:
        return False


@contextlib.contextmanager
def one_at_a_time():
    """Hold a lock on this folder. The system releases it with the process, and no file remains."""
    import fcntl  # noqa: PLC0415 - not on Windows

    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another call that updates .venv")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def say(text):
    """Print a message."""
    print(f"headway: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a command prints


def stop(text):
    """Print a message and exit with 1."""
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in LISTS:
        stop("usage: tools/venv.py " + "|".join(LISTS))
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        stop("interrupted; run it again to continue")
