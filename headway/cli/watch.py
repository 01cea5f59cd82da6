"""``watch``: follow executions until they end."""

from __future__ import annotations

import sys

import click

from headway.cli.context import CliContext
from headway.cli.display import Display, JsonDisplay, LineDisplay
from headway.cli.output import as_json, print_error
from headway.cli.source import SourceError
from headway.cli.workflow import follow_workflows
from headway.models import Query, Status

NO_BARS = "for progress bars: pip install 'celery-headway[cli]'"
#: The exit status after Ctrl-C, as in shells: 128 plus the number of SIGINT.
INTERRUPTED = 130


@click.command(short_help="Follow executions until all have ended")
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="All that are pending or running now.")
@click.option(
    "-w", "--workflow", is_flag=True, help="Also all members of each id's chain, group or chord."
)
@as_json
@click.pass_context
def watch(
    ctx: click.Context, ids: tuple[str, ...], everything: bool, workflow: bool, as_json: bool
) -> None:
    """Follow executions until all have ended: bars on a terminal, lines elsewhere.

    With --workflow an id may be that of a member, of the first task or of the group. Members are
    followed when they are published; later tasks of a chain are published when the earlier ones
    have ended.

    Exit status: 0 if all completed, 1 if one failed or was cancelled, 2 if one could not be
    watched, 130 after Ctrl-C. With --json it prints the frames that a WebSocket of the API would
    send.
    """
    if bool(ids) == everything or (everything and workflow):
        raise click.UsageError("Give the ids of executions, or --all.")
    context: CliContext = ctx.obj
    display = _display(as_json)
    code = 0
    try:
        with context.source() as source:
            if everything:
                unfinished = Query(status=frozenset({Status.PENDING, Status.RUNNING}))
                ids = tuple(execution.execution_id for execution in source.list(unfinished, None))
            with display.open():
                for update in follow_workflows(source, ids) if workflow else source.follow(ids):
                    if isinstance(update, SourceError):
                        display.show_error(update)
                        code = 2 if update.execution_id is not None else code
                    else:
                        display.show(update)
                        if update.status in (Status.FAILED, Status.CANCELLED):
                            code = max(code, 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    ctx.exit(code)


def _display(as_json: bool) -> Display:
    if as_json:
        return JsonDisplay()
    if not sys.stdout.isatty():
        return LineDisplay()
    try:
        from headway.cli.bars import BarDisplay  # noqa: PLC0415  (rich is an extra)
    except ImportError:
        print_error(NO_BARS)
        return LineDisplay()
    return BarDisplay()
