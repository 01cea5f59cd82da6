"""``python -m tests.soak [--small]``: run it, and print what was seen. Exits with 1 where something
was not as promised.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.soak.run import FULL, SMALL, soak


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument(
        "--small", action="store_true", help="some hundred viewers for some seconds"
    )
    small = parser.parse_args().small
    begin = time.monotonic()
    outcome = soak(
        SMALL if small else FULL,
        lambda text: print(f"{time.monotonic() - begin:4.0f} s  {text}", file=sys.stderr),
    )
    for what, number in outcome.lines:
        print(f"{what:34}{number:>12}")
    print(f"{'not as promised':34}{len(outcome.faults):>12}")
    for fault in outcome.faults:
        print(f"  {fault}")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
