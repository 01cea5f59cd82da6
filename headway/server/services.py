"""What the routes of one mounted extension share, as one object.

Routes take `Services` and not the extension, so that no module imports the extension back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from celery import Celery

from headway.core.states import resolve
from headway.feeds.base import Feed
from headway.models import Execution
from headway.server.auth import Policy
from headway.server.metrics import Metrics
from headway.server.settings import Settings
from headway.server.streams.hub import Hub
from headway.stores.base import Store


@dataclass(frozen=True, slots=True, eq=False)
class Services:
    """The parts of one mounted extension. Made by `Headway.init_app`."""

    #: The name of the blueprint: the prefix of its endpoints.
    name: str
    celery: Celery
    settings: Settings
    policy: Policy
    store: Store
    feed: Feed
    hub: Hub
    metrics: Metrics
    #: Returns the current time in UTC.
    clock: Callable[[], datetime]

    def get_execution(self, execution_id: str) -> Execution:
        """Read the current state. Raises what `states.resolve` and `Store.read` raise."""
        return resolve(self.store.read([execution_id])[0], self.clock())
