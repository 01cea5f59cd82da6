"""The extension in a Flask app: mounting, the lock on every route, foreign pages, the probes, and
what it leaves alone.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from flask import Flask
from flask_sock import Sock

from headway.errors import ConfigurationError
from headway.server import Action, Headway, Identity, browser_assets
from tests.support.flask_app import MountedApp, mounted_app
from tests.unit.test_problems import assert_problem

TOKEN = {"Authorization": "Bearer a-token"}
#: The routes that want no token: they tell nothing of anybody's work.
OPEN = frozenset(
    {"/healthz", "/readyz", "/openapi.json", *(f"/{name}" for name in browser_assets.NAMES)}
)


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app() as made:
        yield made


def celery_app(backend: str | None = "redis://127.0.0.1:1/0") -> Celery:
    return Celery("some", broker="memory://", backend=backend, set_as_current=False)


def our_routes(server: MountedApp) -> list[tuple[str, str]]:
    """Method and path of every route that the extension added."""
    found = []
    for rule in server.app.url_map.iter_rules():
        if rule.endpoint.startswith("headway"):
            path = re.sub(r"<[^>]+>", "x", rule.rule)
            found += [(method, path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}]
    return found


class TestMounting:
    def test_in_one_line(self) -> None:
        """``Headway(app, celery=...)`` mounts it, and the app knows it by its name."""
        app = Flask("one")
        headway = Headway(app, celery=celery_app())
        assert app.extensions["headway"] is headway
        headway.hub.close()

    def test_in_a_factory(self) -> None:
        """One object serves several apps, each with its own state."""
        headway = Headway()
        apps = [Flask("one"), Flask("two")]
        celeries = [celery_app(), celery_app()]
        for app, celery in zip(apps, celeries, strict=True):
            headway.init_app(app, celery=celery)
        bound = [app.extensions["headway"] for app in apps]
        assert [each.celery for each in bound] == celeries
        assert bound[0] is headway
        for each in bound:
            each.hub.close()

    def test_the_apps_own_celery(self) -> None:
        """Without an argument it takes the Celery app that Flask's documented pattern leaves in
        ``extensions``.
        """
        app, celery = Flask("one"), celery_app()
        app.extensions["celery"] = celery
        headway = Headway(app)
        assert headway.celery is celery
        headway.hub.close()

    def test_no_celery(self) -> None:
        """With none at all the text says how to give one."""
        with pytest.raises(ConfigurationError, match="celery="):
            Headway(Flask("one"))

    @pytest.mark.parametrize("backend", [None, "rpc://", "cache+memory://"])
    def test_results_that_nobody_else_can_read(self, backend: str | None) -> None:
        """A result backend that no other process can read is refused at the start, with what to set
        instead.
        """
        with pytest.raises(ConfigurationError, match="result_backend"):
            Headway(Flask("one"), celery=celery_app(backend))

    def test_nothing_is_contacted(self) -> None:
        """Mounting connects to nothing and starts no thread: a web process starts while the backend
        is away.
        """
        Headway(Flask("one"), celery=celery_app()).hub.close()

    def test_twice(self, server: MountedApp) -> None:
        """Two Celery apps in one Flask app: a name and a prefix each; a second one without them is
        told so.
        """
        with pytest.raises(ConfigurationError, match="name="):
            Headway(server.app, celery=celery_app())
        with mounted_app(
            server.app, name="other", url_prefix="/other/v1", tensorlake=False
        ) as other:
            server.publish("mine")
            other.publish("theirs")
            assert server.client.get("/api/v1/executions/mine").status_code == 200
            assert server.client.get("/other/v1/executions/theirs").status_code == 200
            assert_problem(server.client.get("/other/v1/executions/mine"), 404)
            assert_problem(server.client.get("/other/v1/nothing"), 404)

    def test_twice_with_tensorlake(
        self, server: MountedApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Root paths that are taken stay whose they are, and the log says so."""
        with mounted_app(server.app, name="other", url_prefix="/other/v1"):
            server.publish("mine")
            assert server.client.get("/applications/a/requests/mine/progress").status_code == 204
            assert "tensorlake" in caplog.text

    def test_routes_of_the_app_that_were_there_first(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An app's own ``/healthz`` stays its own, even where the operations shall stand at the
        root.
        """
        app = Flask("own")
        app.add_url_rule("/healthz", "mine", lambda: "mine")
        with mounted_app(app, root_endpoints=True) as server:
            assert server.client.get("/healthz").get_data() == b"mine"
            assert server.client.get("/readyz").status_code == 200
            assert "/healthz" in caplog.text

    def test_an_app_can_go(self) -> None:
        """An app that was thrown away takes its extension along: nothing global holds it."""
        app = Flask("gone")
        headway = Headway(app, celery=celery_app())
        headway.hub.close()
        gone = weakref.ref(headway)
        del app, headway
        gc.collect()
        assert gone() is None


class TestLock:
    def test_every_route_wants_the_token(self) -> None:
        """With tokens set no route answers a stranger but probes, description and scripts: whatever
        is added later, too.
        """
        with mounted_app(tokens="a-token", root_endpoints=True) as server:
            server.publish("x")
            routes = our_routes(server)
            assert len(routes) > 10
            for method, path in routes:
                if path.removeprefix("/api/v1") in OPEN:
                    assert server.client.open(path, method=method).status_code == 200
                elif not path.endswith("/ws"):
                    for accept in ("application/json", "text/event-stream"):
                        response = server.client.open(
                            path, method=method, headers={"Accept": accept}
                        )
                        assert_problem(response, 401)
                        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_the_token_opens_them(self) -> None:
        """With it, each of them answers something else."""
        with mounted_app(tokens="a-token") as server:
            for method, path in our_routes(server):
                if not path.endswith(("/ws", "/events")):
                    assert server.client.open(
                        path, method=method, headers=TOKEN
                    ).status_code not in (401, 403)

    def test_another_machine(self, server: MountedApp) -> None:
        """Without tokens a client elsewhere is a 403 that says what to set."""
        response = server.client.get(
            "/api/v1/executions/x", environ_overrides={"REMOTE_ADDR": "10.0.0.7"}
        )
        assert_problem(response, 403, "HEADWAY_TOKENS")

    def test_a_stranger_costs_nothing(self) -> None:
        """The store isn't asked for somebody who may not know."""
        with mounted_app(tokens="a-token") as server:
            server.store.away = True
            assert_problem(server.client.get("/api/v1/executions/x"), 401)

    def test_the_apps_own_rule_sees_the_request(self) -> None:
        """``authorize`` runs in the request, and its no is a 403."""
        seen: list[tuple[Action, str | None]] = []

        def rule(who: Identity, action: Action, execution_id: str | None) -> bool:
            seen.append((action, execution_id))
            return execution_id == "mine"

        with mounted_app(authorize=rule) as server:
            server.publish("mine")
            assert server.client.get("/api/v1/executions/mine").status_code == 200
            assert_problem(server.client.get("/api/v1/executions/other"), 403)
            assert_problem(server.client.post("/api/v1/executions", json={"task": "x"}), 403)
        assert seen == [(Action.READ, "mine"), (Action.READ, "other"), (Action.START, None)]

    def test_a_fault_in_the_apps_own_rule_opens_nothing(self) -> None:
        """An exception in it is a 500."""
        with mounted_app(authorize=lambda *_: {}["no"]) as server:
            server.publish("x")
            assert_problem(server.client.get("/api/v1/executions/x"), 500)

    def test_tickets(self) -> None:
        """A token gets a ticket with its lifetime; where no token is wanted the ticket is null."""
        with mounted_app(tokens="a-token") as server:
            body = server.client.post("/api/v1/tickets", headers=TOKEN).get_json()
            assert body["expires_in"] == 30.0
            assert body["ticket"]
            assert "a-token" not in body["ticket"]
        with mounted_app() as server:
            assert server.client.post("/api/v1/tickets").get_json() == {
                "ticket": None,
                "expires_in": None,
            }


class TestForeignPages:
    @pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9000"])
    def test_what_changes_something_is_refused(self, server: MountedApp, origin: str) -> None:
        """A POST from another site's page is a 403, before its body is read."""
        for path in ("/api/v1/executions", "/api/v1/tickets"):
            assert_problem(
                server.client.post(path, data="x", headers={"Origin": origin}), 403, "ORIGINS"
            )

    def test_streams_are_refused(self, server: MountedApp) -> None:
        """Another site's page can't hold a stream open, nor upgrade to a socket."""
        server.publish("x")
        for path, headers in (
            ("/applications/a/requests/x/progress", {"Accept": "text/event-stream"}),
            ("/api/v1/executions/x/progress/ws", {"Upgrade": "websocket", "Connection": "Upgrade"}),
        ):
            assert_problem(
                server.client.get(path, headers={**headers, "Origin": "https://evil.example"}), 403
            )

    def test_its_own_page(self, server: MountedApp) -> None:
        """The app's own page may, and a foreign page's plain GET is left to the browser, which
        keeps the answer from it.
        """
        assert (
            server.client.post(
                "/api/v1/tickets", headers={"Origin": "http://localhost"}
            ).status_code
            == 200
        )
        server.publish("x")
        response = server.client.get(
            "/api/v1/executions/x", headers={"Origin": "https://evil.example"}
        )
        assert "Access-Control-Allow-Origin" not in response.headers

    def test_a_named_origin(self) -> None:
        """A page of a named origin may read and start; its browser is told so, and asks beforehand
        without a token.
        """
        with mounted_app(origins="https://app.example", tokens="a-token") as server:
            origin = {"Origin": "https://app.example"}
            preflight = server.client.options(
                "/api/v1/executions", headers={**origin, "Access-Control-Request-Method": "POST"}
            )
            assert preflight.status_code == 200
            assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
            assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
            for response in (
                preflight,
                server.client.get("/api/v1/executions/x", headers={**origin, **TOKEN}),
            ):
                assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
                assert "Origin" in response.headers["Vary"]
            assert (
                server.client.post("/api/v1/tickets", headers={**origin, **TOKEN}).status_code
                == 200
            )


class TestOperations:
    def test_healthz(self, server: MountedApp) -> None:
        """The process is up, whatever is away."""
        server.store.away = True
        assert server.client.get("/api/v1/healthz").get_json() == {"status": "ok"}

    def test_readyz(self, server: MountedApp) -> None:
        """Ready while backend and feed answer; else 503 that says which doesn't."""
        assert server.client.get("/api/v1/readyz").get_json() == {
            "status": "ready",
            "checks": {"backend": True, "feed": True},
        }
        server.feed.disconnect()
        response = server.client.get("/api/v1/readyz")
        assert assert_problem(response, 503, "feed")["checks"] == {"backend": True, "feed": False}
        server.store.away = True
        assert_problem(server.client.get("/api/v1/readyz"), 503, "backend", "feed")
        assert response.headers["Retry-After"]

    def test_at_the_root(self) -> None:
        """They stand at the root where that was asked for, and only then."""
        names = ("/healthz", "/readyz", "/metrics", "/openapi.json")
        with mounted_app(root_endpoints=True) as server:
            assert [server.client.get(name).status_code for name in names] == [200] * 4
        with mounted_app() as server:
            assert [server.client.get(name).status_code for name in names] == [404] * 4

    def test_metrics(self, server: MountedApp) -> None:
        """Prometheus text: answers by endpoint and status, with no id in it, and the hub's own
        counters.
        """
        server.publish("some-id")
        server.client.get("/api/v1/executions/some-id")
        server.client.get("/api/v1/executions/other-id")
        response = server.client.get("/api/v1/metrics")
        assert response.mimetype == "text/plain"
        text = response.get_data(as_text=True)
        assert 'headway_http_requests_total{endpoint="execution",status="200"} 1.0' in text
        assert 'headway_http_requests_total{endpoint="execution",status="404"} 1.0' in text
        assert "some-id" not in text


class TestLeftAlone:
    def test_the_apps_own_sock(self) -> None:
        """An app with a Sock of its own keeps it, and its settings."""
        app = Flask("own")
        sock = Sock(app)
        sock.route("/echo")(lambda ws: None)
        before: dict[str, Any] = dict(app.config)
        with mounted_app(app) as server:
            assert dict(app.config) == before
            assert any(rule.rule == "/echo" for rule in server.app.url_map.iter_rules())

    def test_the_apps_own_pages(self, server: MountedApp) -> None:
        """Headers and checks of ours are for our answers alone."""
        server.app.add_url_rule("/page", "page", lambda: "page", methods=["GET", "POST"])
        response = server.client.post("/page", headers={"Origin": "https://evil.example"})
        assert response.get_data() == b"page"
        assert "Content-Security-Policy" not in response.headers

    def test_security_headers(self, server: MountedApp) -> None:
        """Every answer of ours says that it is what it says it is."""
        server.publish("x")
        for path in (
            "/api/v1/executions/x",
            "/api/v1/executions/y",
            "/api/v1/nothing",
            "/api/v1/healthz",
            "/applications/a/requests/x/progress",
        ):
            headers = server.client.get(path).headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
