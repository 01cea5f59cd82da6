"""`Policy` alone: which requests are authorized, without a server or a store."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Request
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import EnvironBuilder

from headway.errors import ConfigurationError, NotAllowed, NotAuthenticated
from headway.server.auth import Action, Identity, Policy, check_bind, fingerprint, is_loopback
from headway.server.settings import Settings
from tests.support.flask_app import Clock

TOKENS = ("first-secret-token", "second-secret-token")
EVERY_ACTION = list(Action)


def policy(clock: Clock | None = None, authorize: Any = None, **settings: Any) -> Policy:
    return Policy(Settings.load(settings, {}, {}), clock or Clock(), authorize)


def make_request(
    path: str = "/", *, host: str = "localhost:8000", remote: str = "127.0.0.1", **headers: str
) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    builder = EnvironBuilder(
        path, base_url=f"http://{host}/", headers=names, environ_base={"REMOTE_ADDR": remote}
    )
    return Request(builder.get_environ())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestDefaultPolicy:
    @pytest.mark.parametrize("remote", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
    @pytest.mark.parametrize(
        "host",
        ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "app.localhost"],
    )
    def test_client_on_this_machine_may_do_everything(self, remote: str, host: str) -> None:
        """A client on this machine that uses a loopback name may do everything."""
        for action in EVERY_ACTION:
            policy().authorize(make_request(host=host, remote=remote), action, "x")

    @pytest.mark.parametrize(
        "remote", ["10.0.0.7", "192.168.1.2", "203.0.113.9", "::ffff:10.0.0.7", "fe80::1", ""]
    )
    def test_client_on_another_machine_is_refused(self, remote: str) -> None:
        """A client on another machine is refused; the error names the setting."""
        with pytest.raises(NotAllowed, match="HEADWAY_TOKENS"):
            policy().authorize(make_request(remote=remote), Action.READ, "x")

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7",
        ],
    )
    def test_foreign_host_name_is_refused(self, host: str) -> None:
        """DNS rebinding: a foreign name that resolves to 127.0.0.1 is refused."""
        with pytest.raises(NotAllowed):
            policy().authorize(make_request(host=host), Action.READ, "x")

    @pytest.mark.parametrize(
        "name", ["Forwarded", "X_Forwarded_For", "X_Forwarded_Host", "X_Real_IP"]
    )
    def test_request_through_local_proxy_is_refused(self, name: str) -> None:
        """A proxied request comes from loopback too, but its client may be anywhere."""
        with pytest.raises(NotAllowed):
            policy().authorize(make_request(**{name: "203.0.113.9"}), Action.READ, "x")

    def test_ticket_is_none_without_tokens(self) -> None:
        """Without tokens no ticket is needed, and `ticket` returns None."""
        guard = policy()
        assert guard.ticket(guard.authorize(make_request(), Action.TICKET)) is None


class TestWithTokens:
    @pytest.mark.parametrize("token", TOKENS)
    def test_each_token_is_accepted(self, token: str) -> None:
        """Every configured token allows every action, from any machine, under any name."""
        guard = policy(tokens=TOKENS)
        for action in EVERY_ACTION:
            sent = make_request(host="app.example", remote="203.0.113.9", **bearer(token))
            assert guard.authorize(sent, action, "x") == Identity(fingerprint(token))

    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            "Bearer first-secret-toke",
            "Bearer first-secret-token2",
            "Bearer FIRST-SECRET-TOKEN",
            "Bearer first-secret-token,second-secret-token",
            "Basic Zmlyc3Qtc2VjcmV0LXRva2VuOg==",
            "first-secret-token",
            "Bearer t\u00f6ken",
        ],
    )
    def test_missing_or_wrong_token_is_refused(self, authorization: str | None) -> None:
        """No token, a wrong one, a part of one, another scheme: refused, even on this machine."""
        headers = {} if authorization is None else {"Authorization": authorization}
        for action in EVERY_ACTION:
            with pytest.raises(NotAuthenticated):
                policy(tokens=TOKENS).authorize(make_request(**headers), action, "x")

    def test_blank_tokens_are_ignored(self) -> None:
        """A list of blanks sets no token, and an empty Bearer is refused."""
        settings = Settings.load({}, {}, {"HEADWAY_TOKENS": " , ,"})
        assert settings.tokens == ()
        with pytest.raises(NotAllowed):
            Policy(settings, Clock()).authorize(
                make_request(remote="203.0.113.9", Authorization="Bearer "), Action.READ
            )

    def test_repr_hides_tokens(self) -> None:
        """Neither the settings' repr nor an identity shows a token."""
        assert "secret" not in repr(Settings(tokens=TOKENS))
        assert "secret" not in repr(
            policy(tokens=TOKENS).authorize(make_request(**bearer(TOKENS[0])), Action.READ)
        )


class TestTickets:
    def ticket(self, guard: Policy, token: str = TOKENS[0]) -> str:
        made = guard.ticket(guard.authorize(make_request(**bearer(token)), Action.TICKET))
        assert made is not None
        return made

    def test_ticket_opens_stream_in_any_process(self) -> None:
        """A ticket opens a stream for its caller in every process that has the same tokens."""
        clock = Clock()
        made = self.ticket(policy(clock, tokens=TOKENS))
        elsewhere = policy(clock, tokens=tuple(reversed(TOKENS)))
        assert elsewhere.authorize(make_request(f"/?ticket={made}"), Action.WATCH, "x") == Identity(
            fingerprint(TOKENS[0])
        )

    @pytest.mark.parametrize("action", [action for action in Action if action is not Action.WATCH])
    def test_ticket_is_valid_for_streams_only(self, action: Action) -> None:
        """URLs appear in logs: a ticket cannot read, start or fetch further tickets."""
        guard = policy(tokens=TOKENS)
        with pytest.raises(NotAuthenticated):
            guard.authorize(make_request(f"/?ticket={self.ticket(guard)}"), action, "x")

    def test_ticket_expires_after_its_lifetime(self) -> None:
        """A ticket is valid until its lifetime is over."""
        clock = Clock()
        guard = policy(clock, tokens=TOKENS, ticket_lifetime=30)
        sent = make_request(f"/?ticket={self.ticket(guard)}")
        clock.tick(29.9)
        guard.authorize(sent, Action.WATCH, "x")
        clock.tick(0.1)
        with pytest.raises(NotAuthenticated):
            guard.authorize(sent, Action.WATCH, "x")

    def test_identity_outlives_its_ticket(self) -> None:
        """A stream outlives its ticket: `permit` takes the identity, not the ticket."""
        clock = Clock()
        guard = policy(clock, tokens=TOKENS, ticket_lifetime=30)
        sent = make_request(f"/?ticket={self.ticket(guard)}")
        who = guard.authorize(sent, Action.WATCH)
        clock.tick(3600)
        assert guard.permit(who, sent, Action.WATCH, "x") == who
        with pytest.raises(NotAuthenticated):
            guard.permit(Identity(None), sent, Action.WATCH, "x")

    def test_ticket_ends_when_its_token_is_removed(self) -> None:
        """Removing a token from the settings ends its tickets."""
        clock = Clock()
        made = self.ticket(policy(clock, tokens=TOKENS))
        with pytest.raises(NotAuthenticated):
            policy(clock, tokens=TOKENS[1:]).authorize(
                make_request(f"/?ticket={made}"), Action.WATCH, "x"
            )

    @pytest.mark.parametrize("ticket", ["x", "a.b", "", "%00", "W10.x", "." * 2000])
    def test_unsigned_ticket_is_refused(self, ticket: str) -> None:
        """A text that no token has signed is not a ticket."""
        with pytest.raises(NotAuthenticated):
            policy(tokens=TOKENS).authorize(make_request(f"/?ticket={ticket}"), Action.WATCH, "x")

    def test_changed_ticket_is_refused(self) -> None:
        """One changed character breaks the signature."""
        guard = policy(tokens=TOKENS)
        made = self.ticket(guard)
        changed = ("A" if made[0] != "A" else "B") + made[1:]
        with pytest.raises(NotAuthenticated):
            guard.authorize(make_request(f"/?ticket={changed}"), Action.WATCH, "x")


class TestAuthorizeFunction:
    def test_authorize_decides_for_every_client(self) -> None:
        """`authorize` receives identity, action and id, and decides for every client."""
        calls: list[tuple[Identity, Action, str | None]] = []

        def rule(who: Identity, action: Action, execution_id: str | None) -> bool:
            calls.append((who, action, execution_id))
            return action is Action.READ

        guard = policy(authorize=rule)
        guard.authorize(make_request(remote="203.0.113.9"), Action.READ, "x")
        with pytest.raises(NotAllowed, match="start"):
            guard.authorize(make_request(), Action.START)
        assert calls == [(Identity(None), Action.READ, "x"), (Identity(None), Action.START, None)]

    def test_authorize_restricts_what_a_token_allows(self) -> None:
        """With tokens too, a known caller gets 403 from the rule, and an unknown one 401."""
        guard = policy(
            tokens=TOKENS,
            authorize=lambda who, action, _: (
                who.name == fingerprint(TOKENS[0]) and action is Action.READ
            ),
        )
        guard.authorize(make_request(**bearer(TOKENS[0])), Action.READ, "x")
        with pytest.raises(NotAllowed):
            guard.authorize(make_request(**bearer(TOKENS[1])), Action.READ, "x")
        with pytest.raises(NotAuthenticated):
            guard.authorize(make_request(), Action.READ, "x")

    def test_exception_in_authorize_is_not_permission(self) -> None:
        """An exception in the rule is raised, and is not permission."""

        def rule(*_: object) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            policy(authorize=rule).authorize(make_request(), Action.READ, "x")


class TestOrigin:
    def test_request_without_origin_is_accepted(self) -> None:
        """A request without Origin does not come from a page."""
        policy().check_origin(make_request())

    @pytest.mark.parametrize(
        ("host", "origin"),
        [
            ("localhost:8000", "http://localhost:8000"),
            ("app.example", "http://app.example"),
            ("App.Example", "http://app.example"),
            ("app.example:80", "http://app.example"),
            ("[::1]:8000", "http://[::1]:8000"),
        ],
    )
    def test_own_page_is_accepted(self, host: str, origin: str) -> None:
        """The server's own pages are accepted; default port and case make no difference."""
        policy().check_origin(make_request(host=host, Origin=origin))

    @pytest.mark.parametrize(
        "origin",
        [
            "https://evil.example",
            "null",
            "",
            "http://localhost:9000",
            "https://localhost:8000",
            "http://localhost",
            "file://",
            "http://localhost:8000.evil.example",
            "http://evil.example#http://localhost:8000",
        ],
    )
    def test_foreign_page_is_refused(self, origin: str) -> None:
        """Another host, port or scheme, a sandboxed frame and a file are refused."""
        with pytest.raises(NotAllowed):
            policy().check_origin(make_request(Origin=origin))

    def test_configured_origin_is_accepted(self) -> None:
        """A configured origin is accepted, its subdomains are not, and null is not configurable."""
        guard = policy(origins="https://app.example.com, http://localhost:3000")
        guard.check_origin(make_request(Origin="https://app.example.com"))
        guard.check_origin(make_request(Origin="http://localhost:3000"))
        with pytest.raises(NotAllowed):
            guard.check_origin(make_request(Origin="https://sub.app.example.com"))
        with pytest.raises(ConfigurationError):
            policy(origins="null")

    def test_public_origin_behind_proxy_is_accepted(self) -> None:
        """With ProxyFix the public address counts, and the inner address is refused."""
        seen: list[Request] = []

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            seen.append(Request(environ))
            start_response("204 No Content", [])
            return []

        builder = EnvironBuilder(
            "/",
            base_url="http://127.0.0.1:8000/",
            headers={"X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.example"},
        )
        list(ProxyFix(app, x_proto=1, x_host=1)(builder.get_environ(), lambda *_: lambda _: None))
        for origin, passes in (
            ("https://app.example", True),
            ("http://127.0.0.1:8000", False),
            ("http://app.example", False),
        ):
            seen[0].environ["HTTP_ORIGIN"] = origin
            if passes:
                policy().check_origin(Request(seen[0].environ))
            else:
                with pytest.raises(NotAllowed, match="ProxyFix"):
                    policy().check_origin(Request(seen[0].environ))


class TestBind:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "127.1.2.3",
            "::1",
            "[::1]",
            "localhost",
            "LOCALHOST",
            "unix:/run/headway.sock",
        ],
    )
    def test_loopback_bind_needs_no_token(self, host: str) -> None:
        """A server for this machine only starts without a token."""
        check_bind(host, ())

    @pytest.mark.parametrize(
        "host", ["0.0.0.0", "::", "", "10.0.0.7", "example.org", "localhost.example.org", "0"]
    )
    def test_public_bind_needs_a_token(self, host: str) -> None:
        """On any other address a server needs a token; the error names the setting."""
        for empty in (None, "", " , ", (), [" "]):
            with pytest.raises(ConfigurationError, match="HEADWAY_TOKENS"):
                check_bind(host, empty)
        check_bind(host, "a-token")
        check_bind(host, ["a-token"])

    def test_unknown_name_is_not_loopback(self) -> None:
        """No DNS lookup: its answer may change after the start."""
        assert not is_loopback("loopback.example")
