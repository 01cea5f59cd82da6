"""The printed results of the matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one scenario on one version of Celery."""

    #: The number of executions that were judged.
    executions: int
    #: Execution id -> violations.
    wrong: Mapping[str, list[str]]
    #: Why the scenario could not finish. None: it finished.
    error: str | None
    #: How long it took, in seconds.
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether there was an execution to judge, and none was wrong."""
        return self.error is None and self.executions > 0 and not self.wrong


def format_result(name: str, version: str, result: Result) -> str:
    """One line for a finished scenario, followed by its violations."""
    lines = [
        f"{name} on Celery {version}: {result.executions} executions, "
        f"{len(result.wrong)} wrong ({result.seconds:.0f} s)"
    ]
    for task_id, violations in result.wrong.items():
        lines += [f"    {task_id}: {violation}" for violation in violations]
    if result.error is not None:
        lines.append("    did not finish: " + result.error.strip().replace("\n", "\n    "))
    return "\n".join(lines)


def format_table(
    scenarios: Sequence[tuple[str, str]],
    versions: Sequence[str],
    results: Mapping[tuple[str, str], Result],
    seconds: float,
) -> str:
    """The table: executions and wrong ones of each scenario on each version, then the totals."""
    width = max(len(name) for name, _ in scenarios)
    heads = [f"Celery {version}" for version in versions]
    lines = ["", " " * width + "  " + "  ".join(f"{head:>16}" for head in heads)]
    lines.append(" " * width + "  " + "  ".join("executions wrong" for _ in heads))
    executions = dict.fromkeys(versions, 0)
    wrong = dict.fromkeys(versions, 0)
    for name, description in scenarios:
        cells = []
        for version in versions:
            result = results[name, version]
            executions[version] += result.executions
            wrong[version] += len(result.wrong) + (result.error is not None)
            shown = f"{len(result.wrong):>5}" if result.error is None else "ERROR"
            cells.append(f"{result.executions:>10} {shown}")
        lines.append(f"{name:<{width}}  {'  '.join(cells)}  {description}")
    total = "  ".join(f"{executions[version]:>10} {wrong[version]:>5}" for version in versions)
    lines.append(f"{'all':<{width}}  {total}  in {seconds:.0f} s")
    return "\n".join(lines)
