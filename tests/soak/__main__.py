"""Run the soak test and print its results: ``python -m tests.soak [--small]``.

The exit status is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.soak.run import FULL, SMALL, soak


def main() -> int:
    """Parse the command line, run the test and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="some hundred viewers for some seconds"
    )
    small = parser.parse_args().small
    started = time.monotonic()
    outcome = soak(
        SMALL if small else FULL,
        lambda text: print(f"{time.monotonic() - started:4.0f} s  {text}", file=sys.stderr),
    )
    for name, value in outcome.lines:
        print(f"{name:34}{value:>12}")
    print(f"{'violations':34}{len(outcome.violations):>12}")
    for violation in outcome.violations:
        print(f"  {violation}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
