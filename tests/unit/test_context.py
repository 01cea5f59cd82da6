"""`RequestContext`: where it is found, where it isn't, and what it says. Tasks are traced as a
worker does, without one.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task

import headway
from headway import RequestContext, UsageError
from headway.stores.memory import MemoryStore
from headway.worker.reporter import Reporter
from tests.unit.tracing import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def test_outside_of_tasks_there_is_none() -> None:
    """`get()` says what to do instead, with words that can be typed."""
    with pytest.raises(UsageError, match=r"headway\.install\(app\)"):
        RequestContext.get()


def test_in_a_task_it_says_who_is_asked(lab: Lab) -> None:
    """The id, the attempt and the headers of the message."""

    @lab.task()
    def ask() -> tuple[Any, ...]:
        ctx = RequestContext.get()
        return ctx.request_id, ctx.execution_id, ctx.attempt, dict(ctx.headers), repr(ctx)

    assert lab.run(ask, "id-1", headers={"tenant": "blue"}) == (
        "id-1",
        "id-1",
        1,
        {"tenant": "blue"},
        "<RequestContext id-1 attempt 1>",
    )


def test_a_retry_is_told_where_the_last_attempt_got_to(lab: Lab) -> None:
    """`previous` is the progress of the previous attempt; None in the first, or if unknown."""
    seen: list[Any] = []

    @lab.task(name="again", bind=True, max_retries=1)
    def again(self: Any) -> None:
        progress = RequestContext.get().progress
        seen.append(progress.previous)
        progress.update(3, 10, "got here")
        if not self.request.retries:
            raise self.retry(countdown=0)

    lab.trace(again, "x")
    lab.trace(again, "x", retries=1)
    first, second = seen
    assert first is None
    assert (second.current, second.total, second.message) == (3, 10, "got here")
    assert Reporter(None).previous is None, "outside of a worker"


def test_headers_are_read_only(lab: Lab) -> None:
    """The publisher's headers are read-only."""

    @lab.task()
    def ask() -> None:
        RequestContext.get().headers["tenant"] = "red"  # type: ignore[index]

    with pytest.raises(TypeError):
        lab.run(ask, headers={"tenant": "blue"})


def test_after_the_task_there_is_none_again(lab: Lab) -> None:
    """The context goes with the run, also where it fails."""

    @lab.task()
    def fail() -> None:
        RequestContext.get()
        raise KeyError("x")

    with pytest.raises(KeyError):
        lab.run(fail)
    with pytest.raises(UsageError):
        RequestContext.get()


def test_threads_and_coroutines(lab: Lab) -> None:
    """A bare thread has none; `copy_context().run`, `asyncio.to_thread`, coroutines and a captured
    ctx have it.
    """

    @lab.task()
    def spread() -> dict[str, str]:
        found: dict[str, str] = {}
        captured = RequestContext.get()

        def look(place: str) -> None:
            try:
                found[place] = RequestContext.get().request_id
            except UsageError:
                found[place] = "none"

        async def coroutine() -> None:
            look("coroutine")
            await asyncio.to_thread(look, "to_thread")

        bare = threading.Thread(target=look, args=("bare",))
        copied = threading.Thread(target=contextvars.copy_context().run, args=(look, "copied"))
        handed = threading.Thread(target=lambda: captured.progress.update(1, 1, "handed over"))
        for thread in (bare, copied, handed):
            thread.start()
            thread.join()
        asyncio.run(coroutine())
        return found

    assert lab.run(spread, "t") == {
        "bare": "none",
        "copied": "t",
        "to_thread": "t",
        "coroutine": "t",
    }
    assert lab.progress("t").message == "handed over"


def test_a_direct_call_has_one_that_stores_nothing(lab: Lab) -> None:
    """Called as a function: an id of its own, checks, and nothing stored."""

    @lab.task()
    def job() -> str:
        ctx = RequestContext.get()
        ctx.progress.update(1, 2)
        with pytest.raises(UsageError):
            ctx.progress.update(-1, 2)
        return ctx.request_id

    first, second = job(), job()
    assert first != second
    assert lab.store.read([first])[0].record is None


def test_eager_mode_keeps_the_request_and_stores_nothing(lab: Lab) -> None:
    """`apply()` and `task_always_eager`: the task sees its own request (id, eager, retries), and
    the context has that id.
    """

    @lab.task(bind=True, max_retries=1)
    def job(self: Any) -> tuple[Any, ...]:
        ctx = RequestContext.get()
        ctx.progress.update(1, 2)
        if not self.request.retries:
            raise self.retry(countdown=0)
        return (
            ctx.request_id == self.request.id,
            self.request.is_eager,
            self.request.called_directly,
            ctx.attempt,
        )

    result = job.apply()
    assert result.get() == (True, True, False, 2)
    lab.app.conf.task_always_eager = True
    again = job.delay()
    assert again.get() == (True, True, False, 2)
    assert [each.record for each in lab.store.read([result.id, again.id])] == [None, None]


def test_what_a_task_notes_on_its_request_is_kept(lab: Lab) -> None:
    """The task works on Celery's own request, in eager mode too, and not on a copy that goes with
    the call.
    """
    noted: list[bool] = []

    class Noting(Task):
        abstract = True

        def after_return(self, *args: Any) -> None:
            noted.append(getattr(self.request, "noted", False))

    @lab.task(base=Noting, bind=True)
    def job(self: Any) -> None:
        self.request.noted = True

    job.apply()
    lab.run(job)
    assert noted == [True, True]


def test_a_run_of_its_own_inside_a_run(lab: Lab) -> None:
    """A task that calls itself, or another task, keeps its own context and attempt; the inner ones
    store nothing (celery-facts#covering-every-task).
    """

    @lab.task()
    def other() -> str:
        RequestContext.get().progress.update(9, 9, "inner")
        return RequestContext.get().request_id

    @lab.task(bind=True)
    def outer(self: Any, depth: int = 0) -> list[str]:
        ctx = RequestContext.get()
        if depth:
            ctx.progress.update(9, 9, "inner")
            return [ctx.request_id]
        ctx.progress.update(1, 4, "mine")
        ids = [*self(depth=1), other(), other.apply().get(disable_sync_subtasks=False)]
        assert RequestContext.get() is ctx
        ctx.progress.update(2, 4, "still mine")
        return ids

    ids = lab.run(outer, "whole")
    assert len({*ids, "whole"}) == 4
    assert lab.progress("whole").message == "still mine"
    record = lab.record("whole")
    assert (record.attempt, record.last_ended_attempt, record.state) == (1, 1, "SUCCESS")


def test_task_by_task_without_install() -> None:
    """``base=headway.ProgressTask`` alone gives a context, attempts and fenced writes."""
    with Lab(install=False) as lab:

        @lab.task(base=headway.ProgressTask)
        def job() -> int:
            RequestContext.get().progress.update(1, 2)
            return 5

        job.name  # noqa: B018  bound now: the app is prepared
        lab.use(MemoryStore())
        assert lab.run(job, "x") == 5
        assert lab.progress("x").current == 1
        assert lab.record("x").state == "SUCCESS"


def test_without_a_readable_backend_tasks_run() -> None:
    """No result backend: nothing is recorded, it is told in the log, and `update` works."""
    app = Celery("bare", broker="memory://", set_as_current=False)
    headway.install(app)
    with Lab(app=app) as lab:

        @lab.task()
        def job() -> int:
            ctx = RequestContext.get()
            ctx.progress.update(1, 2)
            return ctx.attempt

        assert lab.run(job, retries=1) == 2
