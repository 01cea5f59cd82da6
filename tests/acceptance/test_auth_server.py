"""The lock on real servers: what a stranger on the network, a page of another site and a browser's
socket meet.
"""

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
    """A server with nothing set."""
    yield from web(kind, valkey)


@pytest.fixture(scope="module")
def locked_server(kind: Any, valkey: ValkeyServer | ExternalValkey) -> Iterator[WebServer]:
    """A server with tokens."""
    yield from web(kind, valkey, HEADWAY_TOKENS=f"another-token, {TOKEN}")


def upgrade(server: WebServer, path: str, **headers: str) -> tuple[int, str]:
    """Ask for a WebSocket by hand; the HTTP status and the body of a refusal."""
    connection = http.client.HTTPConnection(*server.address, timeout=60)
    wanted = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    try:
        connection.request("GET", path, headers=wanted | headers)
        answer = connection.getresponse()
        return answer.status, "" if answer.status == 101 else answer.read().decode()
    finally:
        connection.close()


def close_code(server: WebServer, path: str) -> int:
    """Open a WebSocket with no Origin and read it to its close."""
    ws = websocket.create_connection(f"{server.ws_url}{path}", timeout=60, suppress_origin=True)
    try:
        while True:
            opcode, data = ws.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big")
    finally:
        ws.shutdown()


class TestOpen:
    def test_only_this_machine(self, open_server: WebServer) -> None:
        """A loopback name is served; a foreign name that leads here and a proxy's client are
        refused, and told what to set.
        """
        url = f"{open_server.url}/api/v1/executions/x"
        assert requests.get(url, timeout=60).status_code == 404
        for headers in (
            {"Host": "evil.example"},
            {"X-Forwarded-For": "203.0.113.9"},
            {"Forwarded": "for=203.0.113.9"},
        ):
            answer = requests.get(url, headers=headers, timeout=60)
            assert answer.status_code == 403
            assert "HEADWAY_TOKENS" in answer.json()["detail"]
        assert (
            requests.get(
                f"{open_server.url}/healthz", headers={"Host": "10.0.0.7"}, timeout=60
            ).status_code
            == 200
        )

    def test_pages_of_other_sites(self, open_server: WebServer) -> None:
        """A foreign Origin is a 403 before the upgrade and before anything is started; its own
        page's isn't.
        """
        path = "/api/v1/executions/x/progress/ws"
        for origin in ("https://evil.example", "null", "http://localhost:1"):
            status, body = upgrade(open_server, path, Origin=origin)
            assert status == 403
            assert "Origin" in body or "origin" in body
            answer = requests.post(
                f"{open_server.url}/api/v1/executions",
                json={"task": "puppet.play"},
                headers={"Origin": origin},
                timeout=60,
            )
            assert answer.status_code == 403
        assert upgrade(open_server, path, Origin=open_server.url)[0] == 101


class TestLocked:
    def test_every_call_wants_the_token(self, locked_server: WebServer) -> None:
        """No token or a wrong one is a 401 with WWW-Authenticate; the right one is served; the
        probes are open.
        """
        url = locked_server.url
        for path in (
            "/api/v1/executions/x",
            "/api/v1/executions/x/progress",
            "/applications/a/requests/x/progress",
            "/metrics",
        ):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                answer = requests.get(f"{url}{path}", headers=headers, timeout=60)
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
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

    def test_a_ticket_for_a_socket(self, locked_server: WebServer) -> None:
        """A socket without a token closes with 4401; with a fresh ticket it is let in, and told
        that there is none.
        """
        path = "/api/v1/executions/x/progress/ws"
        assert close_code(locked_server, path) == 4401
        assert close_code(locked_server, f"{path}?ticket=made-up") == 4401
        ticket = requests.post(
            f"{locked_server.url}/api/v1/tickets", headers=BEARER, timeout=60
        ).json()["ticket"]
        assert close_code(locked_server, f"{path}?ticket={ticket}") == 1008
        assert (
            requests.get(
                f"{locked_server.url}/api/v1/executions/x?ticket={ticket}", timeout=60
            ).status_code
            == 401
        )

    def test_tokens_are_not_logged(self, locked_server: WebServer) -> None:
        """Right or wrong, no token gets into the server's log."""
        for token in (TOKEN, "wrong-token"):
            requests.get(
                f"{locked_server.url}/api/v1/executions/x",
                headers={"Authorization": f"Bearer {token}"},
                timeout=60,
            )
        for secret in (TOKEN, "another-token", "wrong-token"):
            assert secret not in locked_server.log()
