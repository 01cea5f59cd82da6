"""The worker side, with a real worker and a real Valkey: which tasks report, and from where."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from headway.errors import UsageError
from headway.models import Phase, Status
from tests.acceptance.apps.worker_bench import Bench, bench
from tests.support.wait import until

POOLS = ["prefork", "threads", "gevent", "solo"]
SHAPES = ["before", "plain", "shared", "class_task", "own_base", "own_call", "late"]


@pytest.fixture(scope="module")
def on(valkey_url: str) -> Iterator[Bench]:
    """A prefork worker, for all tests here that need no special one."""
    with bench(valkey_url) as made:
        made.worker.keep()
        yield made


@pytest.fixture(scope="module")
def valkey_url(valkey) -> str:  # type: ignore[no-untyped-def]
    """A database for this module."""
    valkey.command("FLUSHDB", db=0)
    return f"{valkey.url.rsplit('/', 1)[0]}/0"


@pytest.mark.parametrize("pool", POOLS)
def test_every_task_reports_in_every_pool(redis_url: str, pool: str) -> None:
    """Tasks of every kind (shared, a class, own base, own `__call__`, made before install or late)
    report until their end.
    """
    with bench(redis_url, pool=pool) as on:
        ids = {shape: on.send(f"jobs.{shape}", 7) for shape in SHAPES}
        for shape, task_id in ids.items():
            execution = on.ended(task_id)
            assert execution.status is Status.COMPLETED, shape
            assert execution.progress is not None, shape
            assert (
                execution.progress.current,
                execution.progress.total,
                execution.progress.message,
            ) == (7, 7, "step 7"), shape
            assert execution.attempt == 1
            assert on.app.AsyncResult(task_id).get(timeout=60) == (
                ["called", 7] if shape == "own_call" else 7
            )
            assert on.wire.receive("on_success") == task_id if shape == "own_base" else True


@pytest.mark.parametrize("pool", POOLS)
def test_report_is_readable_while_the_task_runs(redis_url: str, pool: str) -> None:
    """Any reader of `AsyncResult(id).info` sees current and total, and later the result."""
    with bench(redis_url, pool=pool) as on:
        task_id = on.send("jobs.gated", "here")
        assert on.wire.receive("here") == ""
        meta = on.meta(task_id)
        assert meta["status"] == "PROGRESS"
        info = meta["result"]
        assert {
            key: info[key] for key in ("current", "total", "message", "attributes", "attempt")
        } == {
            "current": 30,
            "total": 100,
            "message": "waiting",
            "attributes": {"name": "here"},
            "attempt": 1,
        }
        assert set(info) == {
            "current",
            "total",
            "message",
            "attributes",
            "timestamp",
            "rate",
            "attempt",
        }
        assert isinstance(info["timestamp"], int)
        assert on.execution(task_id).phase is Phase.RUNNING
        on.wire.open("here", "result")
        assert on.app.AsyncResult(task_id).get(timeout=60) == "result"
        assert on.app.AsyncResult(task_id).info == "result"
        last = on.ended(task_id).progress
        assert last is not None
        assert (last.current, last.message) == (60, "done")


def test_context_has_id_attempt_and_headers(on: Bench) -> None:
    """request_id is the task's id, execution_id the same, attempt 1, headers those of the
    publisher.
    """
    task_id = on.send("jobs.whoami", headers={"tenant": "blue"})
    on.ended(task_id)
    seen = on.app.AsyncResult(task_id).get(timeout=60)
    assert seen["id"] == seen["request_id"] == seen["execution_id"] == task_id
    assert seen["attempt"] == 1
    assert seen["headers"] == {"tenant": "blue"}


def test_published_task_is_queued(on: Bench) -> None:
    """An id is known as queued, with its task's name, before its message is sent."""
    task_id = str(on.app.send_task("jobs.plain", (1,), queue="no-listener").id)
    execution = on.execution(task_id)
    assert (execution.status, execution.phase, execution.task) == (
        Status.PENDING,
        Phase.QUEUED,
        "jobs.plain",
    )
    assert execution.created_at is not None


def test_coroutines_and_their_threads_report(on: Bench) -> None:
    """`asyncio.run` in a task, gathered coroutines and `asyncio.to_thread` find the context."""
    execution = on.ended(on.send("jobs.coroutines"))
    assert execution.status is Status.COMPLETED
    assert execution.progress is not None
    assert (execution.progress.current, execution.progress.message) == (3, "gathered")


def test_get_in_a_plain_thread_names_the_fix(on: Bench) -> None:
    """In a thread that the task started, `get()` raises a helpful error. A captured ctx reports."""
    task_id = on.send("jobs.threads")
    execution = on.ended(task_id)
    assert execution.progress is not None
    assert (execution.progress.current, execution.progress.message) == (5, "from a thread")
    assert "copy_context().run" in on.app.AsyncResult(task_id).get(timeout=60)


def test_get_in_a_child_process_names_the_fix(on: Bench) -> None:
    """In a forked child `get()` raises. A captured ctx does nothing and does not hang."""
    task_id = on.send("jobs.child")
    execution = on.ended(task_id)
    assert execution.progress is not None
    assert execution.progress.message == "mine"
    assert "child process" in on.app.AsyncResult(task_id).get(timeout=60)


def test_direct_and_eager_calls_inside_a_task_store_nothing(on: Bench) -> None:
    """A task that calls others, and itself, keeps its context, attempt and reports. The called ones
    have their own.
    """
    task_id = on.send("jobs.calls_others")
    execution = on.ended(task_id)
    other, again, eager, eager_own = on.app.AsyncResult(task_id).get(timeout=60)
    assert task_id not in {other, again, eager}
    assert eager == eager_own, "an eager task keeps its own request"
    assert (execution.attempt, execution.progress and execution.progress.message) == (
        1,
        "still mine",
    )


def test_reports_of_a_hot_loop_are_merged(redis_url: str) -> None:
    """A hot loop writes once per interval, and its last report is written at the end."""
    with bench(redis_url, INTERVAL="0.25") as on:
        with redis.Redis.from_url(redis_url) as client:
            before = client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0)
            execution = on.ended(on.send("jobs.hot", 300_000))
            after = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert execution.progress is not None
        assert (execution.progress.current, execution.progress.total) == (300_000, 300_000)
        assert execution.started_at is not None
        assert execution.finished_at is not None
        took = (execution.finished_at - execution.started_at).total_seconds()
        assert after - before < 20 + took / 0.25, (
            "registration, start, reports, heartbeats and the end"
        )


def test_invalid_report_raises_and_is_not_stored(on: Bench) -> None:
    """A negative total raises a UsageError in the task, and no progress is stored."""
    task_id = on.send("jobs.wrong")
    execution = on.ended(task_id)
    assert "total must be finite and not negative" in on.app.AsyncResult(task_id).get(timeout=60)
    assert execution.progress is None


def test_reports_omit_the_arguments_of_the_task(redis_url: str) -> None:
    """`result_extended` puts 200 KB of arguments into every PROGRESS
    (celery-facts#extended-results-repeat-arguments). Our reports omit them, and keep the name.
    """
    with bench(redis_url, EXTENDED="1") as on:
        task_id = on.send("jobs.big_arguments", "x" * 200_000)
        meta = until(
            lambda: m if (m := on.meta(task_id))["status"] == "PROGRESS" else None,
            what="the report",
        )
        assert not meta["args"]
        assert meta["name"] == "jobs.big_arguments"
        assert meta["worker"] == on.worker.hostname
        on.wire.open("big")
        on.ended(task_id)
        assert on.meta(task_id)["args"] == ["x" * 200_000], "the end is Celery's own record"


def test_without_install_only_progress_tasks_report(redis_url: str) -> None:
    """Without install, only tasks with `base=ProgressTask` report, and their
    writes are fenced too.
    """
    with bench(redis_url, INSTALL="0") as on:
        task_id = str(on.app.tasks["jobs.by_base"].delay(4).id)
        execution = on.ended(task_id)
        assert execution.progress is not None
        assert (execution.progress.current, execution.attempt) == (4, 1)
        assert execution.created_at is not None
        other = on.send("jobs.plain", 4)
        with pytest.raises(UsageError):
            on.app.AsyncResult(other).get(timeout=60)
