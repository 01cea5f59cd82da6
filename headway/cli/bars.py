"""Bars on a terminal, many at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Column
from rich.text import Text

from headway.cli import format
from headway.cli.source import SourceError
from headway.models import Execution, Phase, Status

#: Characters of a bar.
WIDTH = 18
#: Phases in which nothing is being done: a bar that moved would say otherwise.
STILL = (Phase.QUEUED, Phase.RETRYING, Phase.STALLED)


class Bars:
    """A `screens.Screen`."""

    def __init__(
        self, console: Console | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._monotonic = monotonic
        columns = (_Name(), _Bar(), _Percent(), _State(), _Speed(monotonic), _Remark())
        self._progress = Progress(
            *columns, console=console or Console(highlight=False), expand=True, get_time=monotonic
        )
        self._rows: dict[str, TaskID] = {}

    def open(self) -> AbstractContextManager[object]:
        """See `Screen.open`."""
        return self._progress

    def show(self, execution: Execution) -> None:
        """See `Screen.show`."""
        row = self._rows.get(execution.execution_id)
        if row is None:
            self._rows[execution.execution_id] = self._progress.add_task(
                "", execution=execution, at=self._monotonic()
            )
        else:
            self._progress.update(row, execution=execution, at=self._monotonic())

    def trouble(self, trouble: SourceError) -> None:
        """See `Screen.trouble`."""
        self._progress.console.print(
            Text(f"headway: {format.clean(trouble.message)}", style="yellow")
        )


class _Cell(ProgressColumn):
    """One column; what it shows is made of the execution alone."""

    def __init__(
        self, width: int | None = None, *, ratio: int | None = None, right: bool = False
    ) -> None:
        justify = "right" if right else "left"
        super().__init__(
            Column(width=width, ratio=ratio, no_wrap=True, overflow="ellipsis", justify=justify)  # type: ignore[arg-type]
        )

    def render(self, task: Task) -> Text:
        """See rich."""
        return self.cell(task.fields["execution"])

    def cell(self, execution: Execution) -> Text:
        """What is in it."""
        raise NotImplementedError


class _Name(_Cell):
    def __init__(self) -> None:
        super().__init__(ratio=1)

    def cell(self, execution: Execution) -> Text:
        name = format.clean(execution.task or "").rpartition(".")[
            2
        ]  # the part that tells it from others
        return Text.assemble(
            (format.short(execution.execution_id), "dim"), " " if name else "", name
        )


class _Bar(ProgressColumn):
    def render(self, task: Task) -> ProgressBar:
        """See rich."""
        execution: Execution = task.fields["execution"]
        progress = execution.progress
        unknown = progress is None or progress.indeterminate
        moves = unknown and execution.status is Status.RUNNING and execution.phase not in STILL
        # An end leaves the bar where the last report put it, as the dashboard does.
        whole = 100.0 if execution.status is Status.COMPLETED else 0.0
        done = whole if progress is None or progress.indeterminate else progress.percentage
        colour = format.COLOURS[execution.phase] or "default"
        return ProgressBar(
            total=100.0,
            completed=done,
            width=WIDTH,
            pulse=moves,
            complete_style=colour,
            finished_style=colour,
            pulse_style=colour,
            animation_time=task.get_time(),
        )


class _Percent(_Cell):
    def __init__(self) -> None:
        super().__init__(5, right=True)

    def cell(self, execution: Execution) -> Text:
        return Text(format.percent(execution.progress))


class _State(_Cell):
    def __init__(self) -> None:
        super().__init__(11)

    def cell(self, execution: Execution) -> Text:
        again = (
            f" #{execution.attempt}"
            if execution.attempt > 1 and execution.phase is not Phase.CANCELLING
            else ""
        )
        return Text(
            f"{execution.phase.value}{again}", style=format.COLOURS[execution.phase] or "dim"
        )


class _Speed(_Cell):
    """How fast, and how long it will take; at the end, how long it took."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__(14, right=True)
        self._monotonic = monotonic

    def render(self, task: Task) -> Text:
        """See rich."""
        execution: Execution = task.fields["execution"]
        if execution.status.terminal:
            return Text(format.took(execution), style="dim")
        if execution.phase in STILL or execution.progress is None:
            return Text("")
        left = execution.progress.eta_seconds
        # What was left at the report, less what has passed since.
        eta = "" if left is None else format.clock(left - (self._monotonic() - task.fields["at"]))
        return Text(f"{format.rate(execution.progress)} {eta}".strip(), style="dim")


class _Remark(_Cell):
    def __init__(self) -> None:
        super().__init__(ratio=1)

    def cell(self, execution: Execution) -> Text:
        return Text(format.remark(execution), style="red" if execution.error is not None else "")
