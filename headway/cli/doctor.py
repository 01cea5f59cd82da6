"""``doctor``: problems of a project's configuration, and how to fix them."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from headway.cli.context import CliContext
from headway.cli.output import as_json, print_json, styled

if TYPE_CHECKING:
    from headway.cli.checks import Finding

COLOURS = {"error": "red", "warning": "yellow", "note": None}


@click.command(short_help="Find problems in the project's configuration")
@click.option(
    "-i",
    "--ignore",
    multiple=True,
    metavar="NAME",
    help="A finding to leave out. Can be repeated.",
)
@as_json
@click.pass_context
def doctor(ctx: click.Context, ignore: tuple[str, ...], as_json: bool) -> None:
    """Find problems in the project's configuration, and show how to fix each.

    Exit status: 0 if there are only notes, 1 if there are warnings or errors.
    """
    context: CliContext = ctx.obj
    app = context.celery("doctor")
    # Not at the top: it imports the worker's modules and the drivers.
    from headway.cli.checks import Severity, run_checks  # noqa: PLC0415

    findings = run_checks(app, ignore)
    for finding in findings:
        if as_json:
            print_json(
                {
                    "name": finding.name,
                    "severity": finding.severity.value,
                    "problem": finding.problem,
                    "fix": finding.fix,
                }
            )
        else:
            click.echo(_format(finding))
    if not findings and not as_json:
        click.echo("No problems found.")
    ctx.exit(1 if any(finding.severity is not Severity.NOTE for finding in findings) else 0)


def _format(finding: Finding) -> str:
    """One line, which suits grep; wrapped on a terminal."""
    severity = finding.severity.value
    text = f"{severity:<7}  {finding.problem}. Fix: {finding.fix}. [{finding.name}]"
    if sys.stdout.isatty():
        text = textwrap.fill(text, shutil.get_terminal_size().columns, subsequent_indent=" " * 9)
    return text.replace(severity, styled(severity, COLOURS[severity]), 1)
