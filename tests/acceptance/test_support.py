"""The tests' own support: it waits, it cleans up, and it sees what is left behind."""

from __future__ import annotations

import socket
import sys
import threading

import pytest
from kombu import Connection

from tests.support import leaks, valkey
from tests.support.processes import Process, running
from tests.support.rabbitmq import RabbitMQ
from tests.support.requirements import skip_or_fail
from tests.support.valkey import ValkeyServer
from tests.support.wait import until


def test_waiting_ends_with_the_condition() -> None:
    """`until` returns the first truthy value."""
    answers = iter([0, None, "", 7, 8])
    assert until(lambda: next(answers)) == 7


def test_waiting_has_a_deadline() -> None:
    """A condition that never comes true is an AssertionError that says what was waited for."""
    with pytest.raises(AssertionError, match=r"waited 0\.05 s for rain; the last answer was None"):
        until(lambda: None, within=0.05, what="rain")


def test_a_process_takes_its_children_with_it() -> None:
    """Closing a process ends what it started, also what left its group and ignores SIGTERM."""
    child = "import signal,threading; signal.signal(15, signal.SIG_IGN); print('up', flush=True); threading.Event().wait()"
    parent = f"import subprocess,sys; subprocess.Popen([sys.executable,'-c',{child!r}], start_new_session=True).wait()"
    with Process([sys.executable, "-c", parent]) as process:
        process.wait_log("up")
        family = process.descendants()
        assert family
    assert not running(family)


def test_a_process_that_ends_early_is_told_with_its_log() -> None:
    """Waiting for a line of a process that has died fails at once and shows what it said."""
    with (
        pytest.raises(AssertionError, match="ended with 3"),
        Process([sys.executable, "-c", "exit(3)"]) as process,
    ):
        process.wait_log("never")


def test_a_thread_that_is_left_behind_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak check names the thread."""
    monkeypatch.setattr(leaks, "GRACE", 0.05)
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="forgotten")
    with pytest.raises(AssertionError, match="forgotten"), leaks.no_leaks():
        thread.start()
    done.set()
    thread.join()


def test_a_process_that_is_left_behind_is_found_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak check names the process and ends it."""
    monkeypatch.setattr(leaks, "GRACE", 0.05)
    process = Process([sys.executable, "-c", "import threading; threading.Event().wait()"])
    with pytest.raises(AssertionError, match=r"threading\.Event"), leaks.no_leaks():
        process.start()
    process.wait()
    process.close()


def test_what_is_missing_skips_on_a_laptop_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """`skip_or_fail` skips with the reason; with CI=true it fails, so that nothing stays untested
    unseen.
    """
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="Tea is missing: the kettle is broken"):
        skip_or_fail("Tea", "the kettle is broken")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Tea is missing: the kettle is broken"):
        skip_or_fail("Tea", "the kettle is broken")


def test_a_server_comes_back_with_and_without_its_data(own_valkey: ValkeyServer) -> None:
    """A crashed server keeps its port and what was written; a fresh one has forgotten it; a frozen
    one goes on.
    """
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


def test_a_server_whose_port_was_taken_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody else took in the last moment is no reason not to start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ports = iter([taken.getsockname()[1], valkey.free_port()])
        monkeypatch.setattr(valkey, "free_port", lambda: next(ports))
        with ValkeyServer() as server:
            assert server.command("PING")


def test_each_test_has_an_empty_database(redis_url: str) -> None:
    """`redis_url` names a database with nothing in it."""
    import redis

    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_rabbitmq_carries_a_message(rabbitmq: RabbitMQ) -> None:
    """The tests' own RabbitMQ takes a message and gives it back."""
    with Connection(rabbitmq.url) as connection, connection.SimpleQueue("there-and-back") as queue:
        queue.put({"n": 1})
        message = queue.get(timeout=60)
        message.ack()
    assert message.payload == {"n": 1}
