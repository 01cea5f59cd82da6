"""HTTP and WebSocket connections to one server: address, token, timeouts, responses or errors."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote, urlsplit

import certifi  # a dependency of requests, which trusts its authorities
import requests
from requests.auth import AuthBase
from websockets.sync.client import ClientConnection, connect

from headway.client.error_mapping import error_from_response
from headway.errors import InvalidRequest, Unavailable, UnexpectedResponse, UsageError

#: Default path of the API.
PREFIX = "/api/v1"
#: Default timeout, seconds: to connect, for each response, and to open a WebSocket.
TIMEOUT = 10.0
#: Seconds between two pings of a WebSocket, and until a missing pong closes it: this is how fast
#: a server that vanished is noticed.
PING = 20.0
#: Seconds that the server has to complete a close.
CLOSE_TIMEOUT = 2.0
#: Bytes. A frame may carry a task's result.
MAX_FRAME = 64 * 1024 * 1024


class Http:
    """HTTP calls and WebSockets of one server; arguments as in `Client`."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        parts = urlsplit(url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
        ):
            raise UsageError(
                f"url must be the server's address, such as http://127.0.0.1:8000, not {url!r}"
            )
        if parts.username is not None:
            raise UsageError(
                "url must not contain a user and a password: URLs end up in logs. Use token="
            )
        path = parts.path.rstrip("/") or PREFIX
        self.base = f"{parts.scheme}://{parts.netloc}{path}"
        self.timeout = timeout
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session = requests.Session()
        # Without an auth object, requests reads a login for the host from ~/.netrc, which replaces
        # this header.
        self._session.auth = _Bearer(self._headers)

    def url(self, *path: str) -> str:
        """The URL of a path below the prefix; each part is escaped."""
        return "/".join((self.base, *(quote(part, safe="") for part in path)))

    def call(
        self,
        method: str,
        *path: str,
        execution_id: str | None = None,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        extra_timeout: float = 0.0,
    ) -> requests.Response:
        """Send a request and return a response with a status below 300, or 304.

        ``execution_id``: the execution that an error is about. ``extra_timeout``: seconds that the
        server may hold the response in addition. Raises the error for any other response, and
        ``Unavailable`` if there is none.
        """
        try:
            response = self._session.request(
                method,
                self.url(*path),
                params=params,
                json=body,
                headers=headers,
                timeout=(self.timeout, self.timeout + extra_timeout),
                allow_redirects=False,  # the token must not reach another host
            )
        except requests.exceptions.SSLError as exc:
            raise UnexpectedResponse(
                f"TLS certificate verification failed for {self.base}: {exc}"
            ) from exc
        except requests.Timeout as exc:
            raise Unavailable(f"{self.base} does not respond") from exc
        except requests.RequestException as exc:
            raise Unavailable(f"{self.base} can't be reached") from exc
        if response.status_code >= 300 and response.status_code != 304:
            raise error_from_response(response, execution_id)
        return response

    def json(self, method: str, *path: str, **options: Any) -> Any:
        """Like `call`, and returns the JSON body."""
        return body_of(self.call(method, *path, **options))

    def socket(self, *path: str) -> AbstractContextManager[ClientConnection]:
        """A WebSocket, open within the ``with`` block. Raises the errors of `websockets`."""
        return connect(
            "ws" + self.url(*path).removeprefix("http"),
            additional_headers=self._headers,
            ssl=self._tls(),
            compression=None,
            open_timeout=self.timeout,
            ping_interval=PING,
            ping_timeout=PING,
            close_timeout=CLOSE_TIMEOUT,
            max_size=MAX_FRAME,
        )

    def close(self) -> None:
        """Close the kept connections. A second call does nothing."""
        self._session.close()

    def _tls(self) -> ssl.SSLContext | None:
        """The authorities that requests trusts: $REQUESTS_CA_BUNDLE, or certifi's."""
        if not self.base.startswith("https:"):
            return None
        trusted = self._session.merge_environment_settings(self.base, {}, None, None, None)[
            "verify"
        ]
        return ssl.create_default_context(cafile=certifi.where() if trusted is True else trusted)


class _Bearer(AuthBase):
    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


def body_of(response: requests.Response) -> Any:
    """The JSON body; None if the response has no body. Raises ``UnexpectedResponse``."""
    if response.status_code == 204:
        return None
    try:
        return response.json()
    except ValueError as exc:
        raise UnexpectedResponse(f"{response.url} did not return JSON. Check the address") from exc


def validate_id(execution_id: str) -> str:
    """The id. Raises ``InvalidRequest`` for an empty one, which would lead to another URL."""
    if not isinstance(execution_id, str) or not execution_id:
        raise InvalidRequest(f"An execution id must be a non-empty str, not {execution_id!r}")
    return execution_id
