"""A tiny run of every benchmark. Nothing is asserted about its numbers."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.__main__ import BENCHMARKS
from benchmarks.goals import MAX_RATIO
from tests.support.processes import ROOT, environment

#: Benchmark -> the first words of its rows.
ROWS = {
    "loops": ("progress.update, a call", "  with attributes", "progress.track"),
    "stored": ("guarded write, 100 B", "guarded write, 10 KB", "one stored update"),
    "publish": ("apply_async",),
    "listing": ("bytes an execution", "a page of 50", "a read of one", "recording an end"),
    "viewer": ("update to viewer, p50", "update to viewer, p95"),
    "delivery": ("a frame to one of",),
    "handshake": ("accepting a viewer",),
    "memory": ("memory of a viewer, gevent", "memory of a viewer, gthread"),
    "commands": ("Redis commands",),
    "rest": ("GET beside",),
}


def test_each_benchmark_prints_its_rows() -> None:
    """Each benchmark runs to its end at the smallest size, and prints its rows and goals."""
    assert ROWS.keys() == BENCHMARKS.keys()
    names = list(BENCHMARKS)
    runs = [_start(names[0::2]), _start(names[1::2])]  # at the same time: they mostly wait
    try:
        outputs = [run.communicate(timeout=300)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, output in zip(runs, outputs, strict=True):
        assert run.returncode == 0, output
    lines = "\n".join(outputs).splitlines()
    for name, rows in ROWS.items():
        for row in rows:
            assert any(line.startswith(row) for line in lines), f"{name} printed no {row!r}"
    goals = [line for line in lines if "<=" in line]
    assert len(goals) >= len(MAX_RATIO) + 1


def _start(names: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--smoke", *names],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
