"""The commands, under their two names: a plug-in of ``celery``, and a program of their own."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click
from click.core import ParameterSource

from headway.cli.output import Call, to_cli_error
from headway.errors import HeadwayError

#: Command -> the module that has it, under the same name.
COMMANDS = ("watch", "ls", "show", "cancel", "web", "doctor")


class Commands(click.Group):
    """Loads a command when it is asked for, and says each of Headway's errors as one sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which one needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(import_module(f"headway.cli.{cmd_name}"), cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
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
    help="The Celery app, as for celery -A: looks into its result backend directly.",
)
@click.option(
    "--url", envvar="HEADWAY_URL", show_envvar=True, help="A Headway server: asks its API instead."
)
@click.option(
    "--token",
    envvar="HEADWAY_TOKEN",
    show_envvar=True,
    help="What the server wants; safer in the variable than here.",
)
@click.version_option(package_name="celery-headway", prog_name="headway")
@click.pass_context
def headway(ctx: click.Context, app: str | None, url: str | None, token: str | None) -> None:
    """Live progress of Celery tasks: watch it, list it, cancel it, serve it.

    Of a project's own app (-A, or celery -A APP headway ...), or through a server (--url).

    Exit status: 0 if all is well, 1 if what was asked for isn't (a job failed, doctor found
    something), 2 if it could not be asked.
    """
    if isinstance(ctx.obj, Call):
        return  # whoever calls it from Python has said where to look
    within = getattr(ctx.parent.obj, "app", None) if ctx.parent is not None else None
    if (
        within is not None
        and app is None
        and ctx.get_parameter_source("url") is not ParameterSource.COMMANDLINE
    ):
        assert ctx.parent is not None
        ctx.obj = Call(app=within, app_name=_name_given(ctx.parent))
    else:
        ctx.obj = Call(app_name=app, url=None if app is not None else url, token=token)


def _name_given(celery: click.Context) -> str | None:
    """What ``celery -A`` was given: Celery keeps the app itself, but another process needs the
    name.
    """
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
