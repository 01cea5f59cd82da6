"""The way to one server: its address, the token, the timeouts; every call's answer or error."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import quote, urlsplit

import certifi  # it comes with requests, which trusts it
import requests
from requests.auth import AuthBase
from websockets.sync.client import ClientConnection, connect

from headway.client.error_mapping import error_from_response
from headway.errors import InvalidRequest, Unavailable, UnexpectedResponse, UsageError

#: Where the API stands at an address without a path.
PREFIX = "/api/v1"
#: Seconds for a connection, for each answer and for a socket's opening, unless told otherwise.
TIMEOUT = 10.0
#: Seconds between two pings of a socket, and that an answer may take: a server that vanished
#: without a word is noticed so soon.
PING = 20.0
#: Seconds that the server has to answer a close.
CLOSE_TIMEOUT = 2.0
#: A result comes in its frame, and may be large; bytes.
MAX_FRAME = 64 * 1024 * 1024


class Http:
    """See the module's text. ``url`` as in `Client`."""

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
                "url may hold no user and password: URLs get into logs. Give token= instead"
            )
        path = parts.path.rstrip("/") or PREFIX
        self.base = f"{parts.scheme}://{parts.netloc}{path}"
        self.timeout = timeout
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._session = requests.Session()
        # Ours, or requests takes the login of the host from ~/.netrc, which beats our header.
        self._session.auth = _Bearer(self._headers)

    def url(self, *path: str) -> str:
        """The URL of a path below the prefix; its parts are escaped."""
        return "/".join((self.base, *(quote(part, safe="") for part in path)))

    def call(
        self,
        method: str,
        *path: str,
        about: str | None = None,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        longer: float = 0.0,
    ) -> requests.Response:
        """An answer below 300, or 304.

        ``about``: the execution that is asked for; ``longer``: seconds that the server may hold the
        answer back. Raises the error that the answer stands for, and ``Unavailable`` where there is
        none.
        """
        try:
            answer = self._session.request(
                method,
                self.url(*path),
                params=params,
                json=body,
                headers=headers,
                timeout=(self.timeout, self.timeout + longer),
                allow_redirects=False,  # to where the token wasn't meant to go
            )
        except requests.exceptions.SSLError as exc:
            raise UnexpectedResponse(f"{self.base} can't prove who it is: {exc}") from exc
        except requests.Timeout as exc:
            raise Unavailable(f"{self.base} doesn't answer") from exc
        except requests.RequestException as exc:
            raise Unavailable(f"{self.base} can't be reached") from exc
        if answer.status_code >= 300 and answer.status_code != 304:
            raise error_from_response(answer, about)
        return answer

    def json(self, method: str, *path: str, **options: Any) -> Any:
        """`call`, and the body read."""
        return body_of(self.call(method, *path, **options))

    def socket(self, *path: str) -> AbstractContextManager[ClientConnection]:
        """A WebSocket, open within the block. Raises what `websockets` raises."""
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
        """The same authorities as requests trusts: $REQUESTS_CA_BUNDLE, or certifi's."""
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


def body_of(answer: requests.Response) -> Any:
    """An answer's JSON; None where it has no body. Raises ``UnexpectedResponse``."""
    if answer.status_code == 204:
        return None
    try:
        return answer.json()
    except ValueError as exc:
        raise UnexpectedResponse(f"{answer.url} answers no JSON. Is the address right?") from exc


def checked_id(execution_id: str) -> str:
    """The id, or ``InvalidRequest`` for what can't be one: it would ask for another URL."""
    if not isinstance(execution_id, str) or not execution_id:
        raise InvalidRequest(f"An execution's id is a str that isn't empty, not {execution_id!r}")
    return execution_id
