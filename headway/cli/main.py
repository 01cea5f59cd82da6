"""The command group, under two names: a plug-in of ``celery``, and the program ``headway``."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click
from click.core import ParameterSource

from headway.cli.context import CliContext
from headway.cli.output import to_cli_error
from headway.errors import HeadwayError

#: The commands. Each is a function in a module of the same name.
COMMANDS = ("watch", "ls", "show", "cancel", "web", "doctor")


class Commands(click.Group):
    """Imports a command when it is used, and prints each of Headway's errors as one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The order of the help text."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(import_module(f"headway.cli.{cmd_name}"), cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except HeadwayError as exc:
            raise to_cli_error(exc) from exc


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.option(
    "-A",
    "--app",
    metavar="APP",
    help="The Celery app, as for celery -A: reads its result backend directly.",
)
@click.option(
    "--url", envvar="HEADWAY_URL", show_envvar=True, help="A Headway server: uses its API instead."
)
@click.option(
    "--token",
    envvar="HEADWAY_TOKEN",
    show_envvar=True,
    help="The server's token. The variable is safer than this option.",
)
@click.version_option(package_name="celery-headway", prog_name="headway")
@click.pass_context
def headway(ctx: click.Context, app: str | None, url: str | None, token: str | None) -> None:
    """Live progress of Celery tasks: watch, list and cancel executions, or serve a dashboard.

    Works on a project's own app (-A, or celery -A APP headway ...), or through a server (--url).

    Exit status: 0 on success, 1 for a negative outcome (a task failed, doctor found a problem), 2
    if the command itself failed.
    """
    if isinstance(ctx.obj, CliContext):
        return  # a Python caller has passed it
    outer_app = getattr(ctx.parent.obj, "app", None) if ctx.parent is not None else None
    if (
        outer_app is not None
        and app is None
        and ctx.get_parameter_source("url") is not ParameterSource.COMMANDLINE
    ):
        assert ctx.parent is not None
        ctx.obj = CliContext(app=outer_app, app_name=_app_name(ctx.parent))
    else:
        ctx.obj = CliContext(app_name=app, url=None if app is not None else url, token=token)


def _app_name(celery: click.Context) -> str | None:
    """The value of ``celery -A``. Celery keeps only the app, but another process needs its name."""
    options, _, _ = celery.command.make_parser(celery).parse_args(sys.argv[1:])
    given = options.get("app") or celery.lookup_default("app")
    if isinstance(given, str):
        return given
    parameter = next(each for each in celery.command.params if each.name == "app")
    found = parameter.resolve_envvar_value(celery)
    return found if isinstance(found, str) else None


def main() -> None:
    """The program ``headway``."""
    headway(prog_name="headway")
