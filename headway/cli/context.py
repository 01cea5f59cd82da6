"""`CliContext`: the app or server that a command works on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from headway.cli.source import ExecutionSource
from headway.errors import ConfigurationError, UsageError

SOURCE_REQUIRED = (
    "No app and no server given. Put -A APP before the command (the Celery app, as for celery -A), "
    "or --url URL (a Headway server; or set HEADWAY_URL)"
)
APP_REQUIRED = (
    "This command needs the project's Celery app: celery -A APP headway {command}, "
    "or headway -A APP {command}"
)


@dataclass(frozen=True, slots=True)
class CliContext:
    """The Celery app, or its name, or a server's address. The context object of all commands."""

    app: Any = None
    app_name: str | None = None
    url: str | None = None
    token: str | None = None

    def source(self) -> ExecutionSource:
        """The source of executions. Raises ``UsageError`` without an app and a server,
        ``ConfigurationError`` if the source can't work.
        """
        if self.url is not None:
            try:
                from headway.cli.api_source import ApiSource  # noqa: PLC0415  (an extra)
            except ImportError as exc:
                raise ConfigurationError(str(exc)) from exc
            return ApiSource(self.url, self.token)
        from headway.cli.backend_source import BackendSource  # noqa: PLC0415  (imports the driver)

        # The same variable and values as for the server.
        variable = os.environ.get("HEADWAY_ALLOW_PICKLE", "").strip().lower()
        return BackendSource(self.celery(), allow_pickle=variable in ("1", "true", "yes", "on"))

    def celery(self, command: str | None = None) -> Any:
        """The Celery app. ``command``: the name of a command that can't work through a server."""
        if self.app is not None:
            return self.app
        if self.app_name is None:
            raise UsageError(
                SOURCE_REQUIRED if command is None else APP_REQUIRED.format(command=command)
            )
        from celery.app.utils import find_app  # noqa: PLC0415

        try:
            return find_app(self.app_name)
        except Exception as exc:
            raise UsageError(
                f"There is no Celery app in {self.app_name!r}: {type(exc).__name__}: {exc}"
            ) from exc
