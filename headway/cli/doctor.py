"""``doctor``: what is wrong with a project's set-up, and what to do."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from headway.cli.output import Call, as_json, print_json, styled

if TYPE_CHECKING:
    from headway.cli.checks import Finding

COLOURS = {"error": "red", "warning": "yellow", "note": None}


@click.command(short_help="Find traps in the project's configuration")
@click.option(
    "-i",
    "--ignore",
    multiple=True,
    metavar="NAME",
    help="A finding that is as it should be; repeat it for more.",
)
@as_json
@click.pass_context
def doctor(ctx: click.Context, ignore: tuple[str, ...], as_json: bool) -> None:
    """Look for traps in the project's configuration, and say the way out of each.

    Exit status: 0 if there are notes at most, 1 if there are warnings or errors.
    """
    call: Call = ctx.obj
    app = call.celery("doctor")
    from headway.cli.checks import Severity, run  # noqa: PLC0415  (the worker's side, and the drivers)

    found = run(app, ignore)
    for finding in found:
        if as_json:
            print_json(
                {
                    "name": finding.name,
                    "severity": finding.severity.value,
                    "problem": finding.problem,
                    "cure": finding.cure,
                }
            )
        else:
            click.echo(_line(finding))
    if not found and not as_json:
        click.echo("Nothing to complain about.")
    ctx.exit(1 if any(finding.severity is not Severity.NOTE for finding in found) else 0)


def _line(finding: Finding) -> str:
    """On one line, for grep; at a terminal on as many as it takes."""
    text = f"{finding.severity.value:<7}  {finding.problem}. Cure: {finding.cure}. [{finding.name}]"
    if sys.stdout.isatty():
        text = textwrap.fill(text, shutil.get_terminal_size().columns, subsequent_indent=" " * 9)
    word = finding.severity.value
    return text.replace(word, styled(word, COLOURS[word]), 1)
