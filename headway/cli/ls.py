"""``ls``: list executions."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click

from headway.cli import format
from headway.cli.context import CliContext
from headway.cli.output import as_json, print_error, print_json, styled
from headway.core.serialize import execution_json
from headway.models import Execution, Phase, Query, Status


def _parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    try:
        return None if value is None else format.parse_time(value, datetime.now(UTC))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is neither an age such as 90s, 15m, 2h, 3d "
            "nor a time such as 2026-01-31T12:00Z",
            ctx,
            param,
        ) from None


@click.command(short_help="List executions, newest first")
@click.option(
    "-s",
    "--status",
    multiple=True,
    type=click.Choice([each.value for each in Status]),
    help="Can be repeated.",
)
@click.option(
    "-p",
    "--phase",
    multiple=True,
    type=click.Choice([each.value for each in Phase]),
    help="Can be repeated.",
)
@click.option("-t", "--task", metavar="NAME", help="The full name of the task.")
@click.option("-o", "--owner", metavar="NAME", help="The owner of the execution.")
@click.option("-q", "--query", "text", metavar="TEXT", help="Part of the id or of the task's name.")
@click.option(
    "--since",
    metavar="WHEN",
    callback=_parse_time,
    help="First seen at that time or later: 90s, 15m, 2h, 3d ago, or a time.",
)
@click.option("--until", metavar="WHEN", callback=_parse_time, help="First seen before that time.")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Maximum number of executions; 0: all.",
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
    **filters: Any,
) -> None:
    """List executions, newest first. An execution must match all filters."""
    context: CliContext = ctx.obj
    query = Query(
        status=frozenset(map(Status, status)), phase=frozenset(map(Phase, phase)), **filters
    )
    table = Table(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    with context.source() as source:
        found = False
        for execution in source.list(query, limit or None):
            if as_json:
                body = execution_json(execution)
                del body["outputs"]  # listings have none
                print_json(body)
            elif not found:
                click.echo(table.header)
            if not as_json:
                click.echo(table.row(execution, datetime.now(UTC)))
            found = True
    if not found and not as_json:
        print_error("no executions found")


class Table:
    """The lines of a listing, cut to ``width`` characters; None: not cut, for a pipe."""

    def __init__(self, width: int | None) -> None:
        self._width = width

    @property
    def header(self) -> str:
        """The first line."""
        return styled(self._line(("EXECUTION", "STATE", "DONE", "AGE", "TASK", "")), dim=True)

    def row(self, execution: Execution, now: datetime) -> str:
        """The line of an execution."""
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
