"""The extension in a Flask app: mounting, authorization of every route, other origins, probes."""

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
#: The routes that need no token: they contain no data of executions.
PUBLIC = frozenset(
    {"/healthz", "/readyz", "/openapi.json", *(f"/{name}" for name in browser_assets.NAMES)}
)


@pytest.fixture
def server() -> Iterator[MountedApp]:
    with mounted_app() as made:
        yield made


def celery_app(backend: str | None = "redis://127.0.0.1:1/0") -> Celery:
    return Celery("some", broker="memory://", backend=backend, set_as_current=False)


def our_routes(server: MountedApp) -> list[tuple[str, str]]:
    """Method and path of every route that the extension has added."""
    found = []
    for rule in server.app.url_map.iter_rules():
        if rule.endpoint.startswith("headway"):
            path = re.sub(r"<[^>]+>", "x", rule.rule)
            found += [(method, path) for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}]
    return found


class TestMounting:
    def test_constructor_mounts_the_extension(self) -> None:
        """``Headway(app, celery=...)`` mounts it and registers it under its name."""
        app = Flask("one")
        headway = Headway(app, celery=celery_app())
        assert app.extensions["headway"] is headway
        headway.hub.close()

    def test_one_object_serves_several_apps(self) -> None:
        """With ``init_app``, one object serves several apps, each with its own state."""
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

    def test_celery_app_is_taken_from_flask(self) -> None:
        """Without ``celery=``, the app in ``extensions['celery']`` is used (Flask's pattern)."""
        app, celery = Flask("one"), celery_app()
        app.extensions["celery"] = celery
        headway = Headway(app)
        assert headway.celery is celery
        headway.hub.close()

    def test_missing_celery_app_is_a_configuration_error(self) -> None:
        """Without a Celery app, the error says how to pass one."""
        with pytest.raises(ConfigurationError, match="celery="):
            Headway(Flask("one"))

    @pytest.mark.parametrize("backend", [None, "rpc://", "cache+memory://"])
    def test_unshared_result_backend_is_a_configuration_error(self, backend: str | None) -> None:
        """A result backend that other processes cannot read is refused, with what to set."""
        with pytest.raises(ConfigurationError, match="result_backend"):
            Headway(Flask("one"), celery=celery_app(backend))

    def test_mounting_connects_to_nothing(self) -> None:
        """Mounting opens no connection and starts no thread, so it works during an outage."""
        Headway(Flask("one"), celery=celery_app()).hub.close()

    def test_second_extension_needs_its_own_name_and_prefix(self, server: MountedApp) -> None:
        """Two extensions need a name and a prefix each; without them, the error says so."""
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

    def test_second_extension_leaves_taken_root_paths(
        self, server: MountedApp, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Root paths keep their first owner, and the log says so."""
        with mounted_app(server.app, name="other", url_prefix="/other/v1"):
            server.publish("mine")
            assert server.client.get("/applications/a/requests/mine/progress").status_code == 204
            assert "tensorlake" in caplog.text

    def test_existing_root_route_of_the_app_is_kept(self, caplog: pytest.LogCaptureFixture) -> None:
        """The app's own ``/healthz`` stays, even with ``root_endpoints``."""
        app = Flask("own")
        app.add_url_rule("/healthz", "mine", lambda: "mine")
        with mounted_app(app, root_endpoints=True) as server:
            assert server.client.get("/healthz").get_data() == b"mine"
            assert server.client.get("/readyz").status_code == 200
            assert "/healthz" in caplog.text

    def test_discarded_app_releases_its_extension(self) -> None:
        """Nothing global keeps the extension of a discarded app alive."""
        app = Flask("gone")
        headway = Headway(app, celery=celery_app())
        headway.hub.close()
        extension = weakref.ref(headway)
        del app, headway
        gc.collect()
        assert extension() is None


class TestAuthorization:
    def test_every_route_needs_the_token(self) -> None:
        """Every route needs the token, later ones too; only probes, scripts and OpenAPI do not."""
        with mounted_app(tokens="a-token", root_endpoints=True) as server:
            server.publish("x")
            routes = our_routes(server)
            assert len(routes) > 10
            for method, path in routes:
                if path.removeprefix("/api/v1") in PUBLIC:
                    assert server.client.open(path, method=method).status_code == 200
                elif not path.endswith("/ws"):
                    for accept in ("application/json", "text/event-stream"):
                        response = server.client.open(
                            path, method=method, headers={"Accept": accept}
                        )
                        assert_problem(response, 401)
                        assert response.headers["WWW-Authenticate"].startswith("Bearer")

    def test_token_is_accepted_by_every_route(self) -> None:
        """With the token, no route responds with 401 or 403."""
        with mounted_app(tokens="a-token") as server:
            for method, path in our_routes(server):
                if not path.endswith(("/ws", "/events")):
                    assert server.client.open(
                        path, method=method, headers=TOKEN
                    ).status_code not in (401, 403)

    def test_other_machine_without_tokens_is_403(self, server: MountedApp) -> None:
        """Without tokens, a client on another machine gets a 403 that names the setting."""
        response = server.client.get(
            "/api/v1/executions/x", environ_overrides={"REMOTE_ADDR": "10.0.0.7"}
        )
        assert_problem(response, 403, "HEADWAY_TOKENS")

    def test_unauthorized_request_does_not_read_the_store(self) -> None:
        """The store is not read for a request without a token."""
        with mounted_app(tokens="a-token") as server:
            server.store.away = True
            assert_problem(server.client.get("/api/v1/executions/x"), 401)

    def test_authorize_runs_in_the_request(self) -> None:
        """``authorize`` runs in the request; if it returns False, the response is 403."""
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

    def test_exception_in_authorize_is_500(self) -> None:
        """An exception in ``authorize`` is a 500."""
        with mounted_app(authorize=lambda *_: {}["no"]) as server:
            server.publish("x")
            assert_problem(server.client.get("/api/v1/executions/x"), 500)

    def test_ticket_is_issued_for_a_token(self) -> None:
        """A token gets a ticket with its lifetime; without tokens the ticket is null."""
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
    def test_post_from_foreign_page_is_403(self, server: MountedApp, origin: str) -> None:
        """A POST from a page of another site is a 403, before its body is read."""
        for path in ("/api/v1/executions", "/api/v1/tickets"):
            assert_problem(
                server.client.post(path, data="x", headers={"Origin": origin}), 403, "ORIGINS"
            )

    def test_stream_for_foreign_page_is_403(self, server: MountedApp) -> None:
        """A page of another site cannot open an event stream or a WebSocket."""
        server.publish("x")
        for path, headers in (
            ("/applications/a/requests/x/progress", {"Accept": "text/event-stream"}),
            ("/api/v1/executions/x/progress/ws", {"Upgrade": "websocket", "Connection": "Upgrade"}),
        ):
            assert_problem(
                server.client.get(path, headers={**headers, "Origin": "https://evil.example"}), 403
            )

    def test_own_page_is_allowed_and_foreign_get_has_no_cors(self, server: MountedApp) -> None:
        """The app's own page may POST; a foreign page's GET gets no CORS headers."""
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

    def test_configured_origin_gets_cors_headers(self) -> None:
        """A page of a configured origin may read and start; its preflight needs no token."""
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


class TestOperatorEndpoints:
    def test_healthz_ignores_outages(self, server: MountedApp) -> None:
        """The process is running, whatever is unavailable."""
        server.store.away = True
        assert server.client.get("/api/v1/healthz").get_json() == {"status": "ok"}

    def test_readyz_names_what_is_unavailable(self, server: MountedApp) -> None:
        """Ready while backend and feed respond; otherwise a 503 that names what does not."""
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

    def test_root_endpoints_are_optional(self) -> None:
        """They are at the root only with ``root_endpoints``."""
        names = ("/healthz", "/readyz", "/metrics", "/openapi.json")
        with mounted_app(root_endpoints=True) as server:
            assert [server.client.get(name).status_code for name in names] == [200] * 4
        with mounted_app() as server:
            assert [server.client.get(name).status_code for name in names] == [404] * 4

    def test_metrics_count_responses_by_endpoint(self, server: MountedApp) -> None:
        """Responses are counted by endpoint and status; no label contains an id."""
        server.publish("some-id")
        server.client.get("/api/v1/executions/some-id")
        server.client.get("/api/v1/executions/other-id")
        response = server.client.get("/api/v1/metrics")
        assert response.mimetype == "text/plain"
        text = response.get_data(as_text=True)
        assert 'headway_http_requests_total{endpoint="execution",status="200"} 1.0' in text
        assert 'headway_http_requests_total{endpoint="execution",status="404"} 1.0' in text
        assert "some-id" not in text


class TestRestOfTheApp:
    def test_own_sock_of_the_app_is_kept(self) -> None:
        """An app with its own Sock keeps it, and its settings."""
        app = Flask("own")
        sock = Sock(app)
        sock.route("/echo")(lambda ws: None)
        before: dict[str, Any] = dict(app.config)
        with mounted_app(app) as server:
            assert dict(app.config) == before
            assert any(rule.rule == "/echo" for rule in server.app.url_map.iter_rules())

    def test_own_pages_of_the_app_are_unchanged(self, server: MountedApp) -> None:
        """Headway's headers and checks apply to its own responses only."""
        server.app.add_url_rule("/page", "page", lambda: "page", methods=["GET", "POST"])
        response = server.client.post("/page", headers={"Origin": "https://evil.example"})
        assert response.get_data() == b"page"
        assert "Content-Security-Policy" not in response.headers

    def test_every_response_has_security_headers(self, server: MountedApp) -> None:
        """Every response of Headway tells browsers not to treat it as a page."""
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
