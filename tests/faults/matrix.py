"""Runs scenarios on versions of Celery, each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

# These modules declare the scenarios.
from tests.faults import cancels, ends, kills, limits, outages, repeats, revokes  # noqa: F401
from tests.faults.report import Result
from tests.faults.scenarios import SCENARIOS, TIME_LIMIT
from tests.support.processes import ROOT, tied_to_parent

__all__ = ["OLDER", "SCENARIOS", "TIME_LIMIT", "run_matrix"]

#: Older version of Celery -> the folder that comes before the installed packages on the path.
#: ``make faults`` fills it.
OLDER = {"5.6.3": ROOT / ".venv" / "celery-5.6"}


def run_matrix(
    names: list[str],
    versions: list[str],
    scale: float,
    at_once: int,
    on_result: Callable[[str, str, Result], object] = lambda name, version, result: None,
) -> dict[tuple[str, str], Result]:
    """Run all scenarios on all versions, ``at_once`` at a time. The key is (scenario, version)."""
    results: dict[tuple[str, str], Result] = {}
    with ThreadPoolExecutor(at_once) as pool:
        futures = {
            pool.submit(_run, name, version, scale): (name, version)
            for name in names
            for version in versions
        }
        for future in as_completed(futures):
            name, version = futures[future]
            results[name, version] = future.result()
            on_result(name, version, results[name, version])
    return results


def _run(name: str, version: str, scale: float) -> Result:
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
