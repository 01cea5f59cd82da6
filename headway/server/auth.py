"""Who may do what: one place decides, `Policy.authorize`; `Policy.check_origin` keeps other sites'
pages out.

Three set-ups, from the safest to start with:

* nothing given: only clients on this machine are served, and only under a loopback name. The name
  matters because of DNS rebinding: a page of evil.example may point its own name at 127.0.0.1, and
  its requests then come from this machine too.
* tokens: every call carries ``Authorization: Bearer <token>``. A browser's WebSocket and
  EventSource can't send headers, so a page that holds a token fetches a ticket (``POST /tickets``)
  and opens the stream with ``?ticket=``.
* ``authorize(who, action, execution_id) -> bool``: the app's own rule (its session, its roles)
  decides; it is told who came with a token, or that nobody did. It runs in the request, so that
  ``flask.request`` and ``current_user`` are at hand.
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
    #: How many executions there are, of whomever.
    COUNT = "count"
    START = "start"
    CANCEL = "cancel"
    METRICS = "metrics"
    #: A ticket for a browser's stream.
    TICKET = "ticket"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. ``name`` tells tokens apart without telling the token; None: nobody that is known."""

    name: str | None

    @property
    def known(self) -> bool:
        """Whether a valid token or ticket came with the request."""
        return self.name is not None


NOBODY = Identity(None)
LOCAL = Identity("local")

#: The app's own rule: who, what, and on which execution (None where it is about no single one).
Authorize = Callable[[Identity, Action, str | None], bool]

#: Any of these says that somebody else stands behind the loopback address: a proxy.
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")

UNLOCK = (
    "Without tokens only clients on the server's own machine are served, by a loopback name such as localhost and through no "
    "proxy. Set HEADWAY_TOKENS (or tokens=, or authorize=) on the server to serve others."
)


class Policy:
    """The lock. Holds no state of a request, and logs nothing: a token must never reach a log."""

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
        """Let the request through, or raise ``NotAuthenticated`` (401, 4401) or ``NotAllowed``
        (403, 4403).
        """
        return self.permit(self._identify(request, action), request, action, execution_id)

    def permit(
        self, who: Identity, request: Request, action: Action, execution_id: str | None = None
    ) -> Identity:
        """`authorize`, of one who is known already: for a stream that asks again long after its
        ticket opened it, and expired.
        """
        if self._authorize is not None:
            if self._authorize(who, action, execution_id):
                return who
            if self._tokens and not who.known:
                raise NotAuthenticated("This call wants a token, or a login that may do it")
            about = f" execution '{execution_id}'" if execution_id is not None else ""
            raise NotAllowed(f"You may not {action.value}{about}")
        if not self._tokens:
            _check_local(request)
            return LOCAL
        if not who.known:
            raise NotAuthenticated(
                "This call wants a token: send it as 'Authorization: Bearer <token>'"
            )
        return who

    def check_origin(self, request: Request) -> None:
        """Raise ``NotAllowed`` where a page of another site is behind the request. Programs send no
        ``Origin`` and pass.
        """
        origin = request.headers.get("Origin")
        if origin is None or self.allows_origin(origin) or origin.lower() == _own_origin(request):
            return
        raise NotAllowed(
            f"Pages of the origin {origin[:200]!r} may not use this API, which is at {_own_origin(request)!r}. "
            "Name it in HEADWAY_ORIGINS (or origins=); behind a proxy, let werkzeug's ProxyFix tell the app its public address."
        )

    def allows_origin(self, origin: str) -> bool:
        """Whether this foreign origin was named in the settings. ``null`` (a sandboxed frame, a
        file) never is.
        """
        return origin.lower() in self._origins

    def ticket(self, who: Identity) -> str | None:
        """A short-lived stand-in for ``who``'s token in a stream's URL; None where no token is
        wanted.

        It is signed with the token that it stands for: every web process can check it, and taking
        the token away ends its tickets. It may be used for streams only, because URLs get into
        logs.
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
        return NOBODY

    def _bearer(self, given: str) -> Identity:
        # All are compared, in constant time: neither a prefix nor the position of a token can be
        # measured.
        found = NOBODY
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
        return NOBODY


def fingerprint(token: str) -> str:
    """A name for a token that doesn't give it away: the same in every process that was given it."""
    return (
        "token-"
        + hashlib.sha256(b"headway-identity\0" + token.encode("utf-8", "replace")).hexdigest()[:12]
    )


def check_bind(host: str, tokens: Iterable[str] | str | None) -> None:
    """Raise ``ConfigurationError`` where a server would listen beyond this machine with no lock on
    it.

    ``host`` is what the server binds to, without the port; a ``unix:`` socket is on this machine.
    ``tokens`` as in the settings.
    """
    given = (
        tokens.replace(",", " ").split()
        if isinstance(tokens, str)
        else [token for token in tokens or () if token.strip()]
    )
    if given or host.startswith("unix:") or is_loopback(host):
        return
    raise ConfigurationError(
        f"Headway would listen on {host or 'every address'!r}, where anybody can reach it. Set HEADWAY_TOKENS to one or more "
        "secrets, separated by commas (make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'), "
        "or listen on 127.0.0.1."
    )


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this machine's own, and can be nothing else (no look-up: its
    answer may change).
    """
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
    """Cross-origin headers for the origins that were named in the settings; none for all others, so
    that a browser refuses.
    """
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
        raise NotAllowed(UNLOCK)


def _own_origin(request: Request) -> str:
    """Scheme, host and port as the browser has them, if every proxy on the way said so (ProxyFix);
    default ports left out.
    """
    return f"{'https' if request.scheme in ('https', 'wss') else 'http'}://{request.host}".lower()
