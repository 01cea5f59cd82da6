"""`doctor`: each trap of a configuration is found, with its cure, and a sound one is left in peace."""

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
from headway.cli.main import headway as command
from headway.cli.output import Call
from headway.stores.redis import RedisStore
from headway.stores.redis_connection import connect

#: Never asked by the checks of a configuration.
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
    """What the checks find that ask no server."""
    app.finalize()
    for check in (
        checks.installed,
        checks.result_backend,
        checks.serializers,
        checks.results,
        checks.delivery,
        checks.events,
    ):
        for finding in check(app):
            assert finding.problem, finding
            assert finding.cure, finding
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
def test_each_trap_of_a_configuration(conf: dict[str, Any], found: list[tuple[str, str]]) -> None:
    """Each trap is found by its name and severity, and nothing else is."""
    assert list(configuration(app_with(**conf))) == found


def test_single_tasks() -> None:
    """A task that ignores its result, or that Headway couldn't cover, is named."""
    app = app_with()
    app.task(name="shop.careless", ignore_result=True, shared=False)(nothing)
    app.finalize()
    (finding,) = checks.results(app)
    assert (finding.name, finding.severity.value) == ("ignore-result", "note")
    assert "shop.careless" in finding.problem
    assert "shop.load" not in finding.problem
    dict.__setitem__(
        app.tasks,
        "shop.bare",
        Celery("other", set_as_current=False).task(name="shop.bare", shared=False)(nothing),
    )
    (finding,) = checks.installed(app)
    assert finding.name == "not-covered"
    assert "shop.bare" in finding.problem


def test_modules_that_fail() -> None:
    """Tasks that can't be imported are a finding, and no traceback."""
    (finding,) = checks.imports(app_with(imports=("no_such_module_anywhere",)))
    assert (finding.name, finding.severity.value) == ("imports", "error")
    assert "no_such_module_anywhere" in finding.problem


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers get a minute where they have a second or two: one that is held up for as long isn't
    away.
    """
    monkeypatch.setattr(checks, "BROKER_TIMEOUT", 60.0)
    for ask in (connect, RedisStore.__init__):
        monkeypatch.setitem(ask.__kwdefaults__, "timeout", 60.0)


def examined(app: Celery, *args: str) -> Any:
    return CliRunner().invoke(command, ["doctor", *args], obj=Call(app=app))


def test_a_sound_project(redis_url: str) -> None:
    """A project with nothing wrong is told so, and the status is 0; --json says nothing at all."""
    app = app_with(
        broker=redis_url,
        result_backend=redis_url,
        broker_transport_options={"visibility_timeout": 3600},
    )
    result = examined(app)
    assert (result.exit_code, result.stdout) == (0, "Nothing to complain about.\n")
    assert examined(app, "--json").stdout == ""


def test_a_server_that_forgets(redis_url: str, valkey: Any) -> None:
    """A Redis that may throw results away is an error, and a note alone is none."""
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
        assert "noeviction" in found["cure"]
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
def test_servers_that_are_away(address: str) -> None:
    """Broker and backend that can't be reached are two errors, and no password is told, wherever in
    the address it stands.
    """
    app = app_with(broker=address, result_backend=address)
    result = examined(app, "-i", "long-eta")
    assert result.exit_code == 1
    assert [line.split()[-1] for line in result.stdout.splitlines()] == [
        "[broker-away]",
        "[backend-away]",
    ]
    assert "secret" not in result.output


def test_the_clock(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that differs from the server's is told, with the side and the seconds."""
    app = app_with(result_backend=redis_url)
    clock = checks.time.time
    monkeypatch.setattr(checks.time, "time", lambda: clock() + 30_000)
    (finding,) = checks.backend_server(app)
    assert finding.name == "clock-skew"
    said = re.search(r"is (\d+) s behind", finding.problem)
    assert said is not None
    assert 29_900 < int(said[1]) < 30_100


def test_an_answer_that_took_long(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says the time late says nothing against its clock."""
    app = app_with(result_backend=redis_url)
    now = checks.time.time()
    moments = iter([now, now + 1000])
    monkeypatch.setattr(checks, "time", SimpleNamespace(time=lambda: next(moments)))
    assert list(checks.backend_server(app)) == []


def test_only_of_a_project() -> None:
    """A server's address alone is not enough."""
    result = CliRunner().invoke(command, ["--url", "http://127.0.0.1:9", "doctor"])
    assert result.exit_code == 2
    assert "celery -A APP headway doctor" in result.stderr
