"""How the matrix is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one row on one version."""

    #: How many executions were judged.
    runs: int
    #: Execution id -> what was shown of it that wasn't so.
    wrong: Mapping[str, list[str]]
    #: Why the row could not be run to its end; None where it was.
    error: str | None
    #: How long it took, in seconds.
    seconds: float

    @property
    def right(self) -> bool:
        """Whether there was something to judge, and nothing was wrong with it."""
        return self.error is None and self.runs > 0 and not self.wrong


def line(name: str, version: str, result: Result) -> str:
    """A word to whoever waits, as a row ends; what was wrong in full."""
    told = [
        f"{name} on {version}: {result.runs} runs, {len(result.wrong)} wrong ({result.seconds:.0f} s)"
    ]
    for task_id, faults in result.wrong.items():
        told += [f"    {task_id}: {fault}" for fault in faults]
    if result.error is not None:
        told.append(
            "    could not be run to its end: " + result.error.strip().replace("\n", "\n    ")
        )
    return "\n".join(told)


def whole(
    rows: Sequence[tuple[str, str]],
    versions: Sequence[str],
    results: Mapping[tuple[str, str], Result],
    seconds: float,
) -> str:
    """The table: runs and wrong answers of each row on each version, then the sum."""
    width = max(len(name) for name, _ in rows)
    heads = [f"Celery {version}" for version in versions]
    lines = ["", " " * width + "  " + "  ".join(f"{head:>16}" for head in heads)]
    lines.append(" " * width + "  " + "  ".join(f"{'runs wrong':>16}" for _ in heads))
    runs = dict.fromkeys(versions, 0)
    wrong = dict.fromkeys(versions, 0)
    for name, sentence in rows:
        cells = []
        for version in versions:
            result = results[name, version]
            runs[version] += result.runs
            wrong[version] += len(result.wrong) + (result.error is not None)
            said = f"{len(result.wrong):>5}" if result.error is None else "ERROR"
            cells.append(f"{result.runs:>10} {said}")
        lines.append(f"{name:<{width}}  {'  '.join(cells)}  {sentence}")
    total = "  ".join(f"{runs[version]:>10} {wrong[version]:>5}" for version in versions)
    lines.append(f"{'all':<{width}}  {total}  in {seconds:.0f} s")
    return "\n".join(lines)
