"""`RequestContext`: where `get` finds it, and what it contains. Celery's own tracer runs the tasks,
without a worker.
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


def test_get_outside_a_task_names_the_fix() -> None:
    """The error of `get` contains the code to write."""
    with pytest.raises(UsageError, match=r"headway\.install\(app\)"):
        RequestContext.get()


def test_context_has_id_attempt_and_headers(lab: Lab) -> None:
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


def test_retry_has_the_progress_of_the_previous_attempt(lab: Lab) -> None:
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
    assert Reporter(None).previous is None, "outside a worker"


def test_headers_are_read_only(lab: Lab) -> None:
    """The publisher's headers are read-only."""

    @lab.task()
    def ask() -> None:
        RequestContext.get().headers["tenant"] = "red"  # type: ignore[index]

    with pytest.raises(TypeError):
        lab.run(ask, headers={"tenant": "blue"})


def test_context_ends_with_the_task(lab: Lab) -> None:
    """After the task there is no context, also if the task failed."""

    @lab.task()
    def fail() -> None:
        RequestContext.get()
        raise KeyError("x")

    with pytest.raises(KeyError):
        lab.run(fail)
    with pytest.raises(UsageError):
        RequestContext.get()


def test_threads_and_coroutines_with_a_copied_context_find_it(lab: Lab) -> None:
    """A plain thread has no context. `copy_context().run`, `asyncio.to_thread`, coroutines and a
    captured ctx work.
    """

    @lab.task()
    def spread() -> dict[str, str]:
        found: dict[str, str] = {}
        captured = RequestContext.get()

        def find(place: str) -> None:
            try:
                found[place] = RequestContext.get().request_id
            except UsageError:
                found[place] = "none"

        async def coroutine() -> None:
            find("coroutine")
            await asyncio.to_thread(find, "to_thread")

        bare = threading.Thread(target=find, args=("bare",))
        copied = threading.Thread(target=contextvars.copy_context().run, args=(find, "copied"))
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


def test_direct_call_validates_and_stores_nothing(lab: Lab) -> None:
    """A direct call has its own id. Reports are validated and not stored."""

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


def test_eager_task_keeps_its_request_and_stores_nothing(lab: Lab) -> None:
    """With `apply()` and `task_always_eager`, the task has its own request (id, eager, retries),
    and the context has the same id.
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


def test_attributes_set_on_the_request_are_kept(lab: Lab) -> None:
    """The task uses Celery's own request, in eager mode too, and not a copy."""
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


def test_task_called_inside_a_task_has_its_own_context(lab: Lab) -> None:
    """A task that calls itself or another task keeps its context and attempt. The inner ones store
    nothing (celery-facts#covering-every-task).
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


def test_progress_task_base_works_without_install() -> None:
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


def test_task_runs_without_a_readable_backend() -> None:
    """Without a result backend nothing is recorded, a warning is logged, and `update` works."""
    app = Celery("bare", broker="memory://", set_as_current=False)
    headway.install(app)
    with Lab(app=app) as lab:

        @lab.task()
        def job() -> int:
            ctx = RequestContext.get()
            ctx.progress.update(1, 2)
            return ctx.attempt

        assert lab.run(job, retries=1) == 2
