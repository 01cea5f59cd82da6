"""``web``: a dashboard and an API for any project."""

from __future__ import annotations

import click

from headway.cli.context import APP_REQUIRED, CliContext
from headway.errors import ConfigurationError, UsageError


@click.command(short_help="Serve a dashboard and an API for the project")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to bind. Other machines have access with a token only.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5555,
    show_default=True,
    help="0: any free port.",
)
@click.option(
    "--token",
    help="Callers must send it. Other users of the machine can see it; HEADWAY_TOKENS is safer.",
)
@click.pass_context
def web(ctx: click.Context, host: str, port: int, token: str | None) -> None:
    """Serve the dashboard and the API of the project, without changes to it. Ctrl-C stops the
    server.
    """
    context: CliContext = ctx.obj
    context.celery("web")  # reports a wrong name in one sentence; gunicorn would print a traceback
    if context.app_name is None:
        raise UsageError(APP_REQUIRED.format(command="web"))
    try:
        import gunicorn.app  # noqa: F401, PLC0415  (an extra)

        from headway.server.standalone import serve  # noqa: PLC0415  (Flask is an extra)
    except ImportError as exc:
        raise ConfigurationError(
            f"The server is not installed ({exc}): pip install 'celery-headway[web,serve]'"
        ) from exc
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/" if port else "the address below"
    click.echo(f"Headway serves {context.app_name} at {url} (Ctrl-C to stop)", err=True)
    serve(context.app_name, host, port, token)
