"""`Display`: how `watch` shows executions: bars on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Protocol

import click

from headway.cli import format
from headway.cli.output import print_error, print_json, styled
from headway.cli.source import SourceError
from headway.core import frames
from headway.models import Execution

#: Seconds between two lines of progress of one execution: people read the log.
LINE_INTERVAL = 2.0


class Display(Protocol):
    """Shows executions within ``with display.open():``."""

    def open(self) -> AbstractContextManager[object]:
        """Take over the terminal, and release it at the end of the block."""

    def show(self, execution: Execution) -> None:
        """Show the current state."""

    def show_error(self, error: SourceError) -> None:
        """Show an outage, or an execution that can't be watched."""


class LineDisplay:
    """Prints a line for each change of state, and for progress every two seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._shown: dict[str, tuple[str, float]] = {}

    def open(self) -> AbstractContextManager[object]:
        """See `Display.open`."""
        return nullcontext()

    def show(self, execution: Execution) -> None:
        """See `Display.show`."""
        now, state = self._monotonic(), format.state(execution)
        before, at = self._shown.get(execution.execution_id, ("", 0.0))
        if state == before and now - at < LINE_INTERVAL:
            return
        self._shown[execution.execution_id] = (state, now)
        colour = format.COLOURS[execution.phase] if execution.status.terminal else None
        click.echo(styled(format.one_line(execution), colour))

    def show_error(self, error: SourceError) -> None:
        """See `Display.show_error`."""
        print_error(error.message)


class JsonDisplay:
    """Prints the frames that a WebSocket would send (contract, section 4), one per line."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._shown: dict[str, Execution] = {}

    def open(self) -> AbstractContextManager[object]:
        """See `Display.open`."""
        return nullcontext()

    def show(self, execution: Execution) -> None:
        """See `Display.show`."""
        before, at = self._shown.get(execution.execution_id), self._clock()
        self._shown[execution.execution_id] = execution
        for frame in (
            frames.opening_frames(execution, at)
            if before is None
            else frames.frames_between(before, execution, at)
        ):
            print_json(frame)

    def show_error(self, error: SourceError) -> None:
        """See `Display.show_error`."""
        print_json(frames.error_frame(error.code, error.message, self._clock(), error.execution_id))
