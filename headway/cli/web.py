"""``web``: a dashboard and an API for any project."""

from __future__ import annotations

import click

from headway.cli.output import NO_APP, Call
from headway.errors import ConfigurationError, UsageError


@click.command(short_help="Serve a dashboard and an API for the project")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Beyond this machine only with a token.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=5555, show_default=True, help="0: any."
)
@click.option(
    "--token",
    help="What callers must send. Other users of the machine can see it: better set HEADWAY_TOKENS.",
)
@click.pass_context
def web(ctx: click.Context, host: str, port: int, token: str | None) -> None:
    """Serve the dashboard and the API of the project. Nothing of it has to be changed; Ctrl-C ends
    it.
    """
    call: Call = ctx.obj
    call.celery("web")  # a wrong name is told here, in one sentence, and not by gunicorn
    if call.app_name is None:
        raise UsageError(NO_APP.format(command="web"))
    try:
        from headway.server.standalone import serve  # noqa: PLC0415  (Flask and gunicorn are an extra)
    except ImportError as exc:
        raise ConfigurationError(
            f"The server isn't installed ({exc}): pip install 'celery-headway[web]'"
        ) from exc
    address = (
        f"http://{f'[{host}]' if ':' in host else host}:{port}/" if port else "the address below"
    )
    click.echo(f"Headway shows {call.app_name} at {address} (Ctrl-C ends it)", err=True)
    serve(call.app_name, host, port, token)
