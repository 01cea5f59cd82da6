"""``ls``: what there is."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from headway.cli import format
from headway.cli.output import Call, as_json, print_error, print_json, styled
from headway.core.serialize import execution_json
from headway.models import Execution, Phase, Query, Status


def _when(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A time, or how long ago."""
    try:
        return None if value is None else format.when(value, datetime.now(UTC))
    except ValueError:
        text = f"{value!r} is neither an age such as 90s, 15m, 2h, 3d nor a time such as 2026-01-31T12:00Z"
        raise click.BadParameter(text, ctx, param) from None


@click.command(short_help="List executions, newest first")
@click.option(
    "-s",
    "--status",
    multiple=True,
    type=click.Choice([each.value for each in Status]),
    help="Repeat it for more.",
)
@click.option(
    "-p",
    "--phase",
    multiple=True,
    type=click.Choice([each.value for each in Phase]),
    help="Repeat it for more.",
)
@click.option("-t", "--task", metavar="NAME", help="The task's name, in full.")
@click.option("-o", "--owner", metavar="NAME", help="Whom it belongs to.")
@click.option("-q", "--query", "text", metavar="TEXT", help="Part of the id or of the task's name.")
@click.option(
    "--since",
    metavar="WHEN",
    callback=_when,
    help="First heard of then or later: 90s, 15m, 2h, 3d ago, or a time.",
)
@click.option("--until", metavar="WHEN", callback=_when, help="First heard of before.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="How many at most; 0: all.",
)
@as_json
@click.pass_context
def ls(
    ctx: click.Context,
    /,
    *,
    status: Iterable[str],
    phase: Iterable[str],
    limit: int,
    as_json: bool,
    **more: Any,
) -> None:
    """List executions, newest first. Each filter narrows it down."""
    call: Call = ctx.obj
    wanted = Query(
        status=frozenset(map(Status, status)), phase=frozenset(map(Phase, phase)), **more
    )
    table = Table(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    with call.source() as source:
        found = False
        for execution in source.list(wanted, limit or None):
            if as_json:
                body = execution_json(execution)
                del body["outputs"]  # a listing has none
                print_json(body)
            elif not found:
                click.echo(table.head)
            if not as_json:
                click.echo(table.row(execution, datetime.now(UTC)))
            found = True
    if not found and not as_json:
        print_error("there is nothing to list")


class Table:
    """The lines of a listing. ``width``: what is cut off at; None for a pipe."""

    def __init__(self, width: int | None) -> None:
        self._width = width

    @property
    def head(self) -> str:
        """The first line."""
        return styled(self._line(("EXECUTION", "STATE", "DONE", "AGE", "TASK", "")), dim=True)

    def row(self, execution: Execution, now: datetime) -> str:
        """An execution's."""
        state = execution.phase.value + (f" #{execution.attempt}" if execution.attempt > 1 else "")
        age = format.age(execution.created_at or execution.started_at, now)
        name, task = format.clean(execution.execution_id), format.clean(execution.task or "")
        line = self._line(
            (name, state, format.percent(execution.progress), age, task, format.remark(execution))
        )
        padded = f"{state:<12}"
        return line.replace(padded, styled(padded, format.COLOURS[execution.phase]), 1)

    def _line(self, cells: Iterable[str]) -> str:
        line = "{:<36}  {:<12}  {:>5}  {:>4}  {}  {}".format(*cells).rstrip()
        return line if self._width is None else format.clip(line, self._width)
