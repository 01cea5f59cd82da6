"""Counters for Prometheus. They speak of one process: each web process answers ``/metrics`` for
itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.server.counters import HELP
from headway.server.streams.limits import Transport

if TYPE_CHECKING:
    from headway.server.extension import Headway


class Metrics:
    """The counters of one mounted extension, in a registry of its own: an app may mount two, and
    has its own default one.
    """

    def __init__(self, headway: Headway) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "headway_http_requests",
            "Answers given, by endpoint and status",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.started = Counter(
            "headway_executions_started",
            "Tasks published by POST /executions",
            ["task"],
            registry=self.registry,
        )
        self.registry.register(_HubCollector(headway))
        self.registry.register(headway.hub.lag)

    def count_request(self, endpoint: str, status: int) -> None:
        """Count one answer. The endpoint is the view's name, never the URL: ids would make a series
        each.
        """
        self._requests.labels(endpoint.rpartition(".")[2], str(status)).inc()


class _HubCollector(Collector):
    """Reads the hub's own counters when asked, so that the hub pays nothing for it."""

    def __init__(self, headway: Headway) -> None:
        self._headway = headway

    def describe(self) -> list[Metric]:
        # Registering must not collect: the hub may start nothing before the first request (web fact
        # 22).
        return []

    def collect(self) -> Iterator[Metric]:
        hub = self._headway.hub
        viewers = GaugeMetricFamily(
            "headway_viewers", "Open streams and held polls", labels=["skin"]
        )
        refused = CounterMetricFamily(
            "headway_viewers_refused",
            "Viewers turned away: no seat was free (1013)",
            labels=["skin"],
        )
        for skin in Transport:
            viewers.add_metric([skin], hub.budget.taken_by(skin))
            refused.add_metric([skin], hub.budget.refused(skin))
        yield viewers
        yield refused
        yield GaugeMetricFamily(
            "headway_viewers_limit", "Seats for viewers in this process", value=hub.budget.limit
        )
        yield GaugeMetricFamily(
            "headway_watched_executions",
            "Executions that somebody looks at",
            value=len(hub.watched),
        )
        for what, text in HELP.items():
            yield CounterMetricFamily(f"headway_{what}", text, value=hub.counts[what])
