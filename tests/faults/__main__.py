"""Run the fault matrix and print its results.

    python -m tests.faults [scenario ...] [--celery 5.6.3,5.7.0] [--scale 1.0] [--at-once 3]
    python -m tests.faults --list

The exit status is 1 if any shown state was wrong, or if a scenario did not finish.
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

from tests.faults.environment import DELIVERY_TIMEOUT, Environment
from tests.faults.report import Result, format_result, format_table
from tests.faults.scenarios import SCENARIOS, TIME_LIMIT
from tests.support.processes import ROOT, running_now, tied_to_parent

MODULES = ("kills", "limits", "revokes", "cancels", "repeats", "outages", "ends")

#: Older version of Celery -> the folder that comes before the installed packages on the path.
#: ``make faults`` fills it.
OLDER = {"5.6.3": ROOT / ".venv" / "celery-5.6"}


def main() -> int:
    """Parse the command line, and run what it names."""
    for module in MODULES:
        importlib.import_module(f"tests.faults.{module}")
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("scenarios", nargs="*", help="the scenarios to run (default: all)")
    parser.add_argument(
        "--celery",
        default=",".join([*OLDER, celery.__version__]),
        help="versions of Celery, separated by commas",
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for the number of executions"
    )
    parser.add_argument(
        "--at-once", type=int, default=3, help="the number of scenarios that run at the same time"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument(
        "--here",
        action="store_true",
        help="run one scenario in this process and print its verdict as JSON",
    )
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; --list shows all")
    names = options.scenarios or list(SCENARIOS)
    if options.list:
        print("\n".join(f"{name:32} {SCENARIOS[name].description}" for name in names))
        return 0
    if options.here:
        return run_here(names[0], options.scale)
    return run_matrix(names, options.celery.split(","), options.scale, options.at_once)


def run_here(name: str, scale: float) -> int:
    """Run one scenario in this process."""
    scenario, error = SCENARIOS[name], None
    # Exit cleanly at the time limit, so that the environment stops its processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    faulthandler.dump_traceback_later(TIME_LIMIT - 5)
    with Environment(scenario.settings, scale=scale) as environment:
        try:
            scenario.run(environment)
        except Exception:
            logs = [
                f"--- the end of the log of {each.name} ---\n{each.log()[-3000:]}"
                for each in list(running_now)
            ]
            error = "\n".join([traceback.format_exc(), *logs])
        verdict = environment.judge(within=DELIVERY_TIMEOUT if error is None else 0.0)
    print(json.dumps({"celery": celery.__version__, "error": error, **asdict(verdict)}))
    return 0


def run_matrix(names: list[str], versions: list[str], scale: float, at_once: int) -> int:
    """Run all scenarios on all versions, ``at_once`` at a time, each in its own process."""
    started = time.monotonic()
    results: dict[tuple[str, str], Result] = {}
    with ThreadPoolExecutor(at_once) as pool:
        futures = {
            pool.submit(run, name, version, scale): (name, version)
            for name in names
            for version in versions
        }
        for future in as_completed(futures):
            name, version = futures[future]
            results[name, version] = result = future.result()
            print(format_result(name, version, result), file=sys.stderr, flush=True)
    described = [(name, SCENARIOS[name].description) for name in names]
    print(format_table(described, versions, results, time.monotonic() - started))
    return 0 if all(result.passed for result in results.values()) else 1


def run(name: str, version: str, scale: float) -> Result:
    """Run one scenario on one version, in a process that is stopped at the time limit."""
    env = dict(os.environ, PYTHONUNBUFFERED="1")
    overlay = OLDER.get(version)
    if overlay is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(overlay), *filter(None, [env.get("PYTHONPATH")])])
    argv = [sys.executable, "-m", "tests.faults", "--here", "--scale", str(scale), name]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headway-faults-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                tied_to_parent(argv), cwd=ROOT, env=env, stdout=stdout, stderr=stderr
            )
            try:
                process.wait(TIME_LIMIT)
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
        seconds = time.monotonic() - started
        try:
            verdict = json.loads(out.read_text().splitlines()[-1])
        except (IndexError, ValueError):
            error = f"ended with {process.returncode}\n{err.read_text()[-4000:]}"
            verdict = {"celery": version, "executions": 0, "wrong": {}, "error": error}
    if verdict["celery"] != version:
        verdict["error"] = f"ran on Celery {verdict['celery']}: `make faults` installs {version}"
    return Result(verdict["executions"], verdict["wrong"], verdict["error"], seconds)


if __name__ == "__main__":
    sys.exit(main())
