"""How a run is cancelled: by Celery's own tracer, over a store in memory."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest
from celery.app.task import Task
from celery.exceptions import Ignore, Retry, TaskRevokedError

import headway
from headway.core.registry import Registration
from headway.core.states import resolve
from headway.core.throttle import CircuitBreaker
from headway.errors import HeadwayError
from headway.models import Execution, Phase, Status
from headway.worker.app_state import app_state_of
from headway.worker.cancel_token import (
    POLL_INTERVAL,
    CancelToken,
    handling_cancellation,
)
from headway.worker.context import RequestContext
from headway.worker.exceptions import TaskCancelled
from headway.worker.reporter import Reporter
from tests.unit.tracing import Lab

Body = Callable[[RequestContext], Any]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is told to Celery's monitors."""
    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        Task, "send_event", lambda self, kind, **fields: sent.append((kind, self.request.id))
    )
    return sent


def job(lab: Lab, body: Body, *, name: str = "running", **options: Any) -> Any:
    """A task whose code is ``body``, given its context."""

    def run() -> Any:
        return body(RequestContext.get())

    return lab.task(name=name, **options)(run)


def ask(lab: Lab, task_id: str = "x") -> None:
    """Ask for the cancel, as the server does."""
    assert lab.store.request_cancel(task_id, now()) is not None


def look(lab: Lab, task_id: str = "x") -> Execution:
    return resolve(lab.store.read([task_id])[0], now())


class TestRunning:
    """A task whose code runs when it is asked for."""

    @pytest.mark.parametrize("way", ["update", "track", "raise_if_cancelled"])
    def test_each_point_ends_it(self, lab: Lab, events: list[tuple[str, Any]], way: str) -> None:
        """The next report, the next item, or a look ends the run: REVOKED for all readers, and
        Celery's monitors hear of it.
        """
        went_on = mock.Mock()

        def body(ctx: RequestContext) -> None:
            ctx.progress.update(3, 10, "before")
            ask(lab)
            if way == "update":
                # Left for the timer, which hears of it in its write's reply; the report after that
                # raises.
                for n in range(100_000_000):
                    ctx.progress.update(4 + n, 10, "after")
            elif way == "track":
                for _ in ctx.progress.track(iter(int, 1)):
                    pass
            else:
                ctx._cancel_token._due = 0.0  # the reply to the first report counts as a look
                ctx.raise_if_cancelled()
            went_on()

        made = lab.trace(job(lab, body), "x")
        assert isinstance(made.info.retval, TaskCancelled)
        went_on.assert_not_called()
        execution = look(lab)
        assert (execution.status, execution.phase) == (Status.CANCELLED, Phase.CANCELLED)
        assert execution.progress is not None
        assert lab.meta("x")["status"] == "REVOKED"
        assert lab.meta("x")["result"]["exc_type"] == TaskRevokedError.__name__
        assert events == [("task-revoked", "x")]

    def test_until_then_it_is_cancelling(self, lab: Lab) -> None:
        """Asked for isn't done: the phase says so until the run has ended."""
        seen = []

        def body(ctx: RequestContext) -> None:
            ask(lab)
            seen.append(look(lab))
            ctx.raise_if_cancelled()

        lab.trace(job(lab, body), "x")
        assert [(each.status, each.phase) for each in seen] == [(Status.RUNNING, Phase.CANCELLING)]
        assert look(lab).status is Status.CANCELLED

    def test_who_finishes_first_is_completed(self, lab: Lab, events: list[tuple[str, Any]]) -> None:
        """A task that comes to its end before it looks has done its work."""
        assert lab.run(job(lab, lambda ctx: ask(lab) or "done"), "x") == "done"
        assert (look(lab).status, look(lab).outputs) == (Status.COMPLETED, "done")
        assert events == []

    def test_who_fails_first_has_failed(self, lab: Lab) -> None:
        """An error that comes before the cancel is an error."""

        def body(ctx: RequestContext) -> None:
            ask(lab)
            raise ValueError("broken")

        lab.trace(job(lab, body), "x")
        assert look(lab).status is Status.FAILED

    def test_the_last_report_is_kept(self, lab: Lab) -> None:
        """The report that was cut short is written: it says how far the job came."""

        def body(ctx: RequestContext) -> None:
            ctx.progress.update(1, 10)
            ask(lab)
            assert until_cancelled(ctx)
            ctx.progress.update(7, 10, "the last one")

        lab.trace(job(lab, body), "x")
        assert (lab.progress("x").current, lab.progress("x").message) == (7, "the last one")

    def test_by_its_own_accord(self, lab: Lab, events: list[tuple[str, Any]]) -> None:
        """A task may give itself up."""

        def body(ctx: RequestContext) -> None:
            raise TaskCancelled("nothing to do for it")

        lab.trace(job(lab, body), "x")
        assert look(lab).status is Status.CANCELLED
        assert events == [("task-revoked", "x")]

    def test_ignored_result_is_cancelled_too(self, lab: Lab) -> None:
        """With `ignore_result` the registry knows the end; Celery's readers are told where they
        were told of progress.
        """
        lab.trace(job(lab, raising_at_once, ignore_result=True), "x")
        assert look(lab).status is Status.CANCELLED
        assert lab.meta("x") is None

        def reports(ctx: RequestContext) -> None:
            ctx.progress.update(1, 2)
            raise TaskCancelled

        lab.trace(job(lab, reports, name="other", ignore_result=True), "y")
        assert lab.meta("y")["status"] == "REVOKED"

    def test_a_chord_hears_of_it(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """A chord that waits for a cancelled member isn't left waiting."""
        told = mock.Mock()
        monkeypatch.setattr(type(lab.app.backend), "on_chord_part_return", told)
        lab.trace(job(lab, raising_at_once), "x", chord={"task": "sum", "chord_size": 2})
        assert told.call_args.args[1] == "REVOKED"

    def test_lost_event_does_not_fail_the_task(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The broker is away: the run has ended all the same, and says so."""
        monkeypatch.setattr(Task, "send_event", mock.Mock(side_effect=OSError("no broker")))
        lab.trace(job(lab, raising_at_once), "x")
        assert look(lab).status is Status.CANCELLED

    def test_a_store_that_is_away(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The end can't be stored: the worker isn't harmed, and the log says so."""
        monkeypatch.setattr(
            type(lab.app.backend), "mark_as_revoked", mock.Mock(side_effect=OSError("away"))
        )
        with caplog.at_level(logging.ERROR):
            made = lab.trace(job(lab, raising_at_once), "x")
        assert isinstance(made.info.retval, TaskCancelled)
        assert "cannot be stored" in caplog.text


def raising_at_once(ctx: RequestContext) -> None:
    raise TaskCancelled


def until_cancelled(ctx: RequestContext) -> bool:
    """Have the task look now."""
    ctx._cancel_token._due = 0.0
    return ctx.cancelled


class TestTurnedOff:
    """Reports that may not raise."""

    @pytest.mark.parametrize("where", ["task", "install"])
    def test_reports_do_not_raise_when_turned_off(self, lab: Lab, where: str) -> None:
        """With `cancel_on_update=False`, of the task or of all, only a look tells."""
        if where == "install":
            headway.install(lab.app, store=lab.store, cancel_on_update=False)
        options = {"cancel_on_update": False} if where == "task" else {}

        def body(ctx: RequestContext) -> str:
            ask(lab)
            assert until_cancelled(ctx)
            ctx.progress.update(1, 2)
            return "went on"

        assert lab.run(job(lab, body, **options), "x") == "went on"

    def test_a_task_may_turn_it_on(self, lab: Lab) -> None:
        """The task's own word beats that of `install`."""
        headway.install(lab.app, store=lab.store, cancel_on_update=False)

        def body(ctx: RequestContext) -> None:
            ask(lab)
            assert until_cancelled(ctx)
            ctx.progress.update(1, 2)

        lab.trace(job(lab, body, cancel_on_update=True), "x")
        assert look(lab).status is Status.CANCELLED

    def test_it_still_ends_before_it_begins(self, lab: Lab) -> None:
        """It is about reports: a task that hasn't begun needs no point."""
        body = mock.Mock()
        lab.store.register([Registration("x", "running", now())])
        ask(lab)
        lab.trace(job(lab, body, cancel_on_update=False), "x")
        body.assert_not_called()
        assert look(lab).status is Status.CANCELLED


class TestGroups:
    """Exceptions that come out of several coroutines at once."""

    @pytest.mark.parametrize("other", [None, ValueError("its own")])
    def test_a_task_group(self, lab: Lab, other: Exception | None) -> None:
        """A group of nothing but a cancel is a cancel, however deep; with anything else in it the
        task has failed.
        """

        def body(ctx: RequestContext) -> None:
            ask(lab)
            inner = ExceptionGroup("inner", [TaskCancelled(), TaskCancelled()])
            raise ExceptionGroup("outer", [inner, other] if other is not None else [inner])

        lab.trace(job(lab, body), "x")
        assert look(lab).status is (Status.CANCELLED if other is None else Status.FAILED)


class TestWaiting:
    """A task whose code doesn't run when it is asked for."""

    @pytest.mark.parametrize("track_started", [True, False])
    def test_a_queued_one_never_begins(
        self, lab: Lab, events: list[tuple[str, Any]], track_started: bool
    ) -> None:
        """Asked for while no worker was there: cancelling until one gets it, then cancelled, and
        its code never ran.
        """
        lab.app.conf.task_track_started = track_started
        body = mock.Mock()
        lab.store.register([Registration("x", "running", now())])
        ask(lab)
        assert (look(lab).status, look(lab).phase) == (Status.PENDING, Phase.CANCELLING)
        lab.trace(job(lab, body), "x")
        body.assert_not_called()
        assert look(lab).status is Status.CANCELLED
        assert lab.meta("x")["status"] == "REVOKED"
        assert events == [("task-revoked", "x")]

    def test_a_retry_never_begins(self, lab: Lab) -> None:
        """Asked for between two attempts: it is cancelled at once, since nothing runs, and the
        second one's code never does.
        """
        runs = []

        def body(self: Any) -> None:
            runs.append(self.request.retries)
            raise Retry("again")

        task = lab.task(name="running", bind=True)(body)
        lab.trace(task, "x")
        assert look(lab).phase is Phase.RETRYING
        assert headway.cancel(lab.app, "x").status is Status.CANCELLED
        assert look(lab).status is Status.CANCELLED
        assert lab.meta("x")["result"]["exc_type"] == "TaskRevokedError"
        lab.trace(task, "x", retries=1)
        assert runs == [0]
        assert (look(lab).status, look(lab).attempt) == (Status.CANCELLED, 1)

    def test_a_run_that_ends_in_a_retry(self, lab: Lab) -> None:
        """Asked for while it ran and didn't look: with its RETRY nothing runs any more, and it is
        cancelled.
        """

        def body(ctx: RequestContext) -> None:
            ask(lab)
            raise Retry("again")

        lab.trace(job(lab, body), "x")
        assert (look(lab).status, look(lab).attempt) == (Status.CANCELLED, 1)

    def test_a_redelivery_never_begins(self, lab: Lab) -> None:
        """A message that comes again after its run was cancelled (acks_late) isn't run again."""
        lab.store.register([Registration("x", "running", now())])
        ask(lab)
        body = mock.Mock()
        task = job(lab, body)
        lab.trace(task, "x")
        attempt = look(lab).attempt
        lab.trace(task, "x", delivery_info={"redelivered": True})
        body.assert_not_called()
        assert (look(lab).status, look(lab).attempt) == (Status.CANCELLED, attempt)

    def test_published_again_it_runs(self, lab: Lab) -> None:
        """Who publishes the id of a cancelled job again wants it to run."""
        lab.store.register([Registration("x", "running", now())])
        ask(lab)
        task = job(lab, lambda ctx: "ran")
        lab.trace(task, "x")
        lab.store.register([Registration("x", "running", now())])
        assert lab.run(task, "x") == "ran"
        assert look(lab).status is Status.COMPLETED


class TestTidying:
    """Code that runs on the way out."""

    def test_reports_in_finally_pass(self, lab: Lab) -> None:
        """`finally:`, `except` and `__exit__` may report what they tidy: nothing is skipped, and
        the last word is kept.
        """
        done = []

        def body(ctx: RequestContext) -> None:
            ask(lab)
            assert until_cancelled(ctx)
            try:
                ctx.progress.update(5, 10, "working")
            except TaskCancelled:
                for step in ctx.progress.track(range(3), message="tidying"):
                    done.append(step)
                raise
            finally:
                ctx.progress.update(3, 3, "tidied")
                done.append("all")

        lab.trace(job(lab, body), "x")
        assert done == [0, 1, 2, "all"]
        assert lab.progress("x").message == "tidied"
        assert look(lab).status is Status.CANCELLED

    def test_a_loop_that_swallows_everything(self, lab: Lab) -> None:
        """Each further report raises again: an `except Exception` around one row can't hide it for
        good.
        """
        raised = 0

        def body(ctx: RequestContext) -> None:
            nonlocal raised
            ask(lab)
            assert until_cancelled(ctx)
            for row in range(5):
                try:
                    ctx.progress.update(row, 5)
                except Exception:  # as people write it
                    raised += 1
            ctx.progress.update(5, 5)

        lab.trace(job(lab, body), "x")
        assert raised == 5
        assert look(lab).status is Status.CANCELLED

    def test_in_the_handler_of_another_error(self, lab: Lab) -> None:
        """To handle an error of one's own is no tidying: reports raise there."""

        def body(ctx: RequestContext) -> None:
            ask(lab)
            assert until_cancelled(ctx)
            try:
                raise ValueError
            except ValueError:
                ctx.progress.update(1, 2)

        lab.trace(job(lab, body), "x")
        assert look(lab).status is Status.CANCELLED

    def test_a_circle_of_contexts(self) -> None:
        """Exceptions that are each other's context end the search, too."""
        first, second = ValueError(), KeyError()
        first.__context__, second.__context__ = second, first
        try:
            raise first
        except ValueError as error:
            error.__context__ = second
            assert not handling_cancellation()


class TestElsewhere:
    """Where there is nothing to cancel."""

    def test_direct_call_is_never_cancelled(self, lab: Lab) -> None:
        """A direct call is never cancelled."""

        def body(ctx: RequestContext) -> bool:
            ctx.raise_if_cancelled()
            return ctx.cancelled

        task = job(lab, body)
        assert task() is False
        assert task.apply().get() is False

    def test_what_it_is(self) -> None:
        """A kind of Celery's Ignore, under our root, that passes processes."""
        error = pickle.loads(pickle.dumps(TaskCancelled("enough")))
        assert isinstance(error, Ignore)
        assert isinstance(error, HeadwayError)
        assert str(error) == "enough"
        assert headway.TaskCancelled is TaskCancelled


class TestLooks:
    """How often the store is asked."""

    def test_once_a_second_at_most(self) -> None:
        """A loop that looks a thousand times asks once; a second later once more; and never again
        after a yes.
        """
        time, answers = [0.0], mock.Mock(return_value=False)
        cancellation = CancelToken(answers, clock=lambda: time[0])
        assert not any(cancellation.poll() for _ in range(1000))
        assert answers.call_count == 1
        time[0] += POLL_INTERVAL
        answers.return_value = True
        assert all(cancellation.poll() for _ in range(1000))
        assert answers.call_count == 2

    def test_one_look_serves_all_threads(self) -> None:
        """While one thread asks, the others don't ask as well."""
        requested = []

        def slow() -> bool:
            requested.append("once")
            assert not cancellation.poll(), "as another thread would meanwhile"
            return True

        cancellation = CancelToken(slow, clock=lambda: 0.0)
        assert cancellation.poll()
        assert requested == ["once"]

    def test_a_reply_is_a_look(self) -> None:
        """A task that reports needn't ask."""
        time, answers = [0.0], mock.Mock(return_value=True)
        cancellation = CancelToken(answers, clock=lambda: time[0])
        for _ in range(10):
            time[0] += POLL_INTERVAL / 2
            cancellation.set_requested(False)
            assert not cancellation.poll()
        answers.assert_not_called()

    def test_request_is_never_withdrawn(self) -> None:
        """What was asked for stays asked for."""
        on_request = mock.Mock()
        cancellation = CancelToken()
        cancellation.on_request = on_request
        cancellation.set_requested(True)
        cancellation.set_requested(False)
        assert cancellation.poll()
        on_request.assert_called_once_with()

    def test_a_store_that_is_away(self, lab: Lab) -> None:
        """The look asks a store that is away once, not in each turn, and says no."""

        def body(ctx: RequestContext) -> list[bool]:
            lab.store.away = True
            try:
                with mock.patch.object(lab.store, "read", wraps=lab.store.read) as read:
                    found = [until_cancelled(ctx) for _ in range(3)]
                    assert read.call_count == 1
                    return found
            finally:
                lab.store.away = False

        installation = app_state_of(lab.app)
        assert installation is not None
        installation.breaker = CircuitBreaker(3600, 3600)  # an outage that no test outlasts
        assert lab.run(job(lab, body), "x") == [False] * 3


class TestInterrupted:
    """A reporter whose reports raise."""

    def test_tidying_costs_no_write_each(self) -> None:
        """Reports on the way out are coalesced as all are."""
        time, metas = [0.0], []
        reporter = Reporter(metas.append, clock=lambda: time[0], interval=0.25)
        reporter.update(1, 10)
        reporter.interrupt()
        try:
            reporter.update(2, 10)
        except TaskCancelled:
            for n in range(100):
                reporter.update(n, 100)
            assert [meta["current"] for meta in metas] == [1]
            time[0] += 0.25
            reporter.update(100, 100)
            reporter.update(101, 100)
        assert [meta["current"] for meta in metas] == [1, 100]
        reporter.close()
        assert [meta["current"] for meta in metas] == [1, 100, 101]

    def test_the_timer_lets_none_pass(self) -> None:
        """What is left while the timer writes doesn't set it anew: the next report would take the
        fast way, and raise nothing.
        """
        time = [0.0]

        def sink(meta: dict[str, Any]) -> None:
            if meta["current"] == 2:
                leave(3)

        def leave(current: int) -> None:
            try:
                raise TaskCancelled
            except TaskCancelled:
                reporter.update(current, 10)

        reporter = Reporter(sink, clock=lambda: time[0], interval=0.25)
        reporter.update(1, 10)
        reporter.interrupt()
        leave(2)
        time[0] += 0.25
        reporter.tick(time[0])
        with pytest.raises(TaskCancelled):
            reporter.update(4, 10)
        reporter.close()

    def test_after_the_end(self) -> None:
        """A late thread's report is ignored, cancelled or not."""
        reporter = Reporter(lambda meta: None)
        reporter.interrupt()
        reporter.close()
        reporter.update(1, 2)
