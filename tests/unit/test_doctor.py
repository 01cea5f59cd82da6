"""`doctor` finds each configuration problem and its fix, and nothing in a good configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

import headway
from headway.cli import checks
from headway.cli.context import CliContext
from headway.cli.main import headway as command
from headway.stores.redis import RedisStore
from headway.stores.redis_connection import connect

#: The checks of the configuration never connect to it.
BACKEND = "redis://127.0.0.1:9/0"


def nothing() -> None:
    """A task."""


def app_with(*, install: bool = True, broker: str = "memory://", **conf: Any) -> Celery:
    app = Celery(
        "examined", broker=broker, backend=conf.pop("result_backend", BACKEND), set_as_current=False
    )
    app.conf.update(conf)
    if install:
        headway.install(app)
    app.task(name="shop.load", shared=False)(nothing)
    return app


def configuration(app: Celery) -> Iterator[tuple[str, str]]:
    """The findings of the checks that use no server."""
    app.finalize()
    for check in (
        checks.check_installation,
        checks.check_result_backend,
        checks.check_serializers,
        checks.check_results,
        checks.check_delivery,
        checks.check_events,
    ):
        for finding in check(app):
            assert finding.problem, finding
            assert finding.fix, finding
            yield finding.name, finding.severity.value


@pytest.mark.parametrize(
    ("conf", "found"),
    [
        ({}, []),
        ({"install": False, "task_track_started": True}, [("not-installed", "error")]),
        ({"install": False}, [("not-installed", "error"), ("track-started", "warning")]),
        ({"result_backend": None}, [("result-backend", "error")]),
        ({"result_backend": "rpc://"}, [("result-backend", "error")]),
        ({"result_backend": "cache+memory://"}, [("result-backend", "error")]),
        ({"result_backend": "no-such-thing://"}, [("result-backend", "error")]),
        ({"result_backend": "file:///tmp"}, [("weak-fence", "note")]),
        (
            {"result_serializer": "pickle", "result_accept_content": ["pickle"]},
            [("result-backend", "error"), ("pickle", "warning")],
        ),
        (
            {"accept_content": ["json", "pickle"], "result_accept_content": ["json"]},
            [("pickle", "warning")],
        ),
        ({"task_ignore_result": True}, [("ignore-result", "warning")]),
        ({"result_extended": True}, [("result-extended", "warning")]),
        ({"result_expires": None}, [("result-expires", "warning")]),
        ({"result_expires": 60}, [("result-expires", "warning")]),
        ({"task_always_eager": True}, [("always-eager", "error")]),
        (
            {"worker_send_task_events": True, "task_send_sent_event": True},
            [("task-events", "note")],
        ),
        (
            {"broker": "redis://", "task_acks_late": True},
            [("visibility-timeout", "warning"), ("long-eta", "note")],
        ),
        (
            {"broker": "redis://", "task_acks_late": True, "task_time_limit": 60},
            [("long-eta", "note")],
        ),
        (
            {
                "broker": "sqs://",
                "task_acks_late": True,
                "task_time_limit": 60,
                "broker_transport_options": {"visibility_timeout": 30},
            },
            [("visibility-timeout", "warning")],
        ),
        ({"broker": "amqp://", "task_acks_late": True}, []),
    ],
)
def test_configuration_has_exactly_these_findings(
    conf: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    """Each problem has its name and severity, and there are no other findings."""
    assert list(configuration(app_with(**conf))) == found


def test_finding_names_the_task() -> None:
    """A finding names a task that ignores its result, or that Headway couldn't cover."""
    app = app_with()
    app.task(name="shop.careless", ignore_result=True, shared=False)(nothing)
    app.finalize()
    (finding,) = checks.check_results(app)
    assert (finding.name, finding.severity.value) == ("ignore-result", "note")
    assert "shop.careless" in finding.problem
    assert "shop.load" not in finding.problem
    dict.__setitem__(
        app.tasks,
        "shop.bare",
        Celery("other", set_as_current=False).task(name="shop.bare", shared=False)(nothing),
    )
    (finding,) = checks.check_installation(app)
    assert finding.name == "not-covered"
    assert "shop.bare" in finding.problem


def test_import_error_is_a_finding() -> None:
    """Tasks that can't be imported are a finding without a traceback."""
    (finding,) = checks.check_imports(app_with(imports=("no_such_module_anywhere",)))
    assert (finding.name, finding.severity.value) == ("imports", "error")
    assert "no_such_module_anywhere" in finding.problem


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the time limits of one or two seconds to a minute, for slow machines."""
    monkeypatch.setattr(checks, "BROKER_TIMEOUT", 60.0)
    for ask in (connect, RedisStore.__init__):
        monkeypatch.setitem(ask.__kwdefaults__, "timeout", 60.0)


def examined(app: Celery, *args: str) -> Any:
    return CliRunner().invoke(command, ["doctor", *args], obj=CliContext(app=app))


def test_good_project_has_no_findings(redis_url: str) -> None:
    """A project without problems gets one sentence and exit status 0; --json prints nothing."""
    app = app_with(
        broker=redis_url,
        result_backend=redis_url,
        broker_transport_options={"visibility_timeout": 3600},
    )
    result = examined(app)
    assert (result.exit_code, result.stdout) == (0, "No problems found.\n")
    assert examined(app, "--json").stdout == ""


def test_eviction_policy_is_a_finding(redis_url: str, valkey: Any) -> None:
    """A Redis that may evict results leads to exit status 1; a note alone does not."""
    app = app_with(broker=redis_url, result_backend=redis_url)
    assert examined(app).exit_code == 0
    assert "[long-eta]" in examined(app).stdout
    valkey.command("CONFIG", "SET", "maxmemory", "100mb")
    valkey.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        result = examined(app, "--json", "--ignore", "long-eta")
        assert result.exit_code == 1
        (found,) = [json.loads(line) for line in result.stdout.splitlines()]
        assert (found["name"], found["severity"]) == ("eviction", "error")
        assert "allkeys-lru" in found["problem"]
        assert "noeviction" in found["fix"]
        valkey.command("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
        result = examined(app)
        assert "warning" in result.stdout
        assert result.exit_code == 1
        assert examined(app, "-i", "eviction").exit_code == 0
    finally:
        valkey.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        valkey.command("CONFIG", "SET", "maxmemory", "0")


@pytest.mark.parametrize(
    "address",
    ["redis://:secret@127.0.0.1:9/1", "redis://127.0.0.1:9/1?password=secret&client_name=me"],
)
def test_unreachable_servers_are_findings_without_passwords(address: str) -> None:
    """An unreachable broker and backend are two errors, and no part of the output has a
    password.
    """
    app = app_with(broker=address, result_backend=address)
    result = examined(app, "-i", "long-eta")
    assert result.exit_code == 1
    assert [line.split()[-1] for line in result.stdout.splitlines()] == [
        "[broker-away]",
        "[backend-away]",
    ]
    assert "secret" not in result.output


def test_clock_skew_is_a_finding(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding has the direction and the seconds of a clock skew."""
    app = app_with(result_backend=redis_url)
    clock = checks.time.time
    monkeypatch.setattr(checks.time, "time", lambda: clock() + 30_000)
    (finding,) = checks.check_backend_server(app)
    assert finding.name == "clock-skew"
    found = re.search(r"is (\d+) s behind", finding.problem)
    assert found is not None
    assert 29_900 < int(found[1]) < 30_100


def test_slow_reply_is_no_clock_skew(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reply to TIME does not count as clock skew."""
    app = app_with(result_backend=redis_url)
    now = checks.time.time()
    moments = iter([now, now + 1000])
    monkeypatch.setattr(checks, "time", SimpleNamespace(time=lambda: next(moments)))
    assert list(checks.check_backend_server(app)) == []


def test_doctor_requires_an_app() -> None:
    """`doctor` can't work with a server's address alone."""
    result = CliRunner().invoke(command, ["--url", "http://127.0.0.1:9", "doctor"])
    assert result.exit_code == 2
    assert "celery -A APP headway doctor" in result.stderr
