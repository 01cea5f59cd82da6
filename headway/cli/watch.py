"""``watch``: follow executions to their ends."""

from __future__ import annotations

import sys

import click

from headway.cli.display import JsonLines, Lines, Screen
from headway.cli.output import Call, as_json, print_error
from headway.cli.source import SourceError
from headway.cli.workflow import follow_workflows
from headway.models import Query, Status

NO_BARS = "for bars instead of lines: pip install 'celery-headway[cli]'"
#: The exit status after Ctrl-C: 128 and SIGINT's number, as shells have it.
INTERRUPTED = 130


@click.command(short_help="Follow executions until all have ended")
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--all", "everything", is_flag=True, help="All that are pending or running now.")
@click.option(
    "-w", "--workflow", is_flag=True, help="With each id all members of its chain, group or chord."
)
@as_json
@click.pass_context
def watch(
    ctx: click.Context, ids: tuple[str, ...], everything: bool, workflow: bool, as_json: bool
) -> None:
    """Follow executions until all have ended: bars on a terminal, lines elsewhere.

    With --workflow an id may be any of a chain, group or chord: that of a member, of the first task
    or of the group. Members are followed as they are published; those of a chain that come later,
    when the ones before them have ended.

    Exit status: 0 if all completed, 1 if one failed or was cancelled, 2 if one could not be
    watched, 130 after Ctrl-C. With --json it prints the frames that a WebSocket of the API would
    say.
    """
    if bool(ids) == everything or (everything and workflow):
        raise click.UsageError("Give the ids of executions, or --all.")
    call: Call = ctx.obj
    screen = _screen(as_json)
    code = 0
    try:
        with call.source() as source:
            if everything:
                open_ = Query(status=frozenset({Status.PENDING, Status.RUNNING}))
                ids = tuple(execution.execution_id for execution in source.list(open_, None))
            with screen.open():
                for update in follow_workflows(source, ids) if workflow else source.follow(ids):
                    if isinstance(update, SourceError):
                        screen.trouble(update)
                        code = 2 if update.execution_id is not None else code
                    else:
                        screen.show(update)
                        if update.status in (Status.FAILED, Status.CANCELLED):
                            code = max(code, 1)
    except KeyboardInterrupt:
        code = INTERRUPTED
    ctx.exit(code)


def _screen(as_json: bool) -> Screen:
    if as_json:
        return JsonLines()
    if not sys.stdout.isatty():
        return Lines()
    try:
        from headway.cli.bars import Bars  # noqa: PLC0415  (rich is an extra)
    except ImportError:
        print_error(NO_BARS)
        return Lines()
    return Bars()
