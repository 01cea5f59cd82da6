"""What every command is given: where to look; and how it says what is wrong."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import click

from headway.cli.format import clean
from headway.cli.source import ExecutionSource
from headway.errors import ConfigurationError, ExecutionConflict, HeadwayError, UsageError

NOWHERE = "Where? Give -A APP before the command (the Celery app, as for celery -A), or --url URL (a Headway server; or HEADWAY_URL)"
NO_APP = "This needs the project's Celery app: celery -A APP headway {command}, or headway -A APP {command}"

as_json = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line, for programs."
)


@dataclass(frozen=True, slots=True)
class Call:
    """Where to look: the app itself, its name, or a server's address."""

    app: Any = None
    app_name: str | None = None
    url: str | None = None
    token: str | None = None

    def source(self) -> ExecutionSource:
        """What to ask. Raises ``UsageError`` where nothing was said, ``ConfigurationError`` where
        it can't work.
        """
        if self.url is not None:
            try:
                from headway.cli.api_source import Remote  # noqa: PLC0415  (its libraries are an extra)
            except ImportError as exc:
                raise ConfigurationError(str(exc)) from exc
            return Remote(self.url, self.token)
        from headway.cli.backend_source import Direct  # noqa: PLC0415  (with the result backend's driver)

        # The server's own variable, and its words.
        allow_pickle = os.environ.get("HEADWAY_ALLOW_PICKLE", "").strip().lower() in (
            "1",
            "true",
            "yes",
            "on",
        )
        return Direct(self.celery(None), allow_pickle=allow_pickle)

    def celery(self, command: str | None) -> Any:
        """The app; ``command``: that nothing else would do for."""
        if self.app is not None:
            return self.app
        if self.app_name is None:
            raise UsageError(NOWHERE if command is None else NO_APP.format(command=command))
        from celery.app.utils import find_app  # noqa: PLC0415

        try:
            return find_app(self.app_name)
        except Exception as exc:
            raise UsageError(
                f"There is no Celery app in {self.app_name!r}: {type(exc).__name__}: {exc}"
            ) from exc


class Told(click.ClickException):
    """An error as one sentence on stderr."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's own subclasses do the same

    def show(self, file: Any = None) -> None:
        """Say it."""
        print_error(self.message)


def to_cli_error(error: HeadwayError) -> Told:
    """What became of what was asked is 1; that it could not be asked is 2."""
    return Told(str(error), 1 if isinstance(error, ExecutionConflict) else 2)


def print_error(message: str) -> None:
    """One sentence on stderr. It may quote a server, an id or an exception: as harmless as what
    tasks say.
    """
    click.echo(f"headway: {clean(message)}", err=True)


def print_json(body: object) -> None:
    """One line, at once: who reads a pipe waits for it."""
    click.echo(json.dumps(body, ensure_ascii=False, allow_nan=False))


def styled(text: str, colour: str | None = None, *, dim: bool = False) -> str:
    """In colour, unless NO_COLOR is set (https://no-color.org); ``click.echo`` takes it off again
    where there is no terminal.
    """
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour, dim=dim or None)
