"""What `watch` writes to: bars on a terminal, lines elsewhere, JSON for programs."""

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

#: Seconds between two lines of reports of one execution: a log is read by people.
LINE_INTERVAL = 2.0


class Screen(Protocol):
    """Somewhere to show executions. Used within ``with screen.open():``."""

    def open(self) -> AbstractContextManager[object]:
        """Take the terminal, and give it back at the end."""

    def show(self, execution: Execution) -> None:
        """What it is now."""

    def trouble(self, trouble: SourceError) -> None:
        """What is wrong."""


class Lines:
    """A line for each change of state, for each end, and for reports every now and then."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._shown: dict[str, tuple[str, float]] = {}

    def open(self) -> AbstractContextManager[object]:
        """Nothing has to be taken."""
        return nullcontext()

    def show(self, execution: Execution) -> None:
        """See `Screen.show`."""
        now, state = self._monotonic(), format.state(execution)
        before, at = self._shown.get(execution.execution_id, ("", 0.0))
        if state == before and now - at < LINE_INTERVAL:
            return
        self._shown[execution.execution_id] = (state, now)
        click.echo(
            styled(
                format.line(execution),
                format.COLOURS[execution.phase] if execution.status.terminal else None,
            )
        )

    def trouble(self, trouble: SourceError) -> None:
        """See `Screen.trouble`."""
        print_error(trouble.message)


class JsonLines:
    """The frames of the contract's section 4, one a line: the same that a WebSocket would say."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._shown: dict[str, Execution] = {}

    def open(self) -> AbstractContextManager[object]:
        """Nothing has to be taken."""
        return nullcontext()

    def show(self, execution: Execution) -> None:
        """See `Screen.show`."""
        before, at = self._shown.get(execution.execution_id), self._clock()
        self._shown[execution.execution_id] = execution
        for frame in (
            frames.opening_frames(execution, at)
            if before is None
            else frames.frames_between(before, execution, at)
        ):
            print_json(frame)

    def trouble(self, trouble: SourceError) -> None:
        """See `Screen.trouble`."""
        print_json(
            frames.error_frame(trouble.code, trouble.message, self._clock(), trouble.execution_id)
        )
