"""Make .venv and keep it right: what `make` calls before anything else.

    python3 tools/venv.py service    what the service runs on: requirements.txt
    python3 tools/venv.py dev        that, and what tests and lint need: requirements-dev.txt
    python3 tools/venv.py bench      that, and what benchmarks put beside Headway: requirements-bench.txt
    python3 tools/venv.py faults     that of dev, and an older Celery in a folder of its own: requirements-celery56.txt

The second call is instant and needs no network: a stamp remembers what was installed. Two calls at
once wait for each other. HEADWAY=dist/x.whl installs that wheel in place of the checkout.

Written for any Python 3, so that an old one gets a sentence and not a SyntaxError; standard library
only.
"""

# ruff: noqa: S603 - every command is made here, of nothing that anybody typed

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LISTS = {
    "service": ["requirements.txt"],
    "dev": ["requirements.txt", "requirements-dev.txt"],
    "bench": ["requirements.txt", "requirements-dev.txt", "requirements-bench.txt"],
    "faults": ["requirements.txt", "requirements-dev.txt", "requirements-celery56.txt"],
}
#: Lists that go into a folder of .venv, for whoever puts that on PYTHONPATH: all else stays the
#: same in one environment.
OVERLAYS = {"requirements-celery56.txt": "celery-5.6"}


def main(kind):
    """Bring .venv to what ``kind`` needs."""
    if sys.version_info < OLDEST:
        have = ".".join(map(str, sys.version_info[:3]))
        stop(
            f"Headway needs Python 3.11 or newer, and {sys.executable} is {have}. Name a newer one: make PYTHON=python3.12 ..."
        )
    with one_at_a_time():
        if works(PYTHON):
            if is_current(kind):
                return
        else:
            create()
        install(kind)


def create():
    """A fresh virtual environment in place of none or of a broken one."""
    lacking = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if lacking:
        stop(
            f"This Python comes without {' and '.join(lacking)}. On Debian and Ubuntu: apt install python3-venv"
        )
    say("making .venv")
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
    if result.returncode:
        stop(
            "Python could not make .venv (see above). On Debian and Ubuntu: apt install python3-venv"
        )


def install(kind):
    """Everything that is pinned, then Headway itself."""
    say("installing what it stands on (once; the network is needed for this alone)")
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    lists = [
        word for name in LISTS[kind] if name not in OVERLAYS for word in ("-r", str(ROOT / name))
    ]
    wheel = os.environ.get("HEADWAY")
    # The build's own needs are installed too, so that an editable install asks the network for
    # nothing more.
    steps = [[*pip, *build_needs(), *lists]]
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
            stamp(name).write_text(wanted(name))


def build_needs():
    """`build-system.requires` of pyproject.toml."""
    import tomllib  # noqa: PLC0415 - an old Python has none, and has been told so by now

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]


def wanted(kind):
    """A fingerprint of what `install` would do: the lists, the project's own file, the place, the
    wheel.
    """
    digest = hashlib.sha256(str(ROOT).encode())
    for name in [*LISTS[kind], "pyproject.toml"]:
        digest.update((ROOT / name).read_bytes())
    wheel = os.environ.get("HEADWAY")
    if wheel:
        digest.update(Path(wheel).read_bytes())
    return digest.hexdigest()


def stamp(kind):
    """Where the fingerprint of what is installed is kept."""
    return VENV / f".headway-{kind}"


def is_current(kind):
    """Whether what is installed is what is wanted."""
    return stamp(kind).is_file() and stamp(kind).read_text() == wanted(kind)


def works(python):
    """Whether the environment's Python runs (its folder may have moved, its base may be gone) and
    is new enough.
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
    """Hold a lock on this folder; it goes with its process, however that ends, and leaves no file."""
    import fcntl  # noqa: PLC0415 - Windows has none

    folder = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another call is making .venv; waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def say(text):
    """A word to whoever waits."""
    print(f"headway: {text}", file=sys.stderr, flush=True)  # noqa: T201 - it is a command


def stop(text):
    """End with a sentence."""
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in LISTS:
        stop("usage: tools/venv.py " + "|".join(LISTS))
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        stop("interrupted; the next call goes on from here")
