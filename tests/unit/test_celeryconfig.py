"""Which servers the service uses, from what the environment says."""

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
def test_one_server_for_both_where_it_can_be_both(
    monkeypatch: pytest.MonkeyPatch,
    broker: str | None,
    backend: str | None,
    expected: tuple[str, str],
) -> None:
    """What is set is used; what isn't is the other one's server if that can keep results and carry
    messages, else the default.
    """
    for name, value in (("CELERY_BROKER_URL", broker), ("CELERY_RESULT_BACKEND", backend)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert celeryconfig.urls("other") == expected


def test_nothing_but_json_is_read() -> None:
    """Neither a message nor a result can carry a pickle into a process of the service."""
    assert celeryconfig.accept_content == celeryconfig.result_accept_content == ["json"]
    assert celeryconfig.task_serializer == celeryconfig.result_serializer == "json"


def test_no_running_job_is_delivered_twice() -> None:
    """The hard limit ends a job before Redis would hand it to another worker."""
    assert celeryconfig.task_soft_time_limit < celeryconfig.task_time_limit
    assert (
        celeryconfig.task_time_limit < celeryconfig.broker_transport_options["visibility_timeout"]
    )
