"""What can be set, and where from: an explicit argument beats Flask's config, which beats the
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
#: A path without anything that a route or a URL would take for more than a name.
_PATH = re.compile(r"/|(?:/[\w.~-]+)+/?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per setting; each is also read from ``HEADWAY_<FIELD>`` in Flask's config and in
    the environment.

    Lists are given as any iterable of strings, or as one string with commas. In `load`, None means
    "not given here": the next place is asked, at last the default below.
    """

    #: Where the API stands in the Flask app; begins with a slash. The root itself can't be had:
    #: unmatched URLs below the prefix are answered by Headway, and an app's own pages must stay its
    #: own.
    url_prefix: str = "/api/v1"
    #: Where the dashboard stands, such as ``/jobs``; ``/`` for an app that has nothing else. None
    #: or empty: it isn't served.
    dashboard: str | None = None
    #: Who may ask: with tokens, every call wants ``Authorization: Bearer <one of them>``. Empty:
    #: loopback clients only. Make one with ``python -c "import secrets;
    #: print(secrets.token_urlsafe(32))"``.
    tokens: tuple[str, ...] = field(default=(), repr=False)
    #: Foreign origins whose pages may use the API (``https://app.example.com``); its own origin
    #: always may.
    origins: tuple[str, ...] = ()
    #: Names of the tasks that ``POST /executions`` may start. Empty: it starts nothing.
    startable: tuple[str, ...] = ()
    #: Open streams (WebSocket, server-sent events, held polls) in one process. 0: as many as the
    #: server under it can hold.
    max_viewers: int = 0
    #: Whether results that were stored with pickle are read, which runs code of whoever can write
    #: to the backend (fact 19).
    allow_pickle: bool = False
    #: Whether ``/healthz``, ``/readyz``, ``/metrics`` and ``/openapi.json`` stand at the root as
    #: well. Below the prefix they always do; in an app of your own the root's names are yours.
    operations_at_root: bool = False
    #: Whether Tensorlake's two paths stand at the root.
    tensorlake: bool = True
    #: The longest ``?wait=`` that is granted, seconds.
    max_wait: float = 30.0
    #: What a polling client is told to wait between calls (``Retry-After`` while an execution isn't
    #: terminal), whole seconds.
    retry_after: int = 1
    #: How long a ticket for a browser's socket can be used, seconds.
    ticket_lifetime: float = 30.0
    #: The largest body of a POST, bytes.
    max_body: int = 1024 * 1024
    #: How long starting a task may wait for the broker, seconds for each step of the connection.
    broker_timeout: float = 2.0
    #: How long an ``Idempotency-Key`` is remembered, seconds.
    idempotency_lifetime: float = 86400.0
    #: How often a quiet stream gets a ping or a heartbeat, seconds.
    ping_interval: float = 20.0
    #: The kernel's send buffer of one viewer, bytes: what it holds isn't merged to the newest (web
    #: fact 9).
    send_buffer: int = 65536
    #: How often a result backend that can't push is asked for what is being watched, seconds.
    poll_interval: float = 1.0

    def __post_init__(self) -> None:
        prefix = self.url_prefix
        if not prefix.startswith("/") or prefix.endswith("/"):
            raise ConfigurationError(
                f"url_prefix must begin with a slash, must not end with one and can't be the root, so {prefix!r} won't do. "
                "Use for example '/api/v1' or '/headway'."
            )
        if self.dashboard is not None:
            if not _PATH.fullmatch(self.dashboard):
                raise ConfigurationError(
                    f"dashboard must be a path such as '/jobs' or '/', not {self.dashboard!r}"
                )
            if f"{self.dashboard.rstrip('/')}/".startswith(f"{prefix}/"):
                raise ConfigurationError(
                    f"dashboard can't stand below url_prefix, which is {prefix!r}: {self.dashboard!r}"
                )
        for origin in self.origins:
            if "://" not in origin or origin.count("/") != 2:
                raise ConfigurationError(
                    f"origins are written scheme://host[:port], such as https://app.example.com; {origin!r} is not one"
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
                raise ConfigurationError(f"{name} must be above 0, not {getattr(self, name)!r}")
        if self.max_viewers < 0:
            raise ConfigurationError(
                f"max_viewers must be 0 (as many as the server can hold) or above, not {self.max_viewers!r}"
            )

    @classmethod
    def load(
        cls, explicit: Mapping[str, Any], config: Mapping[str, Any], environ: Mapping[str, str]
    ) -> Settings:
        """Ask the three places for every field. Raises ``ConfigurationError`` for a name or a value
        that can't be right.
        """
        unknown = sorted(set(explicit) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigurationError(
                f"Headway() knows no setting {', '.join(unknown)}; see headway.server.settings.Settings"
            )
        chosen: dict[str, Any] = {}
        for each in fields(cls):
            key = f"HEADWAY_{each.name.upper()}"
            for value, place in (
                (explicit.get(each.name), each.name),
                (config.get(key), key),
                (environ.get(key), key),
            ):
                if value is not None:
                    chosen[each.name] = _parsed(_PARSERS[str(each.type)], value, place)
                    break
        return cls(**chosen)


def _parsed(parse: Callable[[Any], Any], value: Any, place: str) -> Any:
    try:
        return parse(value)
    except (TypeError, ValueError):
        # The value itself stays out of the text: it may be a secret that went to the wrong
        # variable.
        raise ConfigurationError(f"{place} can't be read as {parse.__name__.strip('_')}") from None


def _strings(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    if not all(isinstance(part, str) for part in parts):
        raise TypeError
    return tuple(stripped for part in parts if (stripped := part.strip()))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _text_or_nothing(value: Any) -> str | None:
    return _text(value) or None


def _yes_or_no(value: Any) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if word in _TRUE or word is True:
        return True
    if word in _FALSE or word is False:
        return False
    raise ValueError


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "str": _text,
    "str | None": _text_or_nothing,
    "tuple[str, ...]": _strings,
    "int": int,
    "float": float,
    "bool": _yes_or_no,
}
