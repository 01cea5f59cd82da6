"""The metrics of the hub and its viewers at ``/metrics``."""

from __future__ import annotations

import re

import pytest

from headway.server.streams.limits import Transport
from headway.server.streams.long_poll import LongPoll
from tests.support.flask_app import mounted_app
from tests.support.processes import ROOT
from tests.support.wait import until


def test_streams_are_counted() -> None:
    """Viewers and refusals by transport, frames, reads, outages and reconnects are series."""
    with mounted_app(max_viewers=1) as server:
        hub = server.headway.hub
        hub.sweep_interval = 3600.0  # its reads would count too
        viewer = LongPoll(60.0)
        sample = server.headway.metrics.registry.get_sample_value
        server.publish("some-id")
        attempt = server.begin("some-id")
        assert attempt == 1
        with hub.limiter.slot(Transport.SOCKET):
            hub.attach("some-id", viewer)
            until(lambda: sample("headway_frames_total") == 1.0)
            assert sample("headway_backend_reads_total") == 1.0
            assert (
                server.client.get("/api/v1/executions/some-id/progress?wait=5").status_code == 429
            )
            server.clock.tick(1)
            server.report("some-id", 1, 2)
            until(lambda: sample("headway_frames_total") == 2.0)
            assert sample("headway_viewers", {"transport": "websocket"}) == 1.0
            assert sample("headway_viewers", {"transport": "poll"}) == 0.0
            assert sample("headway_viewers_refused_total", {"transport": "poll"}) == 1.0
            assert sample("headway_viewers_limit") == 1.0
            assert sample("headway_watched_executions") == 1.0
            server.feed.disconnect()
            server.feed.reconnect()
            until(lambda: sample("headway_feed_reconnects_total") == 1.0)
            assert sample("headway_feed_outages_total") == 1.0
            hub.detach("some-id", viewer)
        assert sample("headway_viewers", {"transport": "websocket"}) == 0.0


def test_feed_lag_is_a_histogram() -> None:
    """The time from a report to the hub is a histogram; a clock that runs ahead counts as 0."""
    with mounted_app() as server:
        viewer = LongPoll(60.0)
        sample = server.headway.metrics.registry.get_sample_value
        server.headway.hub.sweep_interval = 3600.0  # what a sweep finds is not a report
        server.publish("some-id")
        server.begin("some-id")
        server.headway.hub.attach("some-id", viewer)
        until(lambda: sample("headway_frames_total") == 1.0)
        stamp = server.clock().timestamp() * 1000
        for number, lag in enumerate((400, 0, -7000), 1):
            report = {
                "current": number,
                "total": 9,
                "timestamp": stamp + number - lag,
                "attempt": 1,
            }
            server.feed.publish("some-id", {"status": "PROGRESS", "result": report})
            until(lambda number=number: sample("headway_frames_total") == 1 + number)
        assert sample("headway_reports_total") == sample("headway_feed_lag_seconds_count") == 3.0
        assert sample("headway_feed_lag_seconds_bucket", {"le": "0.25"}) == 2.0
        assert sample("headway_feed_lag_seconds_bucket", {"le": "0.5"}) == 3.0
        assert sample("headway_feed_lag_seconds_sum") == pytest.approx(0.399)
        server.headway.hub.detach("some-id", viewer)


def test_every_metric_is_documented() -> None:
    """docs/scale.md lists exactly the series that ``/metrics`` has."""
    with mounted_app() as server:
        families = {
            family.name: family.type for family in server.headway.metrics.registry.collect()
        }
    named = {f"{name}_total" if kind == "counter" else name for name, kind in families.items()}
    assert named == set(
        re.findall(r"^\| `(headway_\w+)", (ROOT / "docs" / "scale.md").read_text(), re.MULTILINE)
    )
