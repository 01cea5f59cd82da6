"""`headway.Client` over real sockets, against the real server on in-memory fakes."""

from __future__ import annotations

import inspect
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.wrappers import Response

import headway
from headway import errors
from headway.client import (
    Client,
    Completed,
    Failed,
    Interrupted,
    Started,
    StatusChanged,
    error_mapping,
)
from headway.client.stream import MAX_ATTEMPTS, EventStream
from headway.models import Status
from headway.server import problems
from headway.server.streams import websocket
from tests.support.flask_app import MountedApp, mounted_app
from tests.support.requirements import skip_or_fail
from tests.support.tls import TlsProxy, certificate
from tests.support.wait import until
from tests.support.wsgi_server import WsgiServer, long_timeouts, unreachable_url


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    long_timeouts(monkeypatch)


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app() as made:
        yield made


@pytest.fixture
def serving(server: MountedApp) -> Iterator[WsgiServer]:
    with WsgiServer(server.app) as made:
        yield made


@pytest.fixture
def client(serving: WsgiServer) -> Iterator[Client]:
    with headway.Client(serving.url) as made:
        yield made


class NoSockets:
    """A proxy that does not support WebSockets and forwards a plain GET."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requested: list[str] = []

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.requested.append(f"{environ['PATH_INFO'].rsplit('/', 1)[1]}?{environ['QUERY_STRING']}")
        for name in (
            "HTTP_UPGRADE",
            "HTTP_CONNECTION",
            "HTTP_SEC_WEBSOCKET_KEY",
            "HTTP_SEC_WEBSOCKET_VERSION",
        ):
            environ.pop(name, None)
        return self.app(environ, start_response)


class WatchThread(threading.Thread):
    """`Client.watch` in its own thread."""

    def __init__(self, client: Client, *ids: str, **options: Any) -> None:
        super().__init__()
        self.events: list[Any] = []
        self.error: Exception | None = None
        self._watch = client.watch(*ids, **options)
        self.start()

    def run(self) -> None:
        try:
            for event in self._watch:
                self.events.append(event)
        except headway.HeadwayError as exc:
            self.error = exc

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]

    def until(self, *kinds: str) -> None:
        """Wait for exactly these events, in this order."""
        until(lambda: self.kinds() == list(kinds), what=f"{kinds}, got {self.kinds()}")

    def end(self) -> None:
        """Wait until the watch is over."""
        self.join(60)
        assert not self.is_alive(), f"still running after {self.kinds()}"


class TestCalls:
    def test_get_and_progress_return_the_servers_records(
        self, server: MountedApp, client: Client
    ) -> None:
        """`get` and `progress` return the same records as the server's extension."""
        server.publish("a")
        assert client.get("a") == server.headway.get_execution("a")
        assert client.progress("a") is None
        server.begin("a")
        server.report("a", 2, 5, "two", rows="7")
        assert client.get("a") == server.headway.get_execution("a")
        assert client.progress("a") == server.headway.get_execution("a").progress

    def test_history_returns_the_stores_record(self, server: MountedApp, client: Client) -> None:
        """`history` returns the same record as the server's store."""
        server.publish("a")
        assert client.history("a").reports == ()
        server.begin("a")
        server.report("a", 1, 4, "one", rows="7")
        server.report("a", 2, 4)
        assert client.history("a") == server.store.history("a")
        assert len(client.history("a").reports) == 2

    def test_list_reads_all_pages_up_to_the_limit(
        self, server: MountedApp, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`list` reads page after page, newest first, and stops at ``limit``."""
        monkeypatch.setattr("headway.client.client.PAGE_SIZE", 3)
        for number in range(8):
            server.publish(f"e{number}", "tasks.odd" if number % 2 else "tasks.even")
            server.clock.tick(1)
        server.begin("e1")
        assert [each.execution_id for each in client.list()] == [
            f"e{number}" for number in reversed(range(8))
        ]
        assert [each.execution_id for each in client.list(limit=4)] == ["e7", "e6", "e5", "e4"]
        assert [each.execution_id for each in client.list(status="running")] == ["e1"]
        assert len(list(client.list(status=["running", "pending"], task="tasks.odd"))) == 3
        assert list(client.list(limit=0)) == []
        assert [
            each.execution_id
            for each in client.list(since=server.headway.get_execution("e6").created_at)
        ] == ["e7", "e6"]

    def test_cancel_returns_the_state_and_raises_after_the_end(
        self, server: MountedApp, client: Client
    ) -> None:
        """`cancel` returns the new state, and raises a conflict for an ended execution."""
        server.publish("a")
        assert client.cancel("a").phase == "cancelling"
        server.publish("b")
        server.begin("b")
        server.end("b")
        with pytest.raises(errors.ExecutionConflict, match="already completed"):
            client.cancel("b")

    @pytest.mark.parametrize("execution_id", ["a/b", "../healthz", "a?b=c", "a#b", "ä %2f"])
    def test_special_characters_in_an_id_reach_no_other_url(
        self, client: Client, execution_id: str
    ) -> None:
        """An id with URL syntax cannot lead to another URL."""
        with pytest.raises(
            (errors.ExecutionNotFound, errors.InvalidRequest, errors.UnexpectedResponse)
        ):
            client.get(execution_id)

    def test_token_is_sent_in_the_header_only(self) -> None:
        """Calls and WebSockets send the token as a header; without it both are refused."""
        urls: list[str] = []
        with (
            mounted_app(tokens=["secret"]) as server,
            WsgiServer(_recording(server.app, urls)) as serving,
        ):
            server.publish("a")
            server.begin("a")
            server.end("a", "REVOKED")
            with Client(serving.url, token="secret") as known:
                assert known.get("a").status is Status.CANCELLED
                assert [type(event).__name__ for event in known.watch("a")] == [
                    "StatusChanged",
                    "Cancelled",
                ]
            with Client(serving.url) as unknown:
                with pytest.raises(errors.NotAuthenticated, match="token"):
                    unknown.get("a")
                for ids in (["a"], ["a", "b"]):
                    with pytest.raises(errors.NotAuthenticated):
                        list(unknown.watch(*ids))
        assert urls
        assert not [url for url in urls if "secret" in url]


def _recording(app: Any, urls: list[str]) -> Any:
    def recording(environ: Any, start_response: Any) -> Any:
        urls.append(environ["PATH_INFO"] + "?" + environ["QUERY_STRING"])
        return app(environ, start_response)

    return recording


def test_netrc_login_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login for the host in ~/.netrc neither replaces the token nor is sent without one."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sent: list[str | None] = []

    def recording(environ: Any, start_response: Any) -> Any:
        sent.append(environ.get("HTTP_AUTHORIZATION"))
        return Response(status=404)(environ, start_response)

    with WsgiServer(recording) as serving:
        for token in (None, "mine"):
            with Client(serving.url, token) as client, pytest.raises(errors.UnexpectedResponse):
                client.get("a")
    assert sent == [None, "Bearer mine"]


class TestErrors:
    def test_http_statuses_map_back_to_the_servers_errors(self) -> None:
        """For each status of the server's table, the client raises the error of that status."""
        for error, status in problems.STATUS.items():
            if status < 500 or status in (501, 503):
                assert type(_error(status)) is error, (
                    f"{status} is raised as another error than {error.__name__}"
                )
        every = {
            cls
            for _, cls in inspect.getmembers(errors, inspect.isclass)
            if issubclass(cls, errors.HeadwayError)
        }
        assert {type(_error(status)) for status in problems.STATUS.values()} < every

    def test_close_codes_map_back_to_the_servers_errors(self) -> None:
        """The client knows each close code that means an error, and each ``error`` code."""
        for error, (code, _) in websocket.CLOSES.items():
            if code in error_mapping.CLOSES:
                assert type(error_mapping.error_from_code(error_mapping.CLOSES[code], "x", "")) in (
                    error,
                    errors.ExecutionNotFound,
                )
        assert set(websocket.CODES.values()) <= set(error_mapping.CODES)

    def test_unreachable_server_is_unavailable_at_once(self) -> None:
        """Without a server, calls and watches raise ``Unavailable`` and do not retry."""
        with unreachable_url() as url, Client(url) as client:
            for ask in (
                lambda: client.get("a"),
                lambda: list(client.watch("a")),
                lambda: list(client.list()),
            ):
                with pytest.raises(errors.Unavailable, match="can't be reached"):
                    ask()

    @pytest.mark.parametrize("status", [200, 404, 500, 302])
    def test_other_server_raises_unexpected_response(self, status: int) -> None:
        """Another web server raises ``UnexpectedResponse``; a redirect is not followed."""
        page = Response(
            "<html>",
            status=status,
            headers={"Location": "http://elsewhere.example/"} if status == 302 else {},
        )
        with WsgiServer(page) as serving, Client(serving.url) as client:
            for ask in (
                lambda: client.get("a"),
                lambda: list(client.watch("a")),
                lambda: list(client.list()),
            ):
                with pytest.raises(errors.UnexpectedResponse):
                    ask()

    @pytest.mark.parametrize("scheme", ["http", "ws"])
    def test_token_does_not_follow_redirects(self, scheme: str) -> None:
        """A redirect receives no token: calls don't follow it, websockets follows without it."""
        tokens: list[object] = []

        def elsewhere(environ: Any, start_response: Any) -> Any:
            tokens.append(environ.get("HTTP_AUTHORIZATION"))
            return Response(status=404)(environ, start_response)

        with WsgiServer(elsewhere) as other:
            redirect = {"Location": other.url.replace("http", scheme) + "/api/v1/executions/a"}
            with (
                WsgiServer(Response(status=302, headers=redirect)) as serving,
                Client(serving.url, token="secret") as client,
            ):
                for ask in (lambda: client.get("a"), lambda: list(client.watch("a"))):
                    with pytest.raises(errors.UnexpectedResponse):
                        ask()
        assert not any(tokens)

    def test_silent_server_is_unavailable_after_the_timeout(self) -> None:
        """A server that accepts a call and never responds is ``Unavailable``."""
        release = threading.Event()

        def silent(environ: Any, start_response: Any) -> Any:
            release.wait(60)
            return Response("late")(environ, start_response)

        with WsgiServer(silent) as serving, Client(serving.url, timeout=0.2) as client:
            with pytest.raises(errors.Unavailable, match="does not respond"):
                client.get("a")
            release.set()

    @pytest.mark.parametrize(
        "url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x/?token=y", "http://me:pw@x"]
    )
    def test_invalid_address_is_refused(self, url: str) -> None:
        """An address that is malformed, or that contains a secret, is a ``UsageError``."""
        with pytest.raises(errors.UsageError):
            Client(url)

    def test_path_in_the_address_replaces_the_prefix(self) -> None:
        """The client uses a path in the address instead of ``/api/v1``."""
        with mounted_app(url_prefix="/jobs/api") as server, WsgiServer(server.app) as serving:
            server.publish("a")
            with Client(f"{serving.url}/jobs/api/") as client:
                assert client.get("a").execution_id == "a"


def _error(status: int) -> errors.HeadwayError:
    import requests

    response = requests.Response()
    response.status_code, response.url = status, "http://x/api"
    response._content = b'{"detail": "reason"}'
    response.headers["Content-Type"] = "application/problem+json"
    return error_mapping.error_from_response(response, "x")


def test_tls_trusts_requests_ca_bundle(
    server: MountedApp, serving: WsgiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https and wss trust the certificates of REQUESTS_CA_BUNDLE, and refuse others."""
    if shutil.which("openssl") is None:
        skip_or_fail("openssl", "install the package openssl")
    pem = certificate(tmp_path)
    server.publish("a")
    with TlsProxy(serving.url, pem) as proxy:
        for ask in (
            lambda client: client.get("a"),
            lambda client: list(client.watch("a", timeout=60)),
        ):
            with (
                Client(proxy.url) as client,
                pytest.raises(
                    errors.UnexpectedResponse, match="TLS certificate verification failed"
                ),
            ):
                ask(client)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        urls: list[str] = []
        monkeypatch.setattr(serving.app, "wsgi_app", _recording(serving.app.wsgi_app, urls))
        with Client(proxy.url) as client:
            assert client.get("a").status is Status.PENDING
            watcher = WatchThread(client, "a")
            watcher.until("StatusChanged")
            server.begin("a")
            server.end("a")
            watcher.end()
        assert watcher.kinds() == ["StatusChanged", "Started", "Completed"]
        assert [path for path in urls if path.endswith("/ws?")] == [
            "/api/v1/executions/a/progress/ws?"
        ]


class TestWatching:
    def test_watch_yields_each_event_once_until_the_end(
        self, server: MountedApp, client: Client
    ) -> None:
        """A watch yields all events of the socket, each once, and ends with the execution."""
        server.publish("a")
        watcher = WatchThread(client, "a")
        watcher.until("StatusChanged")
        server.begin("a")
        watcher.until("StatusChanged", "Started")
        server.report("a", 1, 2)
        watcher.until("StatusChanged", "Started", "ProgressReported")
        server.end("a", result=[1, 2])
        watcher.end()
        assert watcher.kinds() == ["StatusChanged", "Started", "ProgressReported", "Completed"]
        assert watcher.events[-1].outputs == [1, 2]

    def test_unknown_id_among_several_is_reported(self, server: MountedApp, client: Client) -> None:
        """With several ids, an unknown id is reported, and the others continue."""
        for name in ("a", "b"):
            server.publish(name)
            server.begin(name)
        watcher = WatchThread(client, "a", "unknown", "b")
        until(lambda: sorted(watcher.kinds()) == ["Interrupted", "StatusChanged", "StatusChanged"])
        refused = next(event for event in watcher.events if isinstance(event, Interrupted))
        assert (refused.code, refused.execution_id) == ("not_found", "unknown")
        server.end(
            "b",
            "FAILURE",
            {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
        )
        server.end("a", "REVOKED")
        watcher.end()
        assert watcher.error is None
        ends = {
            event.execution_id: type(event).__name__ for event in watcher.events if event.terminal
        }
        assert ends == {"a": "Cancelled", "b": "Failed"}
        failed = next(event for event in watcher.events if isinstance(event, Failed))
        assert (failed.error.type, failed.error.message) == ("ValueError", "no")

    def test_many_ids_are_split_into_several_messages(
        self, server: MountedApp, client: Client
    ) -> None:
        """150 ids of full length are sent in messages that the server accepts."""
        names = [f"{number:0>200}" for number in range(150)]
        for name in names:
            server.publish(name)
            server.begin(name)
            server.end(name, "REVOKED")
        assert {event.execution_id for event in client.watch(*names) if event.terminal} == set(
            names
        )

    def test_single_unknown_id_raises(self, client: Client) -> None:
        """A single id that is unknown raises ``ExecutionNotFound``."""
        with pytest.raises(errors.ExecutionNotFound, match="'unknown' not found"):
            list(client.watch("unknown"))

    def test_lost_connection_is_reported_and_reopened(
        self, server: MountedApp, serving: WsgiServer, client: Client
    ) -> None:
        """A lost connection is reported once; after the reconnect each execution starts with
        ``StatusChanged``, and an end during the outage comes once.
        """
        for name in ("a", "b"):
            server.publish(name)
            server.begin(name)
        watcher = WatchThread(client, "a", "b")
        watcher.until("StatusChanged", "StatusChanged")
        serving.stop()
        until(lambda: "Interrupted" in watcher.kinds())
        # If the client reconnects before the hub notices the disconnect, its first frame is older
        # than this report.
        until(lambda: not server.headway.hub.watched)
        server.report("a", 1, 2)
        server.end("b")
        serving.start()
        until(lambda: watcher.kinds().count("StatusChanged") == 4)
        server.end("a")
        watcher.end()
        ends = [event.execution_id for event in watcher.events if event.terminal]
        assert sorted(ends) == ["a", "b"]
        assert watcher.kinds().count("Interrupted") == 1
        again = [
            event
            for event in watcher.events
            if isinstance(event, StatusChanged) and event.progress is not None
        ]
        assert [event.progress.current for event in again if event.progress] == [1]

    def test_restarting_server_is_reconnected_after_a_pause(
        self, server: MountedApp, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a close with 1012 the client reconnects after a pause, and gets the end."""
        monkeypatch.setattr("headway.client.stream.RESTART_BACKOFF", 0.05)
        server.publish("a")
        server.begin("a")
        watcher = WatchThread(client, "a")
        watcher.until("StatusChanged")
        for stream in list(server.headway.hub.supervisor._streams):
            stream.end(1012, "The server is restarting")
        watcher.until("StatusChanged", "Interrupted", "StatusChanged")
        server.end("a")
        watcher.end()
        assert watcher.kinds() == ["StatusChanged", "Interrupted", "StatusChanged", "Completed"]

    def test_reconnect_timeout_raises_unavailable(
        self, server: MountedApp, serving: WsgiServer, client: Client
    ) -> None:
        """A server that is away for longer than ``reconnect_timeout`` is ``Unavailable``."""
        server.publish("a")
        watcher = WatchThread(client, "a", reconnect_timeout=0.1)
        watcher.until("StatusChanged")
        serving.stop()
        watcher.end()
        assert isinstance(watcher.error, errors.Unavailable)
        assert watcher.kinds() == ["StatusChanged", "Interrupted"]

    def test_polling_replaces_blocked_websockets(self, server: MountedApp) -> None:
        """Behind a proxy without WebSockets, long polls with ETags yield the same events."""
        proxy = NoSockets(server.app)
        with WsgiServer(proxy) as serving, Client(serving.url) as client:
            server.publish("a")
            watcher = WatchThread(client, "a")
            watcher.until("StatusChanged")
            server.begin("a")
            watcher.until("StatusChanged", "Started")
            server.report("a", 1, 2)
            watcher.until("StatusChanged", "Started", "ProgressReported")
            server.end("a", result=5)
            watcher.end()
        assert watcher.kinds() == ["StatusChanged", "Started", "ProgressReported", "Completed"]
        assert watcher.events[-1].outputs == 5
        assert proxy.requested.count("ws?") == MAX_ATTEMPTS
        assert any("wait=" in each for each in proxy.requested)

    def test_polling_several_ids_survives_an_outage(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Several ids are polled; an unknown id and an outage are reported."""
        monkeypatch.setattr("headway.client.stream.POLL_INTERVAL", 0.01)
        for name in ("a", "b"):
            server.publish(name)
            server.begin(name)
        with WsgiServer(NoSockets(server.app)) as serving, Client(serving.url) as client:
            watcher = WatchThread(client, "a", "unknown", "b")
            until(
                lambda: sorted(watcher.kinds()) == ["Interrupted", "StatusChanged", "StatusChanged"]
            )
            server.end("b")
            until(lambda: "Completed" in watcher.kinds())
            serving.stop()
            until(lambda: watcher.kinds().count("Interrupted") == 2)
            serving.start()
            until(lambda: watcher.kinds().count("StatusChanged") == 3)
            server.end("a")
            watcher.end()
        assert sorted(event.execution_id for event in watcher.events if event.terminal) == [
            "a",
            "b",
        ]

    def test_full_server_is_polled_with_plain_requests(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At a server with too many viewers, the client uses plain polls, which are no viewers."""
        monkeypatch.setattr("headway.client.stream.POLL_INTERVAL", 0.01)
        with (
            mounted_app(max_viewers=1) as server,
            WsgiServer(server.app) as serving,
            Client(serving.url) as client,
        ):
            server.publish("a")
            with Client(serving.url) as other:
                first = other.watch("a")
                assert isinstance(next(first), StatusChanged)
                watcher = WatchThread(client, "a")
                until(lambda: "StatusChanged" in watcher.kinds())
                server.begin("a")
                server.end("a")
                watcher.end()
                assert [type(event) for event in first] == [Started, Completed]
        assert watcher.kinds()[-1] == "Completed"

    def test_ids_beyond_the_sockets_limit_are_reported(
        self, server: MountedApp, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ids beyond the limit of one socket are reported, and the others are watched."""
        monkeypatch.setattr("headway.server.streams.websocket_multi.MAX_WATCHED", 1)
        for each in ("a", "b", "c"):
            server.publish(each)
        watcher = WatchThread(client, "a", "b", "c")
        until(lambda: sorted(watcher.kinds()) == ["Interrupted", "Interrupted", "StatusChanged"])
        server.begin("a")
        server.end("a")
        watcher.end()
        assert sorted(
            event.execution_id for event in watcher.events if isinstance(event, Interrupted)
        ) == ["b", "c"]

    def test_abandoned_watch_closes_its_socket(self, server: MountedApp, client: Client) -> None:
        """Closing the iterator closes its WebSocket."""
        server.publish("a")
        watch = client.watch("a")
        assert isinstance(next(watch), StatusChanged)
        watch.close()  # type: ignore[attr-defined]
        until(lambda: not server.headway.hub.watched)

    def test_backend_outage_is_reported(self, server: MountedApp, client: Client) -> None:
        """An outage behind the server is reported, and ``StatusChanged`` follows it."""
        server.publish("a")
        server.begin("a")
        watcher = WatchThread(client, "a")
        watcher.until("StatusChanged")
        server.feed.disconnect()
        watcher.until("StatusChanged", "Interrupted")
        assert watcher.events[-1].code == "unavailable"
        server.feed.reconnect()
        watcher.until("StatusChanged", "Interrupted", "StatusChanged")
        server.end("a")
        watcher.end()


class TestWait:
    def test_wait_returns_the_result(self, server: MountedApp, client: Client) -> None:
        """`wait` returns the task's result."""
        server.publish("a")
        server.begin("a")
        server.end("a", result={"rows": 3})
        assert client.wait("a") == {"rows": 3}

    def test_wait_raises_the_tasks_failure(self, server: MountedApp, client: Client) -> None:
        """`wait` raises a failure with the exception's type, message and details."""
        server.publish("a")
        server.begin("a")
        server.end(
            "a",
            "FAILURE",
            {"exc_type": "ValueError", "exc_message": ["no rows"], "exc_module": "builtins"},
        )
        with pytest.raises(
            errors.ExecutionFailed, match="'a' failed: ValueError: no rows"
        ) as caught:
            client.wait("a")
        assert (caught.value.type, caught.value.message) == ("ValueError", "no rows")
        assert caught.value.details == {"module": "builtins"}

    def test_wait_raises_for_a_cancelled_execution(
        self, server: MountedApp, client: Client
    ) -> None:
        """`wait` raises ``ExecutionCancelled`` for a cancelled execution."""
        server.publish("a")
        server.begin("a")
        server.end("a", "REVOKED")
        with pytest.raises(errors.ExecutionCancelled, match="'a' was cancelled"):
            client.wait("a")

    @pytest.mark.parametrize("proxied", [False, True], ids=["socket", "polling"])
    def test_wait_raises_not_finished_after_the_timeout(
        self, server: MountedApp, proxied: bool
    ) -> None:
        """`wait` raises ``NotFinished``, a ``TimeoutError``; the execution continues."""
        server.publish("a")
        with (
            WsgiServer(NoSockets(server.app) if proxied else server.app) as serving,
            Client(serving.url) as client,
        ):
            with pytest.raises(
                errors.NotFinished, match=r"'a' has not ended within 0\.2 s"
            ) as caught:
                client.wait("a", timeout=0.2)
            assert isinstance(caught.value, TimeoutError)
            assert client.get("a").status is Status.PENDING


def test_reconnect_backoff_doubles_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is random between zero and a backoff that doubles up to 20 s, so that clients
    don't reconnect at the same time.
    """
    bounds: list[float] = []

    def draw(low: float, high: float) -> float:
        assert low == 0
        bounds.append(high)
        return 0.0

    monkeypatch.setattr("headway.client.stream.random.uniform", draw)
    now = iter(range(100))
    with unreachable_url() as url, Client(url) as client:
        watch = EventStream(
            client._http,
            ["a"],
            reconnect_timeout=10.0,
            sleep=lambda _: None,
            monotonic=lambda: float(next(now)),
        )
        watch._was_connected = True
        with pytest.raises(errors.Unavailable):
            list(watch.events())
    assert bounds[:7] == [0.5, 1, 2, 4, 8, 16, 20]
    assert len(bounds) == 10
