"""Metrics for Prometheus, of one process: each web process serves its own ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.server.counters import HELP
from headway.server.streams.hub import Hub
from headway.server.streams.limits import Transport


class Metrics:
    """The metrics of one mounted extension.

    They have a registry of their own: an app may mount two extensions, and uses the default
    registry itself.
    """

    def __init__(self, hub: Hub) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "headway_http_requests",
            "Responses, by endpoint and status",
            ["endpoint", "status"],
            registry=self.registry,
        )
        self.started = Counter(
            "headway_executions_started",
            "Tasks published by POST /executions",
            ["task"],
            registry=self.registry,
        )
        self.registry.register(_HubCollector(hub))
        self.registry.register(hub.lag)

    def count_request(self, endpoint: str, status: int) -> None:
        """Count one response.

        ``endpoint`` is the view's name, never the URL: each id would become a time series.
        """
        self._requests.labels(endpoint.rpartition(".")[2], str(status)).inc()


class _HubCollector(Collector):
    """Reads the hub's counters on request, so that they cost the hub nothing."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def describe(self) -> list[Metric]:
        # Registration must not collect: the hub starts nothing before the first request
        # (web-facts#no-locks-before-fork).
        return []

    def collect(self) -> Iterator[Metric]:
        hub = self._hub
        viewers = GaugeMetricFamily(
            "headway_viewers", "Open streams and held polls", labels=["transport"]
        )
        refused = CounterMetricFamily(
            "headway_viewers_refused",
            "Viewers refused because the limit was reached (1013)",
            labels=["transport"],
        )
        for transport in Transport:
            viewers.add_metric([transport], hub.limiter.in_use_by(transport))
            refused.add_metric([transport], hub.limiter.refused(transport))
        yield viewers
        yield refused
        yield GaugeMetricFamily(
            "headway_viewers_limit", "Most viewers of this process", value=hub.limiter.limit
        )
        yield GaugeMetricFamily(
            "headway_watched_executions",
            "Executions with at least one viewer",
            value=len(hub.watched),
        )
        for what, text in HELP.items():
            yield CounterMetricFamily(f"headway_{what}", text, value=hub.counts[what])
