"""Authorization: `Policy.authorize` decides requests, `Policy.check_origin` refuses other sites.

There are three configurations:

* default: only clients on this machine have access, and only under a loopback name. The name
  matters because of DNS rebinding: a page of evil.example may point its own name at 127.0.0.1, and
  its requests then come from this machine too.
* tokens: every request carries ``Authorization: Bearer <token>``. A browser's WebSocket and
  EventSource cannot send headers, so a page with a token fetches a ticket (``POST /tickets``) and
  opens the stream with ``?ticket=``.
* ``authorize(who, action, execution_id) -> bool``: the app's own rule (its session, its roles)
  decides. ``who`` names the token of the request, if any. The function runs in the request:
  ``flask.request`` and ``current_user`` are available.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from flask import Request
from itsdangerous import BadData, URLSafeSerializer
from werkzeug.datastructures import Headers

from headway.errors import ConfigurationError, NotAllowed, NotAuthenticated
from headway.server.settings import Settings


class Action(StrEnum):
    """What a caller wants to do."""

    #: One execution, or its progress, now.
    READ = "read"
    #: A stream of one execution's changes.
    WATCH = "watch"
    LIST = "list"
    #: The number of executions, of all owners.
    COUNT = "count"
    START = "start"
    CANCEL = "cancel"
    METRICS = "metrics"
    #: A ticket for a browser's stream.
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller. ``name`` identifies a token without revealing it; None: not identified."""

    name: str | None

    @property
    def known(self) -> bool:
        """Whether a valid token or ticket came with the request."""
        return self.name is not None


ANONYMOUS = Identity(None)
LOCAL = Identity("local")

#: The app's own rule: caller, action, and execution id (None if the action has no single one).
Authorize = Callable[[Identity, Action, str | None], bool]

#: Headers of a proxy: the client is not the loopback address that the server sees.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")

LOCAL_ONLY_HELP = (
    "Only localhost has access until you configure tokens: without them, requests must come from "
    "the server's own machine, use a loopback name such as localhost, and pass no proxy. Set "
    "HEADWAY_TOKENS (or tokens=, or authorize=) on the server."
)


class Policy:
    """Authorizes requests. Keeps no state, and logs nothing: a token must never reach a log."""

    def __init__(
        self, settings: Settings, clock: Callable[[], datetime], authorize: Authorize | None = None
    ) -> None:
        self._tokens = {fingerprint(token): token for token in settings.tokens}
        self._origins = frozenset(origin.lower() for origin in settings.origins)
        self._lifetime = settings.ticket_lifetime
        self._clock = clock
        self._authorize = authorize

    def authorize(
        self, request: Request, action: Action, execution_id: str | None = None
    ) -> Identity:
        """Return the caller's identity.

        Raises ``NotAuthenticated`` (401, 4401) or ``NotAllowed`` (403, 4403).
        """
        return self.permit(self._identify(request, action), request, action, execution_id)

    def permit(
        self, who: Identity, request: Request, action: Action, execution_id: str | None = None
    ) -> Identity:
        """As `authorize`, for an identity that is known already.

        A stream needs it after the ticket that opened it has expired.
        """
        if self._authorize is not None:
            if self._authorize(who, action, execution_id):
                return who
            if self._tokens and not who.known:
                raise NotAuthenticated("This request needs a token, or a login with permission")
            about = f" execution '{execution_id}'" if execution_id is not None else ""
            raise NotAllowed(f"Not allowed to {action.value}{about}")
        if not self._tokens:
            _check_local(request)
            return LOCAL
        if not who.known:
            raise NotAuthenticated(
                "This request needs a token: send it as 'Authorization: Bearer <token>'"
            )
        return who

    def check_origin(self, request: Request) -> None:
        """Raise ``NotAllowed`` for a request from a page of another site.

        Programs send no ``Origin`` and are accepted.
        """
        origin = request.headers.get("Origin")
        if origin is None or self.allows_origin(origin) or origin.lower() == _own_origin(request):
            return
        raise NotAllowed(
            f"Pages of the origin {origin[:200]!r} may not use this API at "
            f"{_own_origin(request)!r}. List the origin in HEADWAY_ORIGINS (or origins=). Behind a "
            "proxy, use werkzeug's ProxyFix, so that the app knows its public address."
        )

    def allows_origin(self, origin: str) -> bool:
        """Whether the settings list this origin. ``null`` (a sandboxed frame, a file) never is."""
        return origin.lower() in self._origins

    def ticket(self, who: Identity) -> str | None:
        """A short-lived replacement for ``who``'s token in a stream's URL; None without tokens.

        The token itself signs it: every web process can verify it, and removing the token ends its
        tickets. It is valid for streams only, because URLs appear in logs.
        """
        token = self._tokens.get(who.name or "")
        if token is None:
            return None
        return _signer(token).dumps(self._clock().timestamp() + self._lifetime)

    def _identify(self, request: Request, action: Action) -> Identity:
        credentials = request.authorization
        if credentials is not None and credentials.type == "bearer" and credentials.token:
            return self._bearer(credentials.token)
        if action is Action.WATCH and (ticket := request.args.get("ticket")):
            return self._of_ticket(ticket)
        return ANONYMOUS

    def _bearer(self, given: str) -> Identity:
        # Compare with all tokens in constant time: timing reveals neither a prefix nor a position.
        found = ANONYMOUS
        for name, token in self._tokens.items():
            if hmac.compare_digest(
                given.encode("utf-8", "replace"), token.encode("utf-8", "replace")
            ):
                found = Identity(name)
        return found

    def _of_ticket(self, ticket: str) -> Identity:
        for name, token in self._tokens.items():
            try:
                until: float = _signer(token).loads(ticket)
            except BadData:
                continue
            if self._clock().timestamp() < until:
                return Identity(name)
        return ANONYMOUS


def fingerprint(token: str) -> str:
    """A name for a token that does not reveal it. It is the same in every process."""
    return (
        "token-"
        + hashlib.sha256(b"headway-identity\0" + token.encode("utf-8", "replace")).hexdigest()[:12]
    )


def check_bind(host: str, tokens: Iterable[str] | str | None) -> None:
    """Raise ``ConfigurationError`` if a server would listen beyond this machine without tokens.

    ``host`` is the bind address without the port; a ``unix:`` socket is on this machine. ``tokens``
    as in the settings.
    """
    given = (
        tokens.replace(",", " ").split()
        if isinstance(tokens, str)
        else [token for token in tokens or () if token.strip()]
    )
    if given or host.startswith("unix:") or is_loopback(host):
        return
    raise ConfigurationError(
        f"Headway would listen on {host or 'every address'!r}, which is open to the network. Set "
        "HEADWAY_TOKENS to one or more secrets, separated by commas (create one with: "
        "python -c 'import secrets; print(secrets.token_urlsafe(32))'), or listen on 127.0.0.1."
    )


def is_loopback(host: str) -> bool:
    """Whether a name or address can only be this machine. No DNS lookup: its answer may change."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def allow_origin(
    policy: Policy,
    request_headers: Headers | Mapping[str, str],
    headers: Headers,
    *,
    preflight: bool,
) -> None:
    """Add CORS headers for the origins in the settings. Browsers refuse all others."""
    origin = request_headers.get("Origin")
    if origin is None or not policy.allows_origin(origin):
        return
    headers["Access-Control-Allow-Origin"] = origin
    headers.add("Vary", "Origin")
    headers["Access-Control-Expose-Headers"] = "ETag, Location, Retry-After"
    if preflight:
        headers["Access-Control-Allow-Methods"] = headers.get("Allow", "GET")
        headers["Access-Control-Allow-Headers"] = (
            "Authorization, Content-Type, Idempotency-Key, If-None-Match"
        )


def _signer(token: str) -> URLSafeSerializer:
    return URLSafeSerializer(
        token,
        salt="headway-ticket",
        signer_kwargs={"digest_method": hashlib.sha256, "key_derivation": "hmac"},
    )


def _check_local(request: Request) -> None:
    host = request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host
    forwarded = any(name in request.headers for name in FORWARDED)
    if forwarded or not is_loopback(request.remote_addr or "") or not is_loopback(host):
        raise NotAllowed(LOCAL_ONLY_HELP)


def _own_origin(request: Request) -> str:
    """Scheme, host and port as the browser sees them (with ProxyFix), without default ports."""
    return f"{'https' if request.scheme in ('https', 'wss') else 'http'}://{request.host}".lower()
