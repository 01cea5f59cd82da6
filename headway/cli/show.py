"""``show``: all fields of one execution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from headway.cli import format
from headway.cli.context import CliContext
from headway.cli.output import as_json, print_json, styled
from headway.core.serialize import execution_json, history_json, json_safe
from headway.models import Execution, History

#: Characters of the result; --json prints all of it.
MAX_OUTPUTS = 2000


@click.command(short_help="Show one execution")
@click.argument("execution_id", metavar="ID")
@click.option("--history", "with_history", is_flag=True, help="Show its reports, too.")
@as_json
@click.pass_context
def show(ctx: click.Context, execution_id: str, with_history: bool, as_json: bool) -> None:
    """Show one execution: its state, its last progress, and its error or result."""
    context: CliContext = ctx.obj
    with context.source() as source:
        execution = source.get(execution_id)
        history = source.history(execution_id) if with_history else None
    if as_json:
        more = {} if history is None else {"history": history_json(execution, history)}
        print_json(execution_json(execution) | more)
        return
    for name, value in fields(execution, datetime.now(UTC)):
        text = styled(value, format.COLOURS[execution.phase]) if name == "state" else value
        click.echo(f"{styled(f'{name:>11}', dim=True)}  {text}")
    if history is not None:
        click.echo()
        for line in report_lines(history):
            click.echo(line)


def report_lines(history: History) -> Iterator[str]:
    """A line for each report: its time, attempt, percentage and message."""
    for report in history.reports:
        progress = report.progress
        at = progress.timestamp
        time = "" if at is None else f"{at.astimezone():%H:%M:%S.%f}"[:-3]
        done, message = format.percent(progress), format.clean(progress.message or "")
        yield f"{time:>12}  #{report.attempt}  {done:>5}  {message}".rstrip()
    if not history.complete:
        yield f"{'':>12}  some reports were thinned out"


def fields(execution: Execution, now: datetime) -> Iterator[tuple[str, str]]:
    """Names and values of the fields, without empty ones."""
    progress, error = execution.progress, execution.error
    found: list[tuple[str, str | None]] = [
        ("execution", execution.execution_id),
        ("task", execution.task),
        ("state", f"{execution.status.value} ({format.state(execution)})"),
        ("error", None if error is None else f"{error.type}: {error.message}"),
        ("details", _json(error.details) if error is not None and error.details else None),
    ]
    if progress is not None:
        eta = None if execution.status.terminal else progress.eta_seconds
        count = "" if progress.current is None else f"{progress.current:g}"
        total = f" of {progress.total:g}" if progress.total else ""
        share = "" if progress.indeterminate else f" ({format.percent(progress)})"
        speed = "" if execution.status.terminal else format.rate(progress)
        left = "" if eta is None else f"{format.duration(eta)} left"
        parts = (f"{count}{total}{share}", speed, left)
        found += [
            ("progress", ", ".join(part for part in parts if part)),
            ("message", progress.message),
            *((f".{key}", value) for key, value in (progress.attributes or {}).items()),
            ("reported", _time(progress.timestamp, now)),
        ]
    found += [
        ("attempt", str(execution.attempt) if execution.attempt else None),
        ("worker", execution.worker),
        ("owner", execution.owner),
        ("created", _time(execution.created_at, now)),
        ("started", _time(execution.started_at, now)),
        ("finished", _time(execution.finished_at, now)),
        ("took", format.run_time(execution)),
    ]
    if execution.outputs is not None:
        found.append(("outputs", format.clip(_json(execution.outputs), MAX_OUTPUTS)))
    yield from ((name, format.clean(value)) for name, value in found if value)


def _json(value: object) -> str:
    return json.dumps(json_safe(value), ensure_ascii=False)


def _time(at: datetime | None, now: datetime) -> str | None:
    if at is None:
        return None
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z} ({format.age(at, now)} ago)"
