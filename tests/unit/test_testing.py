"""`headway.testing`: fakes for users' own tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

import headway
from headway.testing import recording_context


@pytest.fixture
def task() -> Any:
    """A task of an app with `headway.install`, which reports each of three items."""
    app = Celery("tested", broker="memory://", backend="cache+memory://", set_as_current=False)
    headway.install(app)

    @app.task(name="tested.count", shared=False)
    def count() -> int:
        ctx = headway.RequestContext.get()
        for _ in ctx.progress.track("abc", message="Counting"):
            pass
        return ctx.attempt

    return count


@pytest.mark.parametrize(
    "call",
    [lambda task: task.run(), lambda task: task(), lambda task: task.apply().get()],
    ids=["run", "direct call", "apply"],
)
def test_every_report_of_a_task_is_recorded(task: Any, call: Callable[[Any], int]) -> None:
    """`run`, a direct call and `apply` record all reports, with the given attempt."""
    with recording_context(attempt=2) as recorded:
        assert call(task) == 2
    assert [report.current for report in recorded.reports] == [0, 1, 2, 3]
    assert {(report.total, report.message) for report in recorded.reports} == {(3, "Counting")}


def test_steps_are_recorded_as_reports_of_the_whole() -> None:
    """A step records its share of the whole, with its name before the message."""
    with recording_context() as recorded:
        progress = headway.RequestContext.get().progress
        progress.update(0, 2)
        with progress.step("load") as step:
            step.update(1, 2, "half")
    assert [report.current for report in recorded.reports] == [0, 0, 0.5, 1]
    assert recorded.reports[2].message == "load: half"


def test_cancel_raises_at_the_next_report_only_once() -> None:
    """After `cancel`, the next report raises; reports during the clean-up do not."""
    with recording_context() as recorded:
        progress = headway.RequestContext.get().progress
        recorded.cancel()
        assert headway.RequestContext.get().cancelled

        def work() -> None:
            try:
                progress.update(1, 2)
            finally:
                progress.update(2, 2, "cleaned up")

        with pytest.raises(headway.TaskCancelled):
            work()
    assert [report.current for report in recorded.reports] == [1, 2]


def test_cancel_requested_at_the_start_raises_at_the_first_report(task: Any) -> None:
    """With `cancel_requested`, the first report is recorded and raises."""
    with (
        recording_context(cancel_requested=True) as recorded,
        pytest.raises(headway.TaskCancelled),
    ):
        task.run()
    assert [report.current for report in recorded.reports] == [0]


def test_invalid_report_raises_usage_error() -> None:
    """An invalid report raises, as in a worker, and is not recorded."""
    with recording_context() as recorded, pytest.raises(headway.UsageError):
        headway.RequestContext.get().progress.update(-1, 2)
    assert not recorded.reports


def test_context_ends_with_the_block() -> None:
    """After the block, `RequestContext.get` explains what is missing, and names this module."""
    with recording_context():
        headway.RequestContext.get()
    with pytest.raises(
        headway.UsageError, match=r"headway\.install was not called.*headway\.testing"
    ):
        headway.RequestContext.get()


def test_previous_progress_is_given_to_the_task() -> None:
    """A test of a retry can give the progress of the previous attempt."""
    with recording_context(attempt=2, previous=headway.Progress(5, 10)):
        assert headway.RequestContext.get().progress.previous == headway.Progress(5, 10)
