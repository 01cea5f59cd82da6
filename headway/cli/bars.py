"""Progress bars on a terminal, one row per execution."""

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
#: Phases in which nothing runs: the bar must not move.
IDLE = (Phase.QUEUED, Phase.RETRYING, Phase.STALLED)


class BarDisplay:
    """A `display.Display` with bars."""

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
        """See `Display.open`."""
        return self._progress

    def show(self, execution: Execution) -> None:
        """See `Display.show`."""
        row = self._rows.get(execution.execution_id)
        if row is None:
            self._rows[execution.execution_id] = self._progress.add_task(
                "", execution=execution, at=self._monotonic()
            )
        else:
            self._progress.update(row, execution=execution, at=self._monotonic())

    def show_error(self, error: SourceError) -> None:
        """See `Display.show_error`."""
        self._progress.console.print(
            Text(f"headway: {format.clean(error.message)}", style="yellow")
        )


class _Cell(ProgressColumn):
    """A column of text. Subclasses format the execution."""

    def __init__(
        self, width: int | None = None, *, ratio: int | None = None, right: bool = False
    ) -> None:
        column = Column(width=width, ratio=ratio, no_wrap=True, overflow="ellipsis")
        column.justify = "right" if right else "left"
        super().__init__(column)

    def render(self, task: Task) -> Text:
        """See rich."""
        return self.cell(task.fields["execution"])

    def cell(self, execution: Execution) -> Text:
        """The text for an execution."""
        raise NotImplementedError


class _Name(_Cell):
    def __init__(self) -> None:
        super().__init__(ratio=1)

    def cell(self, execution: Execution) -> Text:
        # Without the module: the last part distinguishes the tasks of one project.
        name = format.clean(execution.task or "").rpartition(".")[2]
        short_id = format.short_id(execution.execution_id)
        return Text.assemble((short_id, "dim"), " " if name else "", name)


class _Bar(ProgressColumn):
    def render(self, task: Task) -> ProgressBar:
        """See rich."""
        execution: Execution = task.fields["execution"]
        progress = execution.progress
        # A terminal state leaves the bar at the last report, as in the dashboard.
        if progress is None or progress.indeterminate:
            completed = 100.0 if execution.status is Status.COMPLETED else 0.0
            pulse = execution.status is Status.RUNNING and execution.phase not in IDLE
        else:
            completed, pulse = progress.percentage, False
        colour = format.COLOURS[execution.phase] or "default"
        return ProgressBar(
            total=100.0,
            completed=completed,
            width=WIDTH,
            pulse=pulse,
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
        text = execution.phase.value
        if execution.attempt > 1 and execution.phase is not Phase.CANCELLING:
            text += f" #{execution.attempt}"
        return Text(text, style=format.COLOURS[execution.phase] or "dim")


class _Speed(_Cell):
    """Speed and time left; after the end, the run time."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__(14, right=True)
        self._monotonic = monotonic

    def render(self, task: Task) -> Text:
        """See rich."""
        execution: Execution = task.fields["execution"]
        if execution.status.terminal:
            return Text(format.run_time(execution), style="dim")
        if execution.phase in IDLE or execution.progress is None:
            return Text("")
        eta, elapsed = execution.progress.eta_seconds, self._monotonic() - task.fields["at"]
        left = "" if eta is None else format.duration(eta - elapsed)
        return Text(f"{format.rate(execution.progress)} {left}".strip(), style="dim")


class _Remark(_Cell):
    def __init__(self) -> None:
        super().__init__(ratio=1)

    def cell(self, execution: Execution) -> Text:
        return Text(format.remark(execution), style="red" if execution.error is not None else "")
