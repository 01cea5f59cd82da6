"""What the commands print: JSON lines, errors, colours."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from headway.cli.format import clean
from headway.errors import ExecutionConflict, HeadwayError

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")


class CliError(click.ClickException):
    """An error that is printed as one sentence on stderr."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's own subclasses do the same

    def show(self, file: Any = None) -> None:
        """See click."""
        print_error(self.message)


def to_cli_error(error: HeadwayError) -> CliError:
    """Exit status 1 if the execution had already ended, 2 if the request itself failed."""
    return CliError(str(error), 1 if isinstance(error, ExecutionConflict) else 2)


def print_error(message: str) -> None:
    """Print a sentence on stderr. It may quote a server, an id or an exception, so it is cleaned
    like the texts of tasks.
    """
    click.echo(f"headway: {clean(message)}", err=True)


def print_json(body: object) -> None:
    """Print one line and flush it: the reader may be a pipe."""
    click.echo(json.dumps(body, ensure_ascii=False, allow_nan=False))


def styled(text: str, colour: str | None = None, *, dim: bool = False) -> str:
    """Coloured text, unless NO_COLOR is set (https://no-color.org). ``click.echo`` removes the
    colour if the output is not a terminal.
    """
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour, dim=dim or None)
