"""``show``: all that is known of one execution."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from headway.cli import format
from headway.cli.output import Call, as_json, print_json, styled
from headway.core.serialize import execution_json, history_json, json_safe
from headway.models import Execution, History

#: Characters of what a task returned; --json has all of it.
LONGEST = 2000


@click.command(short_help="Show all that is known of one execution")
@click.argument("execution_id", metavar="ID")
@click.option("--history", "with_history", is_flag=True, help="Its reports, too.")
@as_json
@click.pass_context
def show(ctx: click.Context, execution_id: str, with_history: bool, as_json: bool) -> None:
    """Show one execution: its state, its last progress, its error or what it returned."""
    call: Call = ctx.obj
    with call.source() as source:
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
        for line in reports(history):
            click.echo(line)


def reports(history: History) -> Iterator[str]:
    """A line for each report: when it came, of which attempt, how much was done."""
    for attempt, progress in ((each.attempt, each.progress) for each in history.reports):
        at = (
            ""
            if progress.timestamp is None
            else f"{progress.timestamp.astimezone():%H:%M:%S.%f}"[:-3]
        )
        yield f"{at:>12}  #{attempt}  {format.percent(progress):>5}  {format.clean(progress.message or '')}".rstrip()
    if not history.complete:
        yield f"{'':>12}  not all of them are kept"


def fields(execution: Execution, now: datetime) -> Iterator[tuple[str, str]]:
    """What there is, with its names; what there isn't is left out."""
    progress, error = execution.progress, execution.error
    told: list[tuple[str, str | None]] = [
        ("execution", execution.execution_id),
        ("task", execution.task),
        ("state", f"{execution.status.value} ({format.state(execution)})"),
        ("error", None if error is None else f"{error.type}: {error.message}"),
        (
            "details",
            None
            if error is None or not error.details
            else json.dumps(json_safe(error.details), ensure_ascii=False),
        ),
    ]
    if progress is not None:
        left = None if execution.status.terminal else progress.eta_seconds
        count = "" if progress.current is None else f"{progress.current:g}"
        of = f" of {progress.total:g}" if progress.total else ""
        share = "" if progress.indeterminate else f" ({format.percent(progress)})"
        speed = "" if execution.status.terminal else format.rate(progress)
        rest = "" if left is None else f"{format.clock(left)} left"
        told += [
            ("progress", ", ".join(part for part in (f"{count}{of}{share}", speed, rest) if part)),
            ("message", progress.message),
            *((f".{key}", value) for key, value in (progress.attributes or {}).items()),
            ("reported", _time(progress.timestamp, now)),
        ]
    told += [
        ("attempt", str(execution.attempt) if execution.attempt else None),
        ("worker", execution.worker),
        ("owner", execution.owner),
        ("created", _time(execution.created_at, now)),
        ("started", _time(execution.started_at, now)),
        ("finished", _time(execution.finished_at, now)),
        ("took", format.took(execution)),
    ]
    if execution.outputs is not None:
        told.append(
            (
                "outputs",
                format.clip(json.dumps(json_safe(execution.outputs), ensure_ascii=False), LONGEST),
            )
        )
    yield from ((name, format.clean(value)) for name, value in told if value)


def _time(at: datetime | None, now: datetime) -> str | None:
    return (
        None
        if at is None
        else f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z} ({format.age(at, now)} ago)"
    )
