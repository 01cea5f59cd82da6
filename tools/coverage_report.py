"""Print the coverage per layer, and fail if a layer is below its floor. `make coverage` runs it.

A floor is a little below the measured value: it shows when new code comes without tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "coverage"

#: Layer -> the lowest accepted percentage of lines and branches. "." has the modules of the root.
FLOORS = {
    "core": 95,
    "stores": 95,
    "feeds": 95,
    "worker": 86,
    "server": 93,
    "client": 94,
    "cli": 93,
    ".": 78,
}


def main() -> int:
    """Combine the data files, print the table; 1 if a layer is below its floor."""
    report = FOLDER / "report.json"
    for command in (["combine", "--quiet"], ["json", "--quiet", "-o", str(report)], ["html"]):
        more = ["--directory", str(FOLDER / "html"), "--quiet"] if command == ["html"] else []
        subprocess.run(  # noqa: S603 - no user input
            [sys.executable, "-m", "coverage", *command, *more], cwd=ROOT, check=True
        )
    covered: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    for name, file in json.loads(report.read_text())["files"].items():
        parts = Path(name).parts
        below = parts[parts.index("headway") + 1 :]
        layer = below[0] if len(below) > 1 else "."
        summary = file["summary"]
        covered[layer] += summary["covered_lines"] + summary["covered_branches"]
        total[layer] += summary["num_statements"] + summary["num_branches"]
    low = []
    for layer, floor in FLOORS.items():
        percent = 100 * covered[layer] / total[layer]
        mark = "" if percent >= floor else "  below the floor"
        low += [layer] if mark else []
        print(f"{layer:8}{percent:7.1f} %   floor {floor} %{mark}")  # noqa: T201
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
