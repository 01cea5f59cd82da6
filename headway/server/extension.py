"""The Flask extension: what an app adds to serve progress."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery import Celery
from flask import Blueprint, Flask, Response, request
from flask_sock import Sock

from headway.backends import feed_for, store_for
from headway.errors import ConfigurationError
from headway.feeds.base import Feed
from headway.models import Execution
from headway.server import browser_assets, dashboard, problems
from headway.server.api import executions, health, listing, openapi, start, tensorlake
from headway.server.auth import Authorize, Policy, allow_origin
from headway.server.metrics import Metrics
from headway.server.services import Services
from headway.server.settings import Settings
from headway.server.streams import handshake, sse, websocket, websocket_multi
from headway.server.streams.hub import Hub, utc_now
from headway.stores.base import Store
from headway.stores.result_backend import check_readable

log = logging.getLogger(__name__)


class Headway:
    """Live progress of a Celery app's executions, mounted in a Flask app.

    ::

        Headway(flask_app, celery=celery_app)                   # or, in a factory:
        headway = Headway(celery=celery_app)
        headway.init_app(flask_app)

    Without ``celery=``, the app in ``flask_app.extensions["celery"]`` is used (Flask's documented
    pattern). Every field of `Settings` is accepted as a keyword, and takes precedence over Flask's
    config and the environment. ``authorize`` is the app's own rule (see `auth.Policy`). ``store``,
    ``feed`` and ``clock`` replace the real ones in tests.

    One app may mount several extensions, each with its own ``name`` and ``url_prefix``; one object
    may serve several apps.
    """

    app: Flask
    celery: Celery
    settings: Settings
    policy: Policy
    store: Store
    feed: Feed
    hub: Hub
    metrics: Metrics
    #: The parts above, as the routes use them.
    services: Services
    #: The routes below the prefix, and those at the root. With a CSRF extension, call
    #: ``csrf.exempt(headway.blueprint)``: Headway checks ``Origin`` itself.
    blueprint: Blueprint
    root_blueprint: Blueprint

    def __init__(
        self,
        app: Flask | None = None,
        celery: Celery | None = None,
        *,
        name: str = "headway",
        authorize: Authorize | None = None,
        store: Store | None = None,
        feed: Feed | None = None,
        clock: Callable[[], datetime] = utc_now,
        **settings: Any,
    ) -> None:
        self.name = name
        self.clock = clock
        self._given: dict[str, Any] = {
            "celery": celery,
            "authorize": authorize,
            "store": store,
            "feed": feed,
        }
        self._explicit = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, celery: Celery | None = None) -> None:
        """Mount on ``app``.

        Raises ``ConfigurationError`` for a configuration that cannot work. Contacts no server.
        """
        if self.name in app.extensions:
            raise ConfigurationError(
                f"{self.name!r} is already mounted on this app. Give the second extension its own "
                "name and prefix, for example Headway(app, celery=other, name='other', "
                "url_prefix='/other/api/v1')."
            )
        if hasattr(self, "app"):
            # A second app: the attributes of this object stay those of the first one.
            sibling = Headway(name=self.name, clock=self.clock, **self._given, **self._explicit)
            sibling.init_app(app, celery)
            return
        self.app = app
        self.celery = _celery_of(app, celery if celery is not None else self._given["celery"])
        self.settings = Settings.load(self._explicit, app.config, os.environ)
        self.policy = Policy(self.settings, self.clock, self._given["authorize"])
        self.store = self._given["store"] if self._given["store"] is not None else self._own_store()
        self.feed = self._given["feed"] if self._given["feed"] is not None else self._own_feed()
        self.hub = Hub(
            self.store, self.feed, max_viewers=self.settings.max_viewers, clock=self.clock
        )
        self.metrics = Metrics(self.hub)
        self.services = Services(
            self.name,
            self.celery,
            self.settings,
            self.policy,
            self.store,
            self.feed,
            self.hub,
            self.metrics,
            self.clock,
        )
        self._mount(app)
        app.extensions[self.name] = self

    def get_execution(self, execution_id: str) -> Execution:
        """Read the current state of an execution.

        Raises ``ExecutionNotFound``, ``ExecutionExpired`` or ``Unavailable``.
        """
        return self.services.get_execution(execution_id)

    def _own_store(self) -> Store:
        check_readable(self.celery, allow_pickle=self.settings.allow_pickle)
        found: Store = store_for(self.celery, allow_pickle=self.settings.allow_pickle)
        return found

    def _own_feed(self) -> Feed:
        return feed_for(
            self.celery,
            self.store,
            poll_interval=self.settings.poll_interval,
            allow_pickle=self.settings.allow_pickle,
        )

    def _mount(self, app: Flask) -> None:
        # Blueprints are made here and not at import: routes added to a registered blueprint raise
        # (web-facts#blueprint-inside-init-app).
        services = self.services
        self.blueprint = Blueprint(self.name, __name__, url_prefix=self.settings.url_prefix)
        self.root_blueprint = RootBlueprint(f"{self.name}_root", app)
        for blueprint in (self.blueprint, self.root_blueprint):
            problems.register(blueprint)
            blueprint.before_request(self._before)
            blueprint.after_request(self._after)
        for part in (executions, listing, start, sse, health, openapi, browser_assets):
            part.register(self.blueprint, services)
        handshake.install(
            self.blueprint, send_buffer=self.settings.send_buffer, counts=self.hub.counts
        )
        # No init_app: the app may have a Sock of its own (web-facts#one-sock-per-blueprint).
        sock = Sock()
        for transport in (websocket, websocket_multi):
            transport.register(self.blueprint, services, sock)
        if self.settings.root_endpoints:
            health.register(self.root_blueprint, services)
            openapi.register(self.root_blueprint, services)
        if self.settings.tensorlake:
            tensorlake.register(self.root_blueprint, services)
        app.register_blueprint(self.blueprint)
        app.register_blueprint(self.root_blueprint)
        dashboard.register(app, services)
        is_like = tensorlake.is_like if self.settings.tensorlake else None
        problems.handle_unmatched(app, self.settings.url_prefix, self.root_blueprint, is_like)

    def _before(self) -> None:
        # Plain GETs need no check: the browser keeps their responses from pages of other origins.
        # Requests that change something or open a stream are refused here.
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        if (
            upgrade
            or request.method not in ("GET", "HEAD", "OPTIONS")
            or "text/event-stream" in request.headers.get("Accept", "")
        ):
            self.policy.check_origin(request)

    def _after(self, response: Response) -> Response:
        self.metrics.count_request(request.endpoint or "", response.status_code)
        allow_origin(
            self.policy, request.headers, response.headers, preflight=request.method == "OPTIONS"
        )
        return problems.add_security_headers(response)


class RootBlueprint(Blueprint):
    """Routes at the root of the app. A path that the app already has stays the app's."""

    def __init__(self, name: str, app: Flask) -> None:
        super().__init__(name, __name__)
        self._taken = {rule.rule for rule in app.url_map.iter_rules()}

    def add_url_rule(self, rule: str, *args: Any, **options: Any) -> None:
        """Add the route. Logs a warning instead if the app has a route with the same path."""
        if rule in self._taken:
            log.warning(
                "The app has its own route %s, so Headway does not serve that path; "
                "see the settings tensorlake and root_endpoints",
                rule,
            )
            return
        super().add_url_rule(rule, *args, **options)


def _celery_of(app: Flask, given: Celery | None) -> Celery:
    celery = given if given is not None else app.extensions.get("celery")
    if celery is None:
        raise ConfigurationError(
            "Headway needs the Celery app whose tasks it shows: pass it with "
            "Headway(flask_app, celery=celery_app), or set flask_app.extensions['celery'] before."
        )
    return celery
