"""The Flask extension: what an app adds, and the one object that every part of the server is given."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from flask import Blueprint, Flask, Response, request

from headway.backends import feed_for, store_for
from headway.core.states import resolve
from headway.errors import ConfigurationError, InvalidRequest
from headway.feeds.base import Feed
from headway.models import Execution
from headway.server import browser_assets, dashboard, problems
from headway.server.api import (
    cancel,
    executions,
    health,
    history,
    listing,
    openapi,
    start,
    tensorlake,
)
from headway.server.auth import Authorize, Policy, allow_origin
from headway.server.metrics import Metrics
from headway.server.settings import Settings
from headway.server.streams import socket, sse
from headway.server.streams.hub import Hub
from headway.stores.base import Store
from headway.stores.result_backend import check_readable

log = logging.getLogger(__name__)

#: Celery's own longest id is a UUID; whoever makes up ids has this much room.
MAX_ID = 255


def utc_now() -> datetime:
    """The server's clock, unless another one is given."""
    return datetime.now(UTC)


class Headway:
    """Live progress of a Celery app's executions, mounted in a Flask app.

    ::

        Headway(flask_app, celery=celery_app)                   # or, in a factory:
        headway = Headway(celery=celery_app)
        headway.init_app(flask_app)

    With no ``celery=``, the one in ``flask_app.extensions["celery"]`` is taken (Flask's documented
    pattern). Every keyword of `Settings` is taken too, and beats Flask's config and the
    environment. ``authorize`` is the app's own rule (`auth.Policy`); ``store``, ``feed`` and
    ``clock`` are for tests, which put fakes in the place of the real ones.

    One app may mount several, each with a ``name`` and a ``url_prefix`` of its own; one object may
    serve several apps.
    """

    app: Flask
    celery: Celery
    settings: Settings
    policy: Policy
    store: Store
    feed: Feed
    hub: Hub
    metrics: Metrics
    #: Below the prefix, and at the root. With a CSRF extension: ``csrf.exempt(headway.blueprint)``;
    #: Headway checks ``Origin``.
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
        """Mount on ``app``. Raises ``ConfigurationError`` for a set-up that can't work; contacts no
        server.
        """
        if self.name in app.extensions:
            raise ConfigurationError(
                f"{self.name!r} is mounted on this app already; give the second one a name and a prefix of its own, such as "
                "Headway(app, celery=other, name='other', url_prefix='/other/api/v1')"
            )
        if hasattr(self, "app"):
            # Serving another app: what belongs to the first one stays with it.
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
        self.metrics = Metrics(self)
        self._mount(app)
        app.extensions[self.name] = self

    def look(self, execution_id: str) -> Execution:
        """What an execution is now. Raises what `resolve` and `Store.read` raise."""
        return resolve(self.store.read([execution_id])[0], self.clock())

    @staticmethod
    def checked_id(execution_id: str, what: str = "execution id") -> str:
        """The id as it came, or ``InvalidRequest`` which says what is wrong with it."""
        if not 0 < len(execution_id) <= MAX_ID:
            raise InvalidRequest(
                f"The {what} must have 1 to {MAX_ID} characters, not {len(execution_id)}"
            )
        # U+FFFD stands where the URL's bytes were no UTF-8.
        if not execution_id.isprintable() or "\ufffd" in execution_id or "/" in execution_id:
            raise InvalidRequest(f"The {what} may hold printable characters only, and no slash")
        return execution_id

    def _own_store(self) -> Store:
        check_readable(self.celery, allow_pickle=self.settings.allow_pickle)
        found: Store = store_for(self.celery, allow_pickle=self.settings.allow_pickle)
        return found

    def _own_feed(self) -> Feed:
        settings = self.settings
        return feed_for(
            self.celery,
            self.store,
            poll_interval=settings.poll_interval,
            allow_pickle=settings.allow_pickle,
        )

    def _mount(self, app: Flask) -> None:
        # Built here and not at import: routes that are added to a registered blueprint raise (web
        # fact 21).
        self.blueprint = Blueprint(self.name, __name__, url_prefix=self.settings.url_prefix)
        self.root_blueprint = RootBlueprint(f"{self.name}_root", app)
        for blueprint in (self.blueprint, self.root_blueprint):
            problems.register(blueprint)
            blueprint.before_request(self._before)
            blueprint.after_request(self._after)
        for part in (
            executions,
            history,
            listing,
            start,
            cancel,
            socket,
            sse,
            health,
            openapi,
            browser_assets,
        ):
            part.register(self.blueprint, self)
        if self.settings.operations_at_root:
            health.register(self.root_blueprint, self)
            openapi.register(self.root_blueprint, self)
        if self.settings.tensorlake:
            tensorlake.register(self.root_blueprint, self)
        app.register_blueprint(self.blueprint)
        app.register_blueprint(self.root_blueprint)
        dashboard.register(app, self)
        is_like = tensorlake.is_like if self.settings.tensorlake else None
        problems.answer_unmatched(app, self.settings.url_prefix, self.root_blueprint, is_like)

    def _before(self) -> None:
        # Reading by plain GET is left to the browser: it keeps the answer from a foreign page by
        # itself. What changes something, or holds a stream open, is refused here.
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
        return problems.secured(response)


class RootBlueprint(Blueprint):
    """Routes at the root of somebody else's app: a path that is taken stays whose it is, and the
    log says so.
    """

    def __init__(self, name: str, app: Flask) -> None:
        super().__init__(name, __name__)
        self._taken = {rule.rule for rule in app.url_map.iter_rules()}

    def add_url_rule(self, rule: str, *args: Any, **options: Any) -> None:
        """Add the route, unless the app has one of the same path."""
        if rule in self._taken:
            log.warning(
                "%s is a route of the app already, and stays that; see the settings tensorlake and operations_at_root",
                rule,
            )
            return
        super().add_url_rule(rule, *args, **options)


def _celery_of(app: Flask, given: Celery | None) -> Celery:
    celery = given if given is not None else app.extensions.get("celery")
    if celery is None:
        raise ConfigurationError(
            "Headway needs the Celery app whose tasks it shows: Headway(flask_app, celery=celery_app), "
            "or put it in flask_app.extensions['celery'] before"
        )
    return celery
