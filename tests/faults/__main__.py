"""Run the fault matrix and print it.

    python -m tests.faults [row ...] [--celery 5.6.3,5.7.0] [--scale 1.0] [--at-once 3] [--list]

Exit status 1 if anything that was shown was wrong, or a row could not be run to its end.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import celery

from tests.faults import report
from tests.faults.environment import Room
from tests.faults.scenarios import LIMIT, ROWS
from tests.support.processes import ROOT, running_now, tied_to_parent

MODULES = ("kills", "limits", "revokes", "cancels", "repeats", "outages", "ends")

#: Version -> the folder that stands before the environment's own packages, None for those
#: themselves. ``make faults`` fills it.
OLDER = {"5.6.3": ROOT / ".venv" / "celery-5.6"}


def main() -> int:
    """The command."""
    for module in MODULES:
        importlib.import_module(f"tests.faults.{module}")
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("rows", nargs="*", help="rows to run; all of them unless named")
    parser.add_argument(
        "--celery", default=",".join([*OLDER, celery.__version__]), help="versions, comma between"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="how often, relative to the whole matrix"
    )
    parser.add_argument("--at-once", type=int, default=3, help="rows that run at the same time")
    parser.add_argument("--list", action="store_true", help="the rows, and what each proves")
    parser.add_argument(
        "--play",
        action="store_true",
        help="run one row here, and write what came of it to standard output",
    )
    options = parser.parse_args()
    unknown = set(options.rows) - set(ROWS)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; --list names them")
    rows = options.rows or list(ROWS)
    if options.list:
        print("\n".join(f"{name:32} {ROWS[name].sentence}" for name in rows))
        return 0
    if options.play:
        return play(rows[0], options.scale)
    return matrix(rows, options.celery.split(","), options.scale, options.at_once)


def play(name: str, scale: float) -> int:
    """One row, in this process."""
    row, error = ROWS[name], None
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(1)
    )  # so that nothing of the room is left behind
    faulthandler.dump_traceback_later(LIMIT - 5)  # where it stands, if it is about to be stopped
    with Room(row.settings, scale=scale) as room:
        try:
            row.play(room)
        except Exception:
            logs = [
                f"--- the end of the log of {each.name} ---\n{each.log()[-3000:]}"
                for each in list(running_now)
            ]
            error = "\n".join([traceback.format_exc(), *logs])
        judged = room.judge(patience=20.0 if error is None else 0.0)
    print(json.dumps({"celery": celery.__version__, "error": error, **asdict(judged)}))
    return 0


def matrix(rows: list[str], versions: list[str], scale: float, at_once: int) -> int:
    """All rows on all versions, some at once, each in a process of its own."""
    began = time.monotonic()
    results: dict[tuple[str, str], report.Result] = {}
    with ThreadPoolExecutor(at_once) as pool:
        jobs = {
            pool.submit(run, name, version, scale): (name, version)
            for name in rows
            for version in versions
        }
        for job in as_completed(jobs):
            name, version = jobs[job]
            results[name, version] = result = job.result()
            print(report.line(name, version, result), file=sys.stderr, flush=True)
    print(
        report.whole(
            [(name, ROWS[name].sentence) for name in rows],
            versions,
            results,
            time.monotonic() - began,
        )
    )
    return 0 if all(result.right for result in results.values()) else 1


def run(name: str, version: str, scale: float) -> report.Result:
    """One row on one version, in a process of its own that is stopped where it takes too long."""
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    overlay = OLDER.get(version)
    if overlay is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(overlay), *filter(None, [env.get("PYTHONPATH")])])
    argv = [sys.executable, "-m", "tests.faults", "--play", "--scale", str(scale), name]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headway-faults-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                tied_to_parent(argv), cwd=ROOT, env=env, stdout=stdout, stderr=stderr
            )
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        seconds = time.monotonic() - began
        try:
            told = json.loads(out.read_text().splitlines()[-1])
        except (IndexError, ValueError):
            error = f"ended with {process.returncode}\n{err.read_text()[-4000:]}"
            told = {"celery": version, "runs": 0, "wrong": {}, "error": error}
    if told["celery"] != version:
        told["error"] = f"ran on Celery {told['celery']}: `make faults` installs {version}"
    return report.Result(told["runs"], told["wrong"], told["error"], seconds)


if __name__ == "__main__":
    sys.exit(main())
