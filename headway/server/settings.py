"""The settings. Arguments take precedence over Flask's config, which takes precedence over the
environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from headway.errors import ConfigurationError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
#: A path without characters that have a meaning in routes or URLs.
_PATH = re.compile(r"/|(?:/[\w.~-]+)+/?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, one field each. ``HEADWAY_<FIELD>`` sets a field in Flask's config or in the
    environment.

    A list is any iterable of strings, or one string with commas. In `load`, None means "not set".
    """

    #: The path of the API in the Flask app; starts with a slash. Not the root itself: Headway
    #: answers unmatched URLs below the prefix, and the app's own pages must stay its own.
    url_prefix: str = "/api/v1"
    #: The path of the dashboard, such as ``/jobs``; ``/`` for an app with no other pages. None or
    #: empty: no dashboard.
    dashboard: str | None = None
    #: Valid tokens; every request needs ``Authorization: Bearer <one of them>``. Empty: only
    #: clients on this machine have access. Create a token with
    #: ``python -c "import secrets; print(secrets.token_urlsafe(32))"``.
    tokens: tuple[str, ...] = field(default=(), repr=False)
    #: Other origins whose pages may use the API (``https://app.example.com``). The app's own origin
    #: is always allowed.
    origins: tuple[str, ...] = ()
    #: Names of the tasks that ``POST /executions`` may start. Empty: none.
    startable_tasks: tuple[str, ...] = ()
    #: Open streams (WebSocket, server-sent events, held polls) per process. 0: as many as the web
    #: server can serve.
    max_viewers: int = 0
    #: Whether to read results that were stored with pickle. Reading them runs code of anyone who
    #: can write to the backend (celery-facts#pickle-results-run-code).
    allow_pickle: bool = False
    #: Whether ``/healthz``, ``/readyz``, ``/metrics`` and ``/openapi.json`` are also at the root.
    #: They are always below the prefix; the root belongs to your app.
    root_endpoints: bool = False
    #: Whether Tensorlake's two paths are at the root.
    tensorlake: bool = True
    #: The longest ``?wait=`` of a held poll, in seconds.
    max_wait: float = 30.0
    #: The ``Retry-After`` of an execution that is not terminal, in whole seconds.
    retry_after: int = 1
    #: How long a ticket for a browser's stream is valid, in seconds.
    ticket_lifetime: float = 30.0
    #: The largest body of a POST, in bytes.
    max_body: int = 1024 * 1024
    #: How long starting a task may wait for the broker, in seconds per step of the connection.
    broker_timeout: float = 2.0
    #: How long an ``Idempotency-Key`` is remembered, in seconds.
    idempotency_lifetime: float = 86400.0
    #: Seconds between two pings or heartbeats of a quiet stream.
    ping_interval: float = 20.0
    #: The kernel's send buffer per viewer, in bytes. Frames in that buffer are not merged
    #: (web-facts#send-buffer-hides-slow-viewers).
    send_buffer: int = 65536
    #: Seconds between two polls of a result backend without push, for watched executions.
    poll_interval: float = 1.0

    def __post_init__(self) -> None:
        prefix = self.url_prefix
        if not prefix.startswith("/") or prefix.endswith("/"):
            raise ConfigurationError(
                f"url_prefix {prefix!r} is not valid: it must start with a slash, must not end "
                "with one, and cannot be the root. Use for example '/api/v1' or '/headway'."
            )
        if self.dashboard is not None:
            if not _PATH.fullmatch(self.dashboard):
                raise ConfigurationError(
                    f"dashboard must be a path such as '/jobs' or '/', not {self.dashboard!r}"
                )
            if f"{self.dashboard.rstrip('/')}/".startswith(f"{prefix}/"):
                raise ConfigurationError(
                    f"dashboard must not be below url_prefix {prefix!r}, but is {self.dashboard!r}"
                )
        for origin in self.origins:
            if "://" not in origin or origin.count("/") != 2:
                raise ConfigurationError(
                    f"origins: {origin!r} is not valid; an origin is scheme://host[:port], such as "
                    "https://app.example.com"
                )
        for name in (
            "max_wait",
            "ticket_lifetime",
            "max_body",
            "broker_timeout",
            "idempotency_lifetime",
            "ping_interval",
            "send_buffer",
            "poll_interval",
        ):
            if not getattr(self, name) > 0:
                raise ConfigurationError(
                    f"{name} must be greater than 0, not {getattr(self, name)!r}"
                )
        if self.max_viewers < 0:
            raise ConfigurationError(
                "max_viewers must be 0 (as many as the server can serve) or more, "
                f"not {self.max_viewers!r}"
            )

    @classmethod
    def load(
        cls, explicit: Mapping[str, Any], config: Mapping[str, Any], environ: Mapping[str, str]
    ) -> Settings:
        """Read every field.

        Raises ``ConfigurationError`` for an unknown name or an invalid value.
        """
        unknown = sorted(set(explicit) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigurationError(
                f"Unknown setting of Headway(): {', '.join(unknown)}; see "
                "headway.server.settings.Settings"
            )
        chosen: dict[str, Any] = {}
        for each in fields(cls):
            key = f"HEADWAY_{each.name.upper()}"
            for value, source in (
                (explicit.get(each.name), each.name),
                (config.get(key), key),
                (environ.get(key), key),
            ):
                if value is not None:
                    chosen[each.name] = _parsed(_PARSERS[str(each.type)], value, source)
                    break
        return cls(**chosen)


def _parsed(parse: Callable[[Any], Any], value: Any, source: str) -> Any:
    try:
        return parse(value)
    except (TypeError, ValueError):
        # Without the value: it may be a secret that was put into the wrong variable.
        expected = _EXPECTED[parse]
        raise ConfigurationError(f"{source} must be {expected}") from None


def _strings(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    if not all(isinstance(part, str) for part in parts):
        raise TypeError
    return tuple(stripped for part in parts if (stripped := part.strip()))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _optional_text(value: Any) -> str | None:
    return _text(value) or None


def _bool(value: Any) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if word in _TRUE or word is True:
        return True
    if word in _FALSE or word is False:
        return False
    raise ValueError


#: What a value of each parser must be, for the error message.
_EXPECTED: Mapping[Callable[[Any], Any], str] = {
    _text: "a string",
    _optional_text: "a string",
    _strings: "a list of strings, or one string with commas",
    int: "a whole number",
    float: "a number",
    _bool: "true or false",
}

_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "str": _text,
    "str | None": _optional_text,
    "tuple[str, ...]": _strings,
    "int": int,
    "float": float,
    "bool": _bool,
}
