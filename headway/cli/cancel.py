"""``cancel``: ask for the end of executions."""

from __future__ import annotations

import click

from headway.cli import format
from headway.cli.output import Call, as_json, print_error, print_json, to_cli_error
from headway.core.serialize import execution_json
from headway.errors import HeadwayError


@click.command(short_help="Ask executions to end")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--terminate", is_flag=True, help="By force: kill the process that runs it (docs/cancel.md)."
)
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@as_json
@click.pass_context
def cancel(
    ctx: click.Context, ids: tuple[str, ...], terminate: bool, yes: bool, as_json: bool
) -> None:
    """Ask executions to end. A run ends itself with its next report, and is 'cancelling' until
    then; watch tells how it goes.

    Exit status: 0 if all were asked, 1 if one had ended already, 2 if one could not be asked.
    """
    call: Call = ctx.obj
    code = 0
    with call.source() as source:
        what = ids[0] if len(ids) == 1 else f"{len(ids)} executions"
        if not yes and not _agreed(f"{'Kill' if terminate else 'Cancel'} {what}?"):
            ctx.exit(2)
        for execution_id in ids:
            try:
                execution = source.cancel(execution_id, terminate=terminate)
            except HeadwayError as exc:
                problem = to_cli_error(exc)
                problem.show()
                code = max(code, problem.exit_code)
                continue
            if as_json:
                print_json(execution_json(execution))
            else:
                click.echo(f"{format.clean(execution_id)}  {format.state(execution)}")
    ctx.exit(code)


def _agreed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        print_error("nothing was cancelled; give --yes where nobody is there to answer")
        return False
