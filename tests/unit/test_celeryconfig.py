"""The service's Celery settings."""

from __future__ import annotations

import pytest

import celeryconfig


@pytest.mark.parametrize(
    ("broker", "backend", "expected"),
    [
        (None, None, ("other", "other")),
        ("redis://a/0", None, ("redis://a/0", "redis://a/0")),
        (None, "redis+socket:///s", ("redis+socket:///s", "redis+socket:///s")),
        ("amqp://a//", None, ("amqp://a//", "other")),
        (None, "db+sqlite:///r", ("other", "db+sqlite:///r")),
        ("amqp://a//", "db+sqlite:///r", ("amqp://a//", "db+sqlite:///r")),
        ("amqp://a//", "redis://b/1", ("amqp://a//", "redis://b/1")),
        ("", "", ("other", "other")),
    ],
)
def test_missing_url_is_that_of_the_other_server(
    monkeypatch: pytest.MonkeyPatch,
    broker: str | None,
    backend: str | None,
    expected: tuple[str, str],
) -> None:
    """If only one URL is set, its server is used for both if it can be, else the default."""
    for name, value in (("CELERY_BROKER_URL", broker), ("CELERY_RESULT_BACKEND", backend)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert celeryconfig.urls("other") == expected


def test_only_json_is_accepted() -> None:
    """Neither a message nor a result can bring a pickle into the service."""
    assert celeryconfig.accept_content == celeryconfig.result_accept_content == ["json"]
    assert celeryconfig.task_serializer == celeryconfig.result_serializer == "json"


def test_time_limit_is_below_visibility_timeout() -> None:
    """The hard limit ends a job before Redis delivers it again."""
    assert celeryconfig.task_soft_time_limit < celeryconfig.task_time_limit
    assert (
        celeryconfig.task_time_limit < celeryconfig.broker_transport_options["visibility_timeout"]
    )
