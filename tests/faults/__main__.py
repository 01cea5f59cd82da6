"""Run the fault matrix and print its results.

    python -m tests.faults [scenario ...] [--celery 5.6.3,5.7.0] [--scale 1.0] [--at-once 3]
    python -m tests.faults --list

The exit status is 1 if any shown state was wrong, or if a scenario did not finish.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import signal
import sys
import time
import traceback
from dataclasses import asdict

import celery

from tests.faults.environment import DELIVERY_TIMEOUT, Environment
from tests.faults.matrix import OLDER, SCENARIOS, TIME_LIMIT, run_matrix
from tests.faults.report import Result, format_result, format_table
from tests.support.processes import running_now


def main() -> int:
    """Parse the command line, and run what it names."""
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
    return run_and_print(names, options.celery.split(","), options.scale, options.at_once)


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


def run_and_print(names: list[str], versions: list[str], scale: float, at_once: int) -> int:
    """Run the scenarios on all versions, and print each result and the table."""
    started = time.monotonic()

    def print_result(name: str, version: str, result: Result) -> None:
        print(format_result(name, version, result), file=sys.stderr, flush=True)

    results = run_matrix(names, versions, scale, at_once, print_result)
    described = [(name, SCENARIOS[name].description) for name in names]
    print(format_table(described, versions, results, time.monotonic() - started))
    return 0 if all(result.passed for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
