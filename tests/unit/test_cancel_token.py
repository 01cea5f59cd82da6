"""How an attempt is cancelled: with Celery's own tracer and a store in memory."""

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
    """The events that Celery's monitors receive."""
    sent: list[tuple[str, Any]] = []
    monkeypatch.setattr(
        Task, "send_event", lambda self, kind, **fields: sent.append((kind, self.request.id))
    )
    return sent


def job(lab: Lab, body: Body, *, name: str = "running", **options: Any) -> Any:
    """A task whose code is ``body``, called with its context."""

    def run() -> Any:
        return body(RequestContext.get())

    return lab.task(name=name, **options)(run)


def request_cancel(lab: Lab, task_id: str = "x") -> None:
    """Request the cancellation, as the server does."""
    assert lab.store.request_cancel(task_id, now()) is not None


def execution_of(lab: Lab, task_id: str = "x") -> Execution:
    return resolve(lab.store.read([task_id])[0], now())


class TestRunning:
    """The cancellation of a task that is running."""

    @pytest.mark.parametrize("way", ["update", "track", "raise_if_cancelled"])
    def test_report_item_or_check_ends_a_cancelled_task(
        self, lab: Lab, events: list[tuple[str, Any]], way: str
    ) -> None:
        """The next report, the next item or `raise_if_cancelled` ends the attempt. All readers see
        REVOKED, and Celery's monitors get the event.
        """
        continued = mock.Mock()

        def body(ctx: RequestContext) -> None:
            ctx.progress.update(3, 10, "before")
            request_cancel(lab)
            if way == "update":
                # The timer writes a report, and the reply contains the request. The report
                # after that raises.
                for n in range(100_000_000):
                    ctx.progress.update(4 + n, 10, "after")
            elif way == "track":
                for _ in ctx.progress.track(iter(int, 1)):
                    pass
            else:
                ctx._cancel_token._due = 0.0  # the reply to the first report counts as a read
                ctx.raise_if_cancelled()
            continued()

        made = lab.trace(job(lab, body), "x")
        assert isinstance(made.info.retval, TaskCancelled)
        continued.assert_not_called()
        execution = execution_of(lab)
        assert (execution.status, execution.phase) == (Status.CANCELLED, Phase.CANCELLED)
        assert execution.progress is not None
        assert lab.meta("x")["status"] == "REVOKED"
        assert lab.meta("x")["result"]["exc_type"] == TaskRevokedError.__name__
        assert events == [("task-revoked", "x")]

    def test_phase_is_cancelling_until_the_attempt_ends(self, lab: Lab) -> None:
        """A requested cancellation is not done: the phase is cancelling until the attempt has
        ended.
        """
        seen = []

        def body(ctx: RequestContext) -> None:
            request_cancel(lab)
            seen.append(execution_of(lab))
            ctx.raise_if_cancelled()

        lab.trace(job(lab, body), "x")
        assert [(each.status, each.phase) for each in seen] == [(Status.RUNNING, Phase.CANCELLING)]
        assert execution_of(lab).status is Status.CANCELLED

    def test_task_that_finishes_first_is_completed(
        self, lab: Lab, events: list[tuple[str, Any]]
    ) -> None:
        """A task that ends before it notices the request has done its work."""
        assert lab.run(job(lab, lambda ctx: request_cancel(lab) or "done"), "x") == "done"
        assert (execution_of(lab).status, execution_of(lab).outputs) == (Status.COMPLETED, "done")
        assert events == []

    def test_task_that_fails_first_has_failed(self, lab: Lab) -> None:
        """An error before the cancellation is an error."""

        def body(ctx: RequestContext) -> None:
            request_cancel(lab)
            raise ValueError("broken")

        lab.trace(job(lab, body), "x")
        assert execution_of(lab).status is Status.FAILED

    def test_interrupted_report_is_kept(self, lab: Lab) -> None:
        """The report that raised is written: it is the last progress."""

        def body(ctx: RequestContext) -> None:
            ctx.progress.update(1, 10)
            request_cancel(lab)
            assert check_now(ctx)
            ctx.progress.update(7, 10, "the last one")

        lab.trace(job(lab, body), "x")
        assert (lab.progress("x").current, lab.progress("x").message) == (7, "the last one")

    def test_task_can_cancel_itself(self, lab: Lab, events: list[tuple[str, Any]]) -> None:
        """A task may raise `TaskCancelled` without a request."""

        def body(ctx: RequestContext) -> None:
            raise TaskCancelled("nothing to do")

        lab.trace(job(lab, body), "x")
        assert execution_of(lab).status is Status.CANCELLED
        assert events == [("task-revoked", "x")]

    def test_ignored_result_is_cancelled_too(self, lab: Lab) -> None:
        """With `ignore_result` the registry has the end; Celery's own record has it only if the
        task reported.
        """
        lab.trace(job(lab, raise_at_once, ignore_result=True), "x")
        assert execution_of(lab).status is Status.CANCELLED
        assert lab.meta("x") is None

        def reports(ctx: RequestContext) -> None:
            ctx.progress.update(1, 2)
            raise TaskCancelled

        lab.trace(job(lab, reports, name="other", ignore_result=True), "y")
        assert lab.meta("y")["status"] == "REVOKED"

    def test_chord_is_informed_of_a_cancelled_member(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A chord does not wait for a cancelled member."""
        on_part_return = mock.Mock()
        monkeypatch.setattr(type(lab.app.backend), "on_chord_part_return", on_part_return)
        lab.trace(job(lab, raise_at_once), "x", chord={"task": "sum", "chord_size": 2})
        assert on_part_return.call_args.args[1] == "REVOKED"

    def test_lost_event_does_not_fail_the_task(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the broker the attempt still ends as cancelled."""
        monkeypatch.setattr(Task, "send_event", mock.Mock(side_effect=OSError("no broker")))
        lab.trace(job(lab, raise_at_once), "x")
        assert execution_of(lab).status is Status.CANCELLED

    def test_end_that_cannot_be_stored_is_logged(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """During an outage the end is logged, and the worker is not affected."""
        monkeypatch.setattr(
            type(lab.app.backend), "mark_as_revoked", mock.Mock(side_effect=OSError("away"))
        )
        with caplog.at_level(logging.ERROR):
            made = lab.trace(job(lab, raise_at_once), "x")
        assert isinstance(made.info.retval, TaskCancelled)
        assert "cannot be stored" in caplog.text


def raise_at_once(ctx: RequestContext) -> None:
    raise TaskCancelled


def check_now(ctx: RequestContext) -> bool:
    """Read the store now, and return `ctx.cancelled`."""
    ctx._cancel_token._due = 0.0
    return ctx.cancelled


class TestTurnedOff:
    """Tasks whose reports do not raise."""

    @pytest.mark.parametrize("where", ["task", "install"])
    def test_reports_do_not_raise_when_turned_off(self, lab: Lab, where: str) -> None:
        """With `cancel_on_update=False`, of the task or of the app, only a check
        finds the request.
        """
        if where == "install":
            headway.install(lab.app, store=lab.store, cancel_on_update=False)
        options = {"cancel_on_update": False} if where == "task" else {}

        def body(ctx: RequestContext) -> str:
            request_cancel(lab)
            assert check_now(ctx)
            ctx.progress.update(1, 2)
            return "continued"

        assert lab.run(job(lab, body, **options), "x") == "continued"

    def test_task_setting_overrides_that_of_install(self, lab: Lab) -> None:
        """The task's own setting takes precedence over that of `install`."""
        headway.install(lab.app, store=lab.store, cancel_on_update=False)

        def body(ctx: RequestContext) -> None:
            request_cancel(lab)
            assert check_now(ctx)
            ctx.progress.update(1, 2)

        lab.trace(job(lab, body, cancel_on_update=True), "x")
        assert execution_of(lab).status is Status.CANCELLED

    def test_queued_task_is_cancelled_without_reports(self, lab: Lab) -> None:
        """The setting is about reports: a task that has not started is cancelled anyway."""
        body = mock.Mock()
        lab.store.register([Registration("x", "running", now())])
        request_cancel(lab)
        lab.trace(job(lab, body, cancel_on_update=False), "x")
        body.assert_not_called()
        assert execution_of(lab).status is Status.CANCELLED


class TestGroups:
    """Exceptions that several coroutines raise at once."""

    @pytest.mark.parametrize("other", [None, ValueError("its own")])
    def test_exception_group_of_cancellations_is_a_cancellation(
        self, lab: Lab, other: Exception | None
    ) -> None:
        """A group with nothing else, at any depth, is a cancellation. With any other exception the
        task has failed.
        """

        def body(ctx: RequestContext) -> None:
            request_cancel(lab)
            inner = ExceptionGroup("inner", [TaskCancelled(), TaskCancelled()])
            raise ExceptionGroup("outer", [inner, other] if other is not None else [inner])

        lab.trace(job(lab, body), "x")
        assert execution_of(lab).status is (Status.CANCELLED if other is None else Status.FAILED)


class TestWaiting:
    """The cancellation of a task that is not running."""

    @pytest.mark.parametrize("track_started", [True, False])
    def test_cancelled_queued_task_never_runs(
        self, lab: Lab, events: list[tuple[str, Any]], track_started: bool
    ) -> None:
        """It is cancelling until a worker receives it, then cancelled. Its code does not run."""
        lab.app.conf.task_track_started = track_started
        body = mock.Mock()
        lab.store.register([Registration("x", "running", now())])
        request_cancel(lab)
        assert (execution_of(lab).status, execution_of(lab).phase) == (
            Status.PENDING,
            Phase.CANCELLING,
        )
        lab.trace(job(lab, body), "x")
        body.assert_not_called()
        assert execution_of(lab).status is Status.CANCELLED
        assert lab.meta("x")["status"] == "REVOKED"
        assert events == [("task-revoked", "x")]

    def test_task_cancelled_between_attempts_never_runs_again(self, lab: Lab) -> None:
        """Between two attempts nothing runs, so it is cancelled at once. The second attempt's code
        does not run.
        """
        runs = []

        def body(self: Any) -> None:
            runs.append(self.request.retries)
            raise Retry("again")

        task = lab.task(name="running", bind=True)(body)
        lab.trace(task, "x")
        assert execution_of(lab).phase is Phase.RETRYING
        assert headway.cancel(lab.app, "x").status is Status.CANCELLED
        assert execution_of(lab).status is Status.CANCELLED
        assert lab.meta("x")["result"]["exc_type"] == "TaskRevokedError"
        lab.trace(task, "x", retries=1)
        assert runs == [0]
        assert (execution_of(lab).status, execution_of(lab).attempt) == (Status.CANCELLED, 1)

    def test_retry_after_the_request_is_cancelled(self, lab: Lab) -> None:
        """The task did not notice the request and stored RETRY: nothing runs any more, so it is
        cancelled.
        """

        def body(ctx: RequestContext) -> None:
            request_cancel(lab)
            raise Retry("again")

        lab.trace(job(lab, body), "x")
        assert (execution_of(lab).status, execution_of(lab).attempt) == (Status.CANCELLED, 1)

    def test_redelivery_of_a_cancelled_task_never_runs(self, lab: Lab) -> None:
        """A message that is redelivered after the cancellation (acks_late) does not run."""
        lab.store.register([Registration("x", "running", now())])
        request_cancel(lab)
        body = mock.Mock()
        task = job(lab, body)
        lab.trace(task, "x")
        attempt = execution_of(lab).attempt
        lab.trace(task, "x", delivery_info={"redelivered": True})
        body.assert_not_called()
        assert (execution_of(lab).status, execution_of(lab).attempt) == (Status.CANCELLED, attempt)

    def test_cancelled_task_that_is_published_again_runs(self, lab: Lab) -> None:
        """A new publication of the same id requests a new run."""
        lab.store.register([Registration("x", "running", now())])
        request_cancel(lab)
        task = job(lab, lambda ctx: "ran")
        lab.trace(task, "x")
        lab.store.register([Registration("x", "running", now())])
        assert lab.run(task, "x") == "ran"
        assert execution_of(lab).status is Status.COMPLETED


class TestCleanUp:
    """Code that runs while `TaskCancelled` passes."""

    def test_reports_during_clean_up_do_not_raise(self, lab: Lab) -> None:
        """`finally`, `except` and `__exit__` may report: no clean-up is skipped, and the last
        report is kept.
        """
        done = []

        def body(ctx: RequestContext) -> None:
            request_cancel(lab)
            assert check_now(ctx)
            try:
                ctx.progress.update(5, 10, "working")
            except TaskCancelled:
                for step in ctx.progress.track(range(3), message="cleaning up"):
                    done.append(step)
                raise
            finally:
                ctx.progress.update(3, 3, "cleaned up")
                done.append("all")

        lab.trace(job(lab, body), "x")
        assert done == [0, 1, 2, "all"]
        assert lab.progress("x").message == "cleaned up"
        assert execution_of(lab).status is Status.CANCELLED

    def test_loop_that_swallows_exceptions_is_interrupted_again(self, lab: Lab) -> None:
        """Each further report raises again: an `except Exception` around one row does not hide the
        request.
        """
        raised = 0

        def body(ctx: RequestContext) -> None:
            nonlocal raised
            request_cancel(lab)
            assert check_now(ctx)
            for row in range(5):
                try:
                    ctx.progress.update(row, 5)
                except Exception:  # as in common code
                    raised += 1
            ctx.progress.update(5, 5)

        lab.trace(job(lab, body), "x")
        assert raised == 5
        assert execution_of(lab).status is Status.CANCELLED

    def test_report_in_the_handler_of_another_error_raises(self, lab: Lab) -> None:
        """The handler of another error is no clean-up of the cancellation."""

        def body(ctx: RequestContext) -> None:
            request_cancel(lab)
            assert check_now(ctx)
            try:
                raise ValueError
            except ValueError:
                ctx.progress.update(1, 2)

        lab.trace(job(lab, body), "x")
        assert execution_of(lab).status is Status.CANCELLED

    def test_cyclic_exception_contexts_end_the_search(self) -> None:
        """Exceptions that are each other's context do not cause an endless search."""
        first, second = ValueError(), KeyError()
        first.__context__, second.__context__ = second, first
        try:
            raise first
        except ValueError as error:
            error.__context__ = second
            assert not handling_cancellation()


class TestElsewhere:
    """Calls and processes other than a worker's task."""

    def test_direct_call_is_never_cancelled(self, lab: Lab) -> None:
        """`ctx.cancelled` is False in a direct call and in eager mode."""

        def body(ctx: RequestContext) -> bool:
            ctx.raise_if_cancelled()
            return ctx.cancelled

        task = job(lab, body)
        assert task() is False
        assert task.apply().get() is False

    def test_task_cancelled_is_an_ignore_and_can_be_pickled(self) -> None:
        """It is a subclass of Celery's Ignore and of our root error, and survives pickling."""
        error = pickle.loads(pickle.dumps(TaskCancelled("enough")))
        assert isinstance(error, Ignore)
        assert isinstance(error, HeadwayError)
        assert str(error) == "enough"
        assert headway.TaskCancelled is TaskCancelled


class TestPolling:
    """How often the store is read."""

    def test_store_is_read_at_most_once_a_second(self) -> None:
        """A thousand polls read once, a second later once more, and never after a True."""
        time, reply = [0.0], mock.Mock(return_value=False)
        token = CancelToken(reply, clock=lambda: time[0])
        assert not any(token.poll() for _ in range(1000))
        assert reply.call_count == 1
        time[0] += POLL_INTERVAL
        reply.return_value = True
        assert all(token.poll() for _ in range(1000))
        assert reply.call_count == 2

    def test_concurrent_polls_read_the_store_once(self) -> None:
        """While one thread reads, the others do not read too."""
        requested = []

        def slow() -> bool:
            requested.append("once")
            assert not token.poll(), "as another thread would meanwhile"
            return True

        token = CancelToken(slow, clock=lambda: 0.0)
        assert token.poll()
        assert requested == ["once"]

    def test_reply_to_a_write_counts_as_a_read(self) -> None:
        """A task that reports need not read the store."""
        time, reply = [0.0], mock.Mock(return_value=True)
        token = CancelToken(reply, clock=lambda: time[0])
        for _ in range(10):
            time[0] += POLL_INTERVAL / 2
            token.set_requested(False)
            assert not token.poll()
        reply.assert_not_called()

    def test_request_is_never_withdrawn(self) -> None:
        """A later reply does not withdraw the request."""
        on_request = mock.Mock()
        token = CancelToken()
        token.on_request = on_request
        token.set_requested(True)
        token.set_requested(False)
        assert token.poll()
        on_request.assert_called_once_with()

    def test_unavailable_store_is_read_once_and_means_no(self, lab: Lab) -> None:
        """During an outage, the store is read once, not at each poll, and the answer is False."""

        def body(ctx: RequestContext) -> list[bool]:
            lab.store.away = True
            try:
                with mock.patch.object(lab.store, "read", wraps=lab.store.read) as read:
                    found = [check_now(ctx) for _ in range(3)]
                    assert read.call_count == 1
                    return found
            finally:
                lab.store.away = False

        app_state = app_state_of(lab.app)
        assert app_state is not None
        app_state.breaker = CircuitBreaker(3600, 3600)  # an outage that no test outlasts
        assert lab.run(job(lab, body), "x") == [False] * 3


class TestInterrupted:
    """A reporter whose reports raise."""

    def test_reports_during_clean_up_are_merged(self) -> None:
        """Reports during the clean-up are written once per interval, like all reports."""
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

    def test_write_of_the_timer_does_not_restore_the_fast_path(self) -> None:
        """A report during the timer's write does not set the timer again: the next report still
        raises.
        """
        time = [0.0]

        def sink(meta: dict[str, Any]) -> None:
            if meta["current"] == 2:
                report_in_handler(3)

        def report_in_handler(current: int) -> None:
            try:
                raise TaskCancelled
            except TaskCancelled:
                reporter.update(current, 10)

        reporter = Reporter(sink, clock=lambda: time[0], interval=0.25)
        reporter.update(1, 10)
        reporter.interrupt()
        report_in_handler(2)
        time[0] += 0.25
        reporter.tick(time[0])
        with pytest.raises(TaskCancelled):
            reporter.update(4, 10)
        reporter.close()

    def test_report_after_the_end_is_ignored_after_an_interrupt(self) -> None:
        """A late thread's report is ignored, also after an interrupt."""
        reporter = Reporter(lambda meta: None)
        reporter.interrupt()
        reporter.close()
        reporter.update(1, 2)
