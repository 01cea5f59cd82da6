"""``cancel``: request the cancellation of executions."""

from __future__ import annotations

import click

from headway.cli import format
from headway.cli.context import CliContext
from headway.cli.output import as_json, print_error, print_json, to_cli_error
from headway.core.serialize import execution_json
from headway.errors import HeadwayError


@click.command(short_help="Cancel executions")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--terminate", is_flag=True, help="Kill the process that runs the task (docs/cancel.md)."
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@as_json
@click.pass_context
def cancel(
    ctx: click.Context, ids: tuple[str, ...], terminate: bool, yes: bool, as_json: bool
) -> None:
    """Request the cancellation of executions. A running task ends at its next report, and is
    'cancelling' until then; follow it with watch.

    Exit status: 0 if all were requested, 1 if one had already ended, 2 if a request failed.
    """
    context: CliContext = ctx.obj
    code = 0
    with context.source() as source:
        what = ids[0] if len(ids) == 1 else f"{len(ids)} executions"
        if not yes and not _confirm(f"{'Kill' if terminate else 'Cancel'} {what}?"):
            ctx.exit(2)
        for execution_id in ids:
            try:
                execution = source.cancel(execution_id, terminate=terminate)
            except HeadwayError as exc:
                error = to_cli_error(exc)
                error.show()
                code = max(code, error.exit_code)
                continue
            if as_json:
                print_json(execution_json(execution))
            else:
                click.echo(f"{format.clean(execution_id)}  {format.state(execution)}")
    ctx.exit(code)


def _confirm(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        print_error("nothing was cancelled; use --yes to run without a confirmation")
        return False
