"""tests/support: waiting, cleaning up, and finding what a test leaves behind."""

from __future__ import annotations

import re
import socket
import sys
import threading

import pytest
from kombu import Connection

from tests.support import leaks, valkey
from tests.support.processes import Process, environment, running
from tests.support.rabbitmq import RabbitMQ
from tests.support.requirements import skip_or_fail
from tests.support.timing import seconds
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


def test_until_returns_the_first_truthy_value() -> None:
    """`until` calls the condition until its value is truthy."""
    values = iter([0, None, "", 7, 8])
    assert until(lambda: next(values)) == 7


def test_until_raises_at_its_deadline() -> None:
    """The AssertionError names the thing waited for, the scaled time limit and the last value."""
    limit = re.escape(f"{seconds(0.05):g}")
    with pytest.raises(
        AssertionError, match=rf"waited {limit} s for rain; the last value was None"
    ):
        until(lambda: None, within=0.05, what="rain")


def test_timeout_factor_reaches_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process gets the factor of time limits, but no other setting of Headway."""
    monkeypatch.setenv("HEADWAY_TEST_TIMEOUT_FACTOR", "2")
    monkeypatch.setenv("HEADWAY_PING_INTERVAL", "1")
    env = environment()
    assert env["HEADWAY_TEST_TIMEOUT_FACTOR"] == "2"
    assert "HEADWAY_PING_INTERVAL" not in env


def test_closed_process_takes_its_children_with_it() -> None:
    """`close` ends every child, also one that left the process group and ignores SIGTERM."""
    child = (
        "import signal,threading; signal.signal(15, signal.SIG_IGN); "
        "print('up', flush=True); threading.Event().wait()"
    )
    parent = (
        "import subprocess,sys; "
        f"subprocess.Popen([sys.executable,'-c',{child!r}], start_new_session=True).wait()"
    )
    with Process([sys.executable, "-c", parent]) as process:
        process.wait_log("up")
        family = process.descendants()
        assert family
    assert not running(family)


def test_wait_log_fails_at_once_if_the_process_ended() -> None:
    """Waiting for a line of a dead process raises at once and shows the log."""
    with (
        pytest.raises(AssertionError, match="ended with 3"),
        Process([sys.executable, "-c", "exit(3)"]) as process,
    ):
        process.wait_log("never")


def test_leaked_thread_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak check names the thread."""
    monkeypatch.setattr(leaks, "GRACE", 0.05)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="forgotten")
    with pytest.raises(AssertionError, match="forgotten"), leaks.no_leaks():
        thread.start()
    done.set()
    thread.join()


def test_leaked_process_is_reported_and_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak check names the process and its children, and kills them."""
    monkeypatch.setattr(leaks, "GRACE", 0.05)
    child = "import threading; print('up', flush=True); threading.Event().wait()"
    parent = f"import subprocess,sys; subprocess.run([sys.executable,'-c',{child!r}])"
    process = Process([sys.executable, "-c", parent])

    def leave_it_running() -> None:
        process.start()
        process.wait_log("up")

    with pytest.raises(AssertionError) as raised, leaks.no_leaks():
        leave_it_running()
    lines = str(raised.value).splitlines()
    assert ["subprocess" in lines[1], "subprocess" in lines[2]] == [True, False]
    process.wait()
    process.close()


def test_missing_requirement_skips_locally_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`skip_or_fail` skips with the reason. With CI=true it fails: no test is left out silently."""
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="Tea is missing: the kettle is broken"):
        skip_or_fail("Tea", "the kettle is broken")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Tea is missing: the kettle is broken"):
        skip_or_fail("Tea", "the kettle is broken")


def test_server_restarts_with_and_without_its_data(own_valkey: ValkeyServer) -> None:
    """A crashed server keeps its port and data; a fresh one has no data; a paused one resumes."""
    own_valkey.command("SET", "kept", "1")
    port = own_valkey.port
    own_valkey.crash()
    own_valkey.start()
    assert own_valkey.port == port
    assert own_valkey.command("GET", "kept") == b"1"
    own_valkey.pause()
    own_valkey.resume()
    own_valkey.stop()
    own_valkey.start(fresh=True)
    assert own_valkey.command("GET", "kept") is None


def test_server_takes_another_port_if_its_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server starts even if another process took its port in the last moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ports = iter([taken.getsockname()[1], valkey.free_port()])
        monkeypatch.setattr(valkey, "free_port", lambda: next(ports))
        with ValkeyServer() as server:
            assert server.command("PING")


def test_redis_url_names_an_empty_database(redis_url: str) -> None:
    """A test that uses `redis_url` sees no data of another test."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_rabbitmq_node_delivers_a_message(rabbitmq: RabbitMQ) -> None:
    """The tests' RabbitMQ accepts a message and delivers it."""
    with Connection(rabbitmq.url) as connection, connection.SimpleQueue("there-and-back") as queue:
        queue.put({"n": 1})
        message = queue.get(timeout=60)
        message.ack()
    assert message.payload == {"n": 1}
