"""Authorization on real servers: the network, pages of other sites, and browsers' sockets."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import websocket

from tests.support.processes import WebServer
from tests.support.valkey import ExternalValkey, ValkeyServer

APP = "tests.acceptance.apps.rest_service:create_app()"
TOKEN = "the-first-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module", params=["gevent", "gthread", "dev"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Each server in turn."""
    return request.param


def web(kind: Any, valkey: ValkeyServer | ExternalValkey, **settings: str) -> Iterator[WebServer]:
    with WebServer(
        kind, APP, env={"REST_BROKER": valkey.url, "REST_BACKEND": valkey.url, **settings}
    ) as server:
        yield server.keep()


@pytest.fixture(scope="module")
def open_server(kind: Any, valkey: ValkeyServer | ExternalValkey) -> Iterator[WebServer]:
    """A server without tokens."""
    yield from web(kind, valkey)


@pytest.fixture(scope="module")
def token_server(kind: Any, valkey: ValkeyServer | ExternalValkey) -> Iterator[WebServer]:
    """A server with tokens."""
    yield from web(kind, valkey, HEADWAY_TOKENS=f"another-token, {TOKEN}")


def upgrade(server: WebServer, path: str, **headers: str) -> tuple[int, str]:
    """Send a WebSocket handshake. Returns the HTTP status, and the body of a refusal."""
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    handshake = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    try:
        connection.request("GET", path, headers=handshake | headers)
        response = connection.getresponse()
        return response.status, "" if response.status == 101 else response.read().decode()
    finally:
        connection.close()


def close_code(server: WebServer, path: str) -> int:
    """Open a WebSocket without Origin, and read its close code."""
    ws = websocket.create_connection(f"{server.ws_url}{path}", timeout=60, suppress_origin=True)
    try:
        while True:
            opcode, data = ws.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big")
    finally:
        ws.shutdown()


class TestWithoutTokens:
    def test_only_this_machine_is_served(self, open_server: WebServer) -> None:
        """A loopback name is served; foreign names and proxies are refused, with what to set."""
        url = f"{open_server.url}/api/v1/executions/x"
        assert requests.get(url, timeout=60).status_code == 404
        for headers in (
            {"Host": "evil.example"},
            {"X-Forwarded-For": "203.0.113.9"},
            {"Forwarded": "for=203.0.113.9"},
        ):
            response = requests.get(url, headers=headers, timeout=60)
            assert response.status_code == 403
            assert "HEADWAY_TOKENS" in response.json()["detail"]
        assert (
            requests.get(
                f"{open_server.url}/healthz", headers={"Host": "10.0.0.7"}, timeout=60
            ).status_code
            == 200
        )

    def test_foreign_page_is_refused(self, open_server: WebServer) -> None:
        """A foreign Origin is a 403 before the upgrade and before a start; the own page is not."""
        path = "/api/v1/executions/x/progress/ws"
        for origin in ("https://evil.example", "null", "http://localhost:1"):
            status, body = upgrade(open_server, path, Origin=origin)
            assert status == 403
            assert "Origin" in body or "origin" in body
            response = requests.post(
                f"{open_server.url}/api/v1/executions",
                json={"task": "puppet.play"},
                headers={"Origin": origin},
                timeout=60,
            )
            assert response.status_code == 403
        assert upgrade(open_server, path, Origin=open_server.url)[0] == 101


class TestWithTokens:
    def test_every_call_needs_the_token(self, token_server: WebServer) -> None:
        """No token or a wrong one is a 401 with WWW-Authenticate; the probes are public."""
        url = token_server.url
        for path in (
            "/api/v1/executions/x",
            "/api/v1/executions/x/progress",
            "/applications/a/requests/x/progress",
            "/metrics",
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                response = requests.get(f"{url}{path}", headers=headers, timeout=60)
                assert response.status_code == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
            assert requests.get(f"{url}{path}", headers=BEARER, timeout=60).status_code in (
                200,
                404,
            )
        assert (
            requests.post(
                f"{url}/api/v1/executions", json={"task": "puppet.play"}, timeout=60
            ).status_code
            == 401
        )
        assert (
            requests.post(
                f"{url}/api/v1/executions", json={"task": "puppet.play"}, headers=BEARER, timeout=60
            ).status_code
            == 202
        )
        assert requests.get(f"{url}/healthz", timeout=60).status_code == 200
        assert requests.get(f"{url}/readyz", timeout=60).status_code == 200

    def test_ticket_opens_a_socket_only(self, token_server: WebServer) -> None:
        """A socket without a token gets 4401; a ticket is accepted, but not by REST."""
        path = "/api/v1/executions/x/progress/ws"
        assert close_code(token_server, path) == 4401
        assert close_code(token_server, f"{path}?ticket=made-up") == 4401
        ticket = requests.post(
            f"{token_server.url}/api/v1/tickets", headers=BEARER, timeout=60
        ).json()["ticket"]
        assert close_code(token_server, f"{path}?ticket={ticket}") == 1008
        assert (
            requests.get(
                f"{token_server.url}/api/v1/executions/x?ticket={ticket}", timeout=60
            ).status_code
            == 401
        )

    def test_tokens_are_not_logged(self, token_server: WebServer) -> None:
        """No token appears in the server's log, valid or not."""
        for token in (TOKEN, "wrong-token"):
            requests.get(
                f"{token_server.url}/api/v1/executions/x",
                headers={"Authorization": f"Bearer {token}"},
                timeout=60,
            )
        for secret in (TOKEN, "another-token", "wrong-token"):
            assert secret not in token_server.log()
