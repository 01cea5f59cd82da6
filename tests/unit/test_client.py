"""The Python client, over real sockets against the real server on the fakes."""

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
from headway.client.stream import TRIES, EventStream
from headway.models import Status
from headway.server import problems
from headway.server.streams import websocket
from tests.support.flask_app import MountedApp, mounted_app
from tests.support.requirements import skip_or_fail
from tests.support.tls import TlsProxy, certificate
from tests.support.wait import until
from tests.support.wsgi_server import WsgiServer, long_timeouts, unreachable_url


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A proxy that knows nothing of WebSockets: it passes on a plain GET."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.asked: list[str] = []

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.asked.append(f"{environ['PATH_INFO'].rsplit('/', 1)[1]}?{environ['QUERY_STRING']}")
        for name in (
            "HTTP_UPGRADE",
            "HTTP_CONNECTION",
            "HTTP_SEC_WEBSOCKET_KEY",
            "HTTP_SEC_WEBSOCKET_VERSION",
        ):
            environ.pop(name, None)
        return self.app(environ, start_response)


class Following(threading.Thread):
    """A watch in a thread of its own."""

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
        """Wait until it was told just these, in this order."""
        until(lambda: self.kinds() == list(kinds), what=f"{kinds}, and there were {self.kinds()}")

    def end(self) -> None:
        """Wait for its end."""
        self.join(60)
        assert not self.is_alive(), f"it goes on after {self.kinds()}"


class TestAsking:
    def test_get_and_progress(self, server: MountedApp, client: Client) -> None:
        """An execution and its progress are Headway's own records, as the server has them."""
        server.publish("a")
        assert client.get("a") == server.headway.get_execution("a")
        assert client.progress("a") is None
        server.begin("a")
        server.report("a", 2, 5, "two", rows="7")
        assert client.get("a") == server.headway.get_execution("a")
        assert client.progress("a") == server.headway.get_execution("a").progress

    def test_history(self, server: MountedApp, client: Client) -> None:
        """The history is Headway's own record, as the server's store has it."""
        server.publish("a")
        assert client.history("a").reports == ()
        server.begin("a")
        server.report("a", 1, 4, "one", rows="7")
        server.report("a", 2, 4)
        assert client.history("a") == server.store.history("a")
        assert len(client.history("a").reports) == 2

    def test_list_goes_over_pages(
        self, server: MountedApp, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A listing goes on over all pages, newest first, and stops where it is told to."""
        monkeypatch.setattr("headway.client.client.PAGE", 3)
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

    def test_cancel(self, server: MountedApp, client: Client) -> None:
        """Cancel answers with what it is then, and a conflict is raised for what has ended."""
        server.publish("a")
        assert client.cancel("a").phase == "cancelling"
        server.publish("b")
        server.begin("b")
        server.end("b")
        with pytest.raises(errors.ExecutionConflict, match="completed already"):
            client.cancel("b")

    @pytest.mark.parametrize("execution_id", ["a/b", "../healthz", "a?b=c", "a#b", "ä %2f"])
    def test_an_id_is_an_id(self, client: Client, execution_id: str) -> None:
        """No id can lead to another URL than an execution's."""
        with pytest.raises(
            (errors.ExecutionNotFound, errors.InvalidRequest, errors.UnexpectedResponse)
        ):
            client.get(execution_id)

    def test_a_token_goes_into_the_header(self) -> None:
        """A token is sent as a header with calls and with sockets; without it there is
        ``NotAuthenticated`` on both.
        """
        asked: list[str] = []
        with (
            mounted_app(tokens=["secret"]) as server,
            WsgiServer(_noting(server.app, asked)) as serving,
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
        assert asked
        assert not [url for url in asked if "secret" in url]


def _noting(app: Any, asked: list[str]) -> Any:
    def noting(environ: Any, start_response: Any) -> Any:
        asked.append(environ["PATH_INFO"] + "?" + environ["QUERY_STRING"])
        return app(environ, start_response)

    return noting


def test_no_login_of_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ~/.netrc says of the host neither takes the token's place nor goes to a server that was
    given none.
    """
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    sent: list[str | None] = []

    def noting(environ: Any, start_response: Any) -> Any:
        sent.append(environ.get("HTTP_AUTHORIZATION"))
        return Response(status=404)(environ, start_response)

    with WsgiServer(noting) as serving:
        for token in (None, "mine"):
            with Client(serving.url, token) as client, pytest.raises(errors.UnexpectedResponse):
                client.get("a")
    assert sent == [None, "Bearer mine"]


class TestErrors:
    def test_the_table_mirrors_the_servers(self) -> None:
        """Every error that the server has a status for is raised by the client for that status."""
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

    def test_the_closes_mirror_the_servers(self) -> None:
        """Every close that means an error to a viewer is known, and every code of an ``error``
        frame.
        """
        for error, (code, _) in websocket.CLOSES.items():
            if code in error_mapping.CLOSES:
                assert type(error_mapping.error_from_code(error_mapping.CLOSES[code], "x", "")) in (
                    error,
                    errors.ExecutionNotFound,
                )
        assert set(websocket.CODES.values()) <= set(error_mapping.CODES)

    def test_nobody_there(self) -> None:
        """A server that isn't there is ``Unavailable``, for calls and for a watch alike, at once."""
        with unreachable_url() as url, Client(url) as client:
            for ask in (
                lambda: client.get("a"),
                lambda: list(client.watch("a")),
                lambda: list(client.list()),
            ):
                with pytest.raises(errors.Unavailable, match="can't be reached"):
                    ask()

    @pytest.mark.parametrize("status", [200, 404, 500, 302])
    def test_somebody_else_there(self, status: int) -> None:
        """What is no Headway is an ``UnexpectedResponse``, whatever it says; a redirect isn't
        followed.
        """
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
    def test_no_redirect_takes_the_token_along(self, scheme: str) -> None:
        """Neither a call nor a socket brings it to where a server sends them on to: websockets
        follows, and leaves it behind.
        """
        heard: list[object] = []

        def elsewhere(environ: Any, start_response: Any) -> Any:
            heard.append(environ.get("HTTP_AUTHORIZATION"))
            return Response(status=404)(environ, start_response)

        with WsgiServer(elsewhere) as other:
            further = {"Location": other.url.replace("http", scheme) + "/api/v1/executions/a"}
            with (
                WsgiServer(Response(status=302, headers=further)) as serving,
                Client(serving.url, token="secret") as client,
            ):
                for ask in (lambda: client.get("a"), lambda: list(client.watch("a"))):
                    with pytest.raises(errors.UnexpectedResponse):
                        ask()
        assert not any(heard)

    def test_a_server_that_says_nothing(self) -> None:
        """A server that takes the call and never answers is ``Unavailable`` after the timeout."""
        release = threading.Event()

        def silent(environ: Any, start_response: Any) -> Any:
            release.wait(60)
            return Response("late")(environ, start_response)

        with WsgiServer(silent) as serving, Client(serving.url, timeout=0.2) as client:
            with pytest.raises(errors.Unavailable, match="doesn't answer"):
                client.get("a")
            release.set()

    @pytest.mark.parametrize(
        "url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x/?token=y", "http://me:pw@x"]
    )
    def test_addresses_that_are_none(self, url: str) -> None:
        """An address that can't be one, or that holds a secret, is a ``UsageError``."""
        with pytest.raises(errors.UsageError):
            Client(url)

    def test_where_the_api_stands(self) -> None:
        """A path in the address stands in place of ``/api/v1``."""
        with mounted_app(url_prefix="/jobs/api") as server, WsgiServer(server.app) as serving:
            server.publish("a")
            with Client(f"{serving.url}/jobs/api/") as client:
                assert client.get("a").execution_id == "a"


def _error(status: int) -> errors.HeadwayError:
    import requests

    answer = requests.Response()
    answer.status_code, answer.url, answer._content = status, "http://x/api", b'{"detail": "said"}'
    answer.headers["Content-Type"] = "application/problem+json"
    return error_mapping.error_from_response(answer, "x")


def test_tls(
    server: MountedApp, serving: WsgiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https and its socket go to whom REQUESTS_CA_BUNDLE vouches for, and to nobody else."""
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
                pytest.raises(errors.UnexpectedResponse, match="can't prove who it is"),
            ):
                ask(client)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        sockets: list[str] = []
        monkeypatch.setattr(serving.app, "wsgi_app", _noting(serving.app.wsgi_app, sockets))
        with Client(proxy.url) as client:
            assert client.get("a").status is Status.PENDING
            following = Following(client, "a")
            following.until("StatusChanged")
            server.begin("a")
            server.end("a")
            following.end()
        assert following.kinds() == ["StatusChanged", "Started", "Completed"]
        assert [path for path in sockets if path.endswith("/ws?")] == [
            "/api/v1/executions/a/progress/ws?"
        ]


class TestWatching:
    def test_from_queue_to_end(self, server: MountedApp, client: Client) -> None:
        """A watch is told all that the socket says, once, and ends with the execution."""
        server.publish("a")
        following = Following(client, "a")
        following.until("StatusChanged")
        server.begin("a")
        following.until("StatusChanged", "Started")
        server.report("a", 1, 2)
        following.until("StatusChanged", "Started", "ProgressReported")
        server.end("a", result=[1, 2])
        following.end()
        assert following.kinds() == ["StatusChanged", "Started", "ProgressReported", "Completed"]
        assert following.events[-1].outputs == [1, 2]

    def test_many_over_one_socket(self, server: MountedApp, client: Client) -> None:
        """Several are watched together; one that nobody knows is told, and the others go on."""
        for name in ("a", "b"):
            server.publish(name)
            server.begin(name)
        following = Following(client, "a", "nobody", "b")
        until(
            lambda: sorted(following.kinds()) == ["Interrupted", "StatusChanged", "StatusChanged"]
        )
        refused = next(event for event in following.events if isinstance(event, Interrupted))
        assert (refused.code, refused.execution_id) == ("not_found", "nobody")
        server.end(
            "b",
            "FAILURE",
            {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
        )
        server.end("a", "REVOKED")
        following.end()
        assert following.error is None
        ends = {
            event.execution_id: type(event).__name__ for event in following.events if event.terminal
        }
        assert ends == {"a": "Cancelled", "b": "Failed"}
        failed = next(event for event in following.events if isinstance(event, Failed))
        assert (failed.error.type, failed.error.message) == ("ValueError", "no")

    def test_more_ids_than_one_message_holds(self, server: MountedApp, client: Client) -> None:
        """Some hundred ids of full length are asked for, in messages that the server takes."""
        names = [f"{number:0>200}" for number in range(150)]
        for name in names:
            server.publish(name)
            server.begin(name)
            server.end(name, "REVOKED")
        assert {event.execution_id for event in client.watch(*names) if event.terminal} == set(
            names
        )

    def test_unknown(self, client: Client) -> None:
        """The only one raises where nobody knows it."""
        with pytest.raises(errors.ExecutionNotFound, match="'nobody' not found"):
            list(client.watch("nobody"))

    def test_a_cut_line(self, server: MountedApp, serving: WsgiServer, client: Client) -> None:
        """A line that is cut is told once, and made again with a fresh ``StatusChanged``; what ended in
        between is told once.
        """
        for name in ("a", "b"):
            server.publish(name)
            server.begin(name)
        following = Following(client, "a", "b")
        following.until("StatusChanged", "StatusChanged")
        serving.stop()
        until(lambda: "Interrupted" in following.kinds())
        # Who comes while the old line is still thought to be there is told what the hub has heard
        # by then, and the rest later.
        until(lambda: not server.headway.hub.watched)
        server.report("a", 1, 2)
        server.end("b")
        serving.start()
        until(lambda: following.kinds().count("StatusChanged") == 4)
        server.end("a")
        following.end()
        ends = [event.execution_id for event in following.events if event.terminal]
        assert sorted(ends) == ["a", "b"]
        assert following.kinds().count("Interrupted") == 1
        again = [
            event
            for event in following.events
            if isinstance(event, StatusChanged) and event.progress is not None
        ]
        assert [event.progress.current for event in again if event.progress] == [1]

    def test_a_server_that_goes_down(
        self, server: MountedApp, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who is sent away (1012) comes back after a jitter, and is told of the end."""
        monkeypatch.setattr("headway.client.stream.SENT_AWAY", 0.05)
        server.publish("a")
        server.begin("a")
        following = Following(client, "a")
        following.until("StatusChanged")
        for stream in list(server.headway.hub.supervisor._streams):
            stream.end(1012, "The server is going down")
        following.until("StatusChanged", "Interrupted", "StatusChanged")
        server.end("a")
        following.end()
        assert following.kinds() == ["StatusChanged", "Interrupted", "StatusChanged", "Completed"]

    def test_patience_ends(self, server: MountedApp, serving: WsgiServer, client: Client) -> None:
        """A server that stays away for longer than ``patience`` is ``Unavailable``."""
        server.publish("a")
        following = Following(client, "a", patience=0.1)
        following.until("StatusChanged")
        serving.stop()
        following.end()
        assert isinstance(following.error, errors.Unavailable)
        assert following.kinds() == ["StatusChanged", "Interrupted"]

    def test_where_no_socket_gets_through(self, server: MountedApp) -> None:
        """Behind a proxy without WebSockets the same events come by polling: held, by ETag, and
        none twice.
        """
        proxy = NoSockets(server.app)
        with WsgiServer(proxy) as serving, Client(serving.url) as client:
            server.publish("a")
            following = Following(client, "a")
            following.until("StatusChanged")
            server.begin("a")
            following.until("StatusChanged", "Started")
            server.report("a", 1, 2)
            following.until("StatusChanged", "Started", "ProgressReported")
            server.end("a", result=5)
            following.end()
        assert following.kinds() == ["StatusChanged", "Started", "ProgressReported", "Completed"]
        assert following.events[-1].outputs == 5
        assert proxy.asked.count("ws?") == TRIES
        assert any("wait=" in each for each in proxy.asked)

    def test_many_where_no_socket_gets_through(
        self, server: MountedApp, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Several are polled side by side; what nobody knows is told, and a cut is told and mended."""
        monkeypatch.setattr("headway.client.stream.POLL_PAUSE", 0.01)
        for name in ("a", "b"):
            server.publish(name)
            server.begin(name)
        with WsgiServer(NoSockets(server.app)) as serving, Client(serving.url) as client:
            following = Following(client, "a", "nobody", "b")
            until(
                lambda: (
                    sorted(following.kinds()) == ["Interrupted", "StatusChanged", "StatusChanged"]
                )
            )
            server.end("b")
            until(lambda: "Completed" in following.kinds())
            serving.stop()
            until(lambda: following.kinds().count("Interrupted") == 2)
            serving.start()
            until(lambda: following.kinds().count("StatusChanged") == 3)
            server.end("a")
            following.end()
        assert sorted(event.execution_id for event in following.events if event.terminal) == [
            "a",
            "b",
        ]

    def test_too_many_viewers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that is full of viewers is polled without a seat."""
        monkeypatch.setattr("headway.client.stream.POLL_PAUSE", 0.01)
        with (
            mounted_app(max_viewers=1) as server,
            WsgiServer(server.app) as serving,
            Client(serving.url) as client,
        ):
            server.publish("a")
            with Client(serving.url) as other:
                first = other.watch("a")
                assert isinstance(next(first), StatusChanged)
                following = Following(client, "a")
                until(lambda: "StatusChanged" in following.kinds())
                server.begin("a")
                server.end("a")
                following.end()
                assert [type(event) for event in first] == [Started, Completed]
        assert following.kinds()[-1] == "Completed"

    def test_more_than_one_socket_watches(
        self, server: MountedApp, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What finds no place on the socket is told as that, and the rest is followed."""
        monkeypatch.setattr("headway.server.streams.websocket_multi.MAX_WATCHED", 1)
        for each in ("a", "b", "c"):
            server.publish(each)
        following = Following(client, "a", "b", "c")
        until(lambda: sorted(following.kinds()) == ["Interrupted", "Interrupted", "StatusChanged"])
        server.begin("a")
        server.end("a")
        following.end()
        assert sorted(
            event.execution_id for event in following.events if isinstance(event, Interrupted)
        ) == ["b", "c"]

    def test_left_in_the_middle(self, server: MountedApp, client: Client) -> None:
        """A watch that is left closes its socket."""
        server.publish("a")
        watch = client.watch("a")
        assert isinstance(next(watch), StatusChanged)
        watch.close()  # type: ignore[attr-defined]
        until(lambda: not server.headway.hub.watched)

    def test_the_backend_is_away(self, server: MountedApp, client: Client) -> None:
        """An outage behind the server is told, and what follows it begins with ``StatusChanged``."""
        server.publish("a")
        server.begin("a")
        following = Following(client, "a")
        following.until("StatusChanged")
        server.feed.disconnect()
        following.until("StatusChanged", "Interrupted")
        assert following.events[-1].code == "unavailable"
        server.feed.reconnect()
        following.until("StatusChanged", "Interrupted", "StatusChanged")
        server.end("a")
        following.end()


class TestWaiting:
    def test_a_result(self, server: MountedApp, client: Client) -> None:
        """Waiting returns what the task returned."""
        server.publish("a")
        server.begin("a")
        server.end("a", result={"rows": 3})
        assert client.wait("a") == {"rows": 3}

    def test_a_failure(self, server: MountedApp, client: Client) -> None:
        """A failure is raised with the exception's type, message and details."""
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

    def test_a_cancel(self, server: MountedApp, client: Client) -> None:
        """A cancelled one is raised as such."""
        server.publish("a")
        server.begin("a")
        server.end("a", "REVOKED")
        with pytest.raises(errors.ExecutionCancelled, match="'a' was cancelled"):
            client.wait("a")

    @pytest.mark.parametrize("proxied", [False, True], ids=["socket", "polling"])
    def test_not_in_time(self, server: MountedApp, proxied: bool) -> None:
        """What doesn't end in time is ``NotFinished``, which is a ``TimeoutError``; it goes on."""
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


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is drawn between zero and a bound that doubles, up to 20 s: no two clients come
    back in step.
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
            patience=10.0,
            pause=lambda _: None,
            monotonic=lambda: float(next(now)),
        )
        watch._fresh = False  # it was there a moment ago
        with pytest.raises(errors.Unavailable):
            list(watch.events())
    assert bounds[:7] == [0.5, 1, 2, 4, 8, 16, 20]
    assert len(bounds) == 10
