"""The lock alone: who is let in, with no server and no store behind it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Request
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import EnvironBuilder

from headway.errors import ConfigurationError, NotAllowed, NotAuthenticated
from headway.server.auth import Action, Identity, Policy, check_bind, fingerprint, is_loopback
from headway.server.settings import Settings

TOKENS = ("first-secret-token", "second-secret-token")
EVERY_ACTION = list(Action)


class Clock:
    """A clock that a test turns by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def policy(clock: Clock | None = None, authorize: Any = None, **settings: Any) -> Policy:
    return Policy(Settings.load(settings, {}, {}), clock or Clock(), authorize)


def a_request(
    path: str = "/", *, host: str = "localhost:8000", remote: str = "127.0.0.1", **headers: str
) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    builder = EnvironBuilder(
        path, base_url=f"http://{host}/", headers=names, environ_base={"REMOTE_ADDR": remote}
    )
    return Request(builder.get_environ())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class TestWithNothingSet:
    @pytest.mark.parametrize("remote", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
    @pytest.mark.parametrize(
        "host",
        ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "app.localhost"],
    )
    def test_this_machine_is_served(self, remote: str, host: str) -> None:
        """A client on this machine that calls the server by a loopback name may do everything."""
        for action in EVERY_ACTION:
            policy().authorize(a_request(host=host, remote=remote), action, "x")

    @pytest.mark.parametrize(
        "remote", ["10.0.0.7", "192.168.1.2", "203.0.113.9", "::ffff:10.0.0.7", "fe80::1", ""]
    )
    def test_another_machine_is_refused(self, remote: str) -> None:
        """A client on another machine is refused, and told what to set."""
        with pytest.raises(NotAllowed, match="HEADWAY_TOKENS"):
            policy().authorize(a_request(remote=remote), Action.READ, "x")

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
    def test_a_name_that_was_pointed_at_this_machine_is_refused(self, host: str) -> None:
        """DNS rebinding: a foreign name that leads to 127.0.0.1 doesn't open the lock."""
        with pytest.raises(NotAllowed):
            policy().authorize(a_request(host=host), Action.READ, "x")

    @pytest.mark.parametrize(
        "name", ["Forwarded", "X_Forwarded_For", "X_Forwarded_Host", "X_Real_IP"]
    )
    def test_a_proxy_on_this_machine_is_refused(self, name: str) -> None:
        """What a proxy passes on comes from loopback too, and isn't local for that."""
        with pytest.raises(NotAllowed):
            policy().authorize(a_request(**{name: "203.0.113.9"}), Action.READ, "x")

    def test_no_ticket_is_needed(self) -> None:
        """There is no token that a ticket could stand for: None says that none is wanted."""
        lock = policy()
        assert lock.ticket(lock.authorize(a_request(), Action.TICKET)) is None


class TestWithTokens:
    @pytest.mark.parametrize("token", TOKENS)
    def test_each_token_opens(self, token: str) -> None:
        """Every token of the list opens for every action, from any machine, under any name."""
        lock = policy(tokens=TOKENS)
        for action in EVERY_ACTION:
            asked = a_request(host="app.example", remote="203.0.113.9", **bearer(token))
            assert lock.authorize(asked, action, "x") == Identity(fingerprint(token))

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
    def test_anything_else_does_not(self, authorization: str | None) -> None:
        """No token, a wrong one, a part of one, another scheme: not authenticated, not even from
        this machine.
        """
        headers = {} if authorization is None else {"Authorization": authorization}
        for action in EVERY_ACTION:
            with pytest.raises(NotAuthenticated):
                policy(tokens=TOKENS).authorize(a_request(**headers), action, "x")

    def test_empty_tokens_are_none(self) -> None:
        """A list with nothing in it, or with blanks, sets no token: an empty Bearer opens nothing."""
        settings = Settings.load({}, {}, {"HEADWAY_TOKENS": " , ,"})
        assert settings.tokens == ()
        with pytest.raises(NotAllowed):
            Policy(settings, Clock()).authorize(
                a_request(remote="203.0.113.9", Authorization="Bearer "), Action.READ
            )

    def test_tokens_are_not_shown(self) -> None:
        """Neither the settings' repr nor an identity shows a token."""
        assert "secret" not in repr(Settings(tokens=TOKENS))
        assert "secret" not in repr(
            policy(tokens=TOKENS).authorize(a_request(**bearer(TOKENS[0])), Action.READ)
        )


class TestTickets:
    def ticket(self, lock: Policy, token: str = TOKENS[0]) -> str:
        made = lock.ticket(lock.authorize(a_request(**bearer(token)), Action.TICKET))
        assert made is not None
        return made

    def test_it_opens_a_stream(self) -> None:
        """A ticket opens a stream for whoever fetched it, in any process that has the same tokens."""
        clock = Clock()
        made = self.ticket(policy(clock, tokens=TOKENS))
        elsewhere = policy(clock, tokens=tuple(reversed(TOKENS)))
        assert elsewhere.authorize(a_request(f"/?ticket={made}"), Action.WATCH, "x") == Identity(
            fingerprint(TOKENS[0])
        )

    @pytest.mark.parametrize("action", [action for action in Action if action is not Action.WATCH])
    def test_it_opens_nothing_else(self, action: Action) -> None:
        """A URL gets into logs: what stands in it can't read, start or fetch further tickets."""
        lock = policy(tokens=TOKENS)
        with pytest.raises(NotAuthenticated):
            lock.authorize(a_request(f"/?ticket={self.ticket(lock)}"), action, "x")

    def test_it_ends(self) -> None:
        """A ticket ends with its lifetime."""
        clock = Clock()
        lock = policy(clock, tokens=TOKENS, ticket_lifetime=30)
        asked = a_request(f"/?ticket={self.ticket(lock)}")
        clock.tick(29.9)
        lock.authorize(asked, Action.WATCH, "x")
        clock.tick(0.1)
        with pytest.raises(NotAuthenticated):
            lock.authorize(asked, Action.WATCH, "x")

    def test_who_came_by_it_stays_who_it_is(self) -> None:
        """What was opened with a ticket outlives it: later questions are about who came, not about
        the ticket again.
        """
        clock = Clock()
        lock = policy(clock, tokens=TOKENS, ticket_lifetime=30)
        asked = a_request(f"/?ticket={self.ticket(lock)}")
        who = lock.authorize(asked, Action.WATCH)
        clock.tick(3600)
        assert lock.permit(who, asked, Action.WATCH, "x") == who
        with pytest.raises(NotAuthenticated):
            lock.permit(Identity(None), asked, Action.WATCH, "x")

    def test_it_ends_with_its_token(self) -> None:
        """Taking a token off the list ends its tickets."""
        clock = Clock()
        made = self.ticket(policy(clock, tokens=TOKENS))
        with pytest.raises(NotAuthenticated):
            policy(clock, tokens=TOKENS[1:]).authorize(
                a_request(f"/?ticket={made}"), Action.WATCH, "x"
            )

    @pytest.mark.parametrize("ticket", ["x", "a.b", "", "%00", "W10.x", "." * 2000])
    def test_a_made_up_one_opens_nothing(self, ticket: str) -> None:
        """What wasn't signed with a token is no ticket."""
        with pytest.raises(NotAuthenticated):
            policy(tokens=TOKENS).authorize(a_request(f"/?ticket={ticket}"), Action.WATCH, "x")

    def test_a_changed_one_opens_nothing(self) -> None:
        """One changed character breaks the signature."""
        lock = policy(tokens=TOKENS)
        made = self.ticket(lock)
        changed = ("A" if made[0] != "A" else "B") + made[1:]
        with pytest.raises(NotAuthenticated):
            lock.authorize(a_request(f"/?ticket={changed}"), Action.WATCH, "x")


class TestOwnRule:
    def test_it_decides(self) -> None:
        """The app's own rule is told who, what and which, and its word counts, wherever the client
        is.
        """
        asked: list[tuple[Identity, Action, str | None]] = []

        def rule(who: Identity, action: Action, execution_id: str | None) -> bool:
            asked.append((who, action, execution_id))
            return action is Action.READ

        lock = policy(authorize=rule)
        lock.authorize(a_request(remote="203.0.113.9"), Action.READ, "x")
        with pytest.raises(NotAllowed, match="start"):
            lock.authorize(a_request(), Action.START)
        assert asked == [(Identity(None), Action.READ, "x"), (Identity(None), Action.START, None)]

    def test_it_narrows_what_a_token_may(self) -> None:
        """With tokens as well, it hears whose token came: who is known and may not gets 403, a
        stranger 401.
        """
        lock = policy(
            tokens=TOKENS,
            authorize=lambda who, action, _: (
                who.name == fingerprint(TOKENS[0]) and action is Action.READ
            ),
        )
        lock.authorize(a_request(**bearer(TOKENS[0])), Action.READ, "x")
        with pytest.raises(NotAllowed):
            lock.authorize(a_request(**bearer(TOKENS[1])), Action.READ, "x")
        with pytest.raises(NotAuthenticated):
            lock.authorize(a_request(), Action.READ, "x")

    def test_a_fault_in_it_opens_nothing(self) -> None:
        """An exception in the rule isn't taken for a yes."""

        def rule(*_: object) -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            policy(authorize=rule).authorize(a_request(), Action.READ, "x")


class TestOrigin:
    def test_a_program_has_none(self) -> None:
        """A request with no Origin comes from no page."""
        policy().check_origin(a_request())

    @pytest.mark.parametrize(
        ("host", "origin"),
        [("localhost:8000", "http://localhost:8000"), ("app.example", "http://app.example"), ("App.Example", "http://app.example"),
         ("app.example:80", "http://app.example"), ("[::1]:8000", "http://[::1]:8000")],
    )  # fmt: skip
    def test_its_own_page_passes(self, host: str, origin: str) -> None:
        """The server's own pages may use it; a default port and the case of a name make no
        difference.
        """
        policy().check_origin(a_request(host=host, Origin=origin))

    @pytest.mark.parametrize(
        "origin",
        ["https://evil.example", "null", "", "http://localhost:9000", "https://localhost:8000", "http://localhost", "file://",
         "http://localhost:8000.evil.example", "http://evil.example#http://localhost:8000"],
    )  # fmt: skip
    def test_a_foreign_page_is_refused(self, origin: str) -> None:
        """Another host, port or scheme, a sandboxed frame or a file: refused."""
        with pytest.raises(NotAllowed):
            policy().check_origin(a_request(Origin=origin))

    def test_named_origins_pass(self) -> None:
        """An origin named in the settings passes, its neighbours don't, and null can't be named."""
        lock = policy(origins="https://app.example.com, http://localhost:3000")
        lock.check_origin(a_request(Origin="https://app.example.com"))
        lock.check_origin(a_request(Origin="http://localhost:3000"))
        with pytest.raises(NotAllowed):
            lock.check_origin(a_request(Origin="https://sub.app.example.com"))
        with pytest.raises(ConfigurationError):
            policy(origins="null")

    def test_behind_a_proxy(self) -> None:
        """With ProxyFix the public address counts: the page that the proxy serves passes, the inner
        address doesn't.
        """
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
    def test_this_machine_needs_no_token(self, host: str) -> None:
        """A server for this machine alone starts as it is."""
        check_bind(host, ())

    @pytest.mark.parametrize(
        "host", ["0.0.0.0", "::", "", "10.0.0.7", "example.org", "localhost.example.org", "0"]
    )
    def test_anything_else_does(self, host: str) -> None:
        """On any other address it starts with a token only, and says so."""
        for nothing in (None, "", " , ", (), [" "]):
            with pytest.raises(ConfigurationError, match="HEADWAY_TOKENS"):
                check_bind(host, nothing)
        check_bind(host, "a-token")
        check_bind(host, ["a-token"])

    def test_no_name_is_looked_up(self) -> None:
        """Only what can be nothing else is loopback: a name's answer may change after the start."""
        assert not is_loopback("loopback.example")
