"""`Attempt`: one run of a task in a worker process: its number, its writes and its end."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from celery.exceptions import (
    SoftTimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)

from headway.core.registry import READY_STATES, AttemptStarted
from headway.errors import Unavailable
from headway.models import Progress
from headway.worker import celery_internals
from headway.worker.app_state import AppState
from headway.worker.cancel_token import CancelToken
from headway.worker.context import RequestContext, call_with
from headway.worker.exceptions import ProgressTimeout, TaskCancelled
from headway.worker.progress_timeout import ProgressWatchdog
from headway.worker.reporter import CLOSE_WAIT, Reporter
from headway.worker.scheduler import shared
from headway.worker.state_writer import StateWriter

logger = logging.getLogger(__name__)

#: True during a write of Headway itself, in this thread or greenlet: it is bounded, and tried once.
#: All other writes are Celery's or the task's own, and have Celery's timeouts.
own_write: ContextVar[bool] = ContextVar("headway_own_write", default=False)

#: States that end an attempt: Celery's terminal states, and RETRY, after which another attempt
#: starts.
CLOSING_STATES = READY_STATES | {"RETRY"}


class Attempt:
    """One run of a task. It is kept on Celery's request object (``request._headway``), which Celery
    passes to the result backend.

    The store gives the number. If the store is unavailable at the start, the task runs without one.
    Every later write tries again first, and so does a timer: a task that reports nothing would
    otherwise be shown as queued until its end.
    """

    __slots__ = (
        "app_state",
        "began_at",
        "cancel_token",
        "delivery_id",
        "end_written",
        "last_state_written",
        "meta_template",
        "number",
        "open_lock",
        "pid",
        "previous",
        "reporter",
        "request",
        "running",
        "store_started",
        "task",
        "was_replaced",
        "watchdog",
    )

    def __init__(self, app_state: AppState, request: Any) -> None:
        self.app_state = app_state
        self.request = request
        #: The same for every process that writes about this delivery, and for every try to open it.
        self.delivery_id: str = celery_internals.delivery_id_of(request) or os.urandom(8).hex()
        #: The process that runs it. A fork that unwinds the task's frames must not write its end.
        self.pid = os.getpid()
        self.began_at = datetime.now(UTC)
        #: Starts at 1. 0: the execution is already terminal, and all writes are refused. None: not
        #: opened yet.
        self.number: int | None = None if app_state.store is not None else self.number_from_headers
        #: The last progress of the previous attempt; None if there was none, or it is not known
        #: yet.
        self.previous: Progress | None = None
        #: Whether Celery itself stores STARTED (``task_track_started``).
        self.store_started = False
        #: Whether a write of its end was tried.
        self.end_written = False
        #: The record of a report as Celery makes it. The next one differs only in result and
        #: children; building it again would take longer than everything but the encoding.
        self.meta_template: dict[str, Any] | None = None
        #: The last state written to the result backend, other than an end.
        self.last_state_written: str | None = None
        #: Whether the task was replaced by another one (``Task.replace``).
        self.was_replaced = False
        self.task: Any = None
        #: Whether the task's code is running.
        self.running = False
        #: Held while the timer opens the attempt.
        self.open_lock = threading.Lock()
        self.reporter: Reporter | None = None
        #: Whether its cancellation is requested.
        self.cancel_token = CancelToken(self._poll_store)
        #: Ends the attempt when it reports nothing new (``progress_timeout``); None if not
        #: configured.
        self.watchdog: ProgressWatchdog | None = None

    @property
    def number_from_headers(self) -> int:
        """The number according to the message: it counts retries, but no header counts
        redeliveries.
        """
        return int(self.request.retries or 0) + 1

    @property
    def ignores_result(self) -> bool:
        """Whether Celery does not store its end. The message's option takes precedence over the
        task's.
        """
        own = vars(self.request).get("ignore_result")
        return bool(self.task.ignore_result if own is None else own)

    def shown_number(self) -> int:
        """The number that the task sees, which is always known."""
        return self.number or self.number_from_headers

    def open(
        self, backend: Any, *, full_timeout: bool = False, retry_published: bool = False
    ) -> AttemptStarted | None:
        """Let the store number this attempt, if it has not yet.

        ``retry_published``: it is ending, and its retry may have started. Raises ``Unavailable``.
        """
        if self.number is not None:
            return None
        opened = self._writer(backend).start_attempt(
            self.delivery_id,
            self.began_at,
            store_result=self.store_started,
            full_timeout=full_timeout,
            retry_published=retry_published,
        )
        # If another thread was faster, its reply counts: after a first report the store no longer
        # knows the previous progress.
        if self.number is None or opened.attempt > self.number:
            self.previous = opened.previous
            self.number = opened.attempt
        if not opened.attempt:
            reason = (
                "was cancelled"
                if opened.cancel_requested
                else "was retried"
                if retry_published
                else "has succeeded"
            )
            logger.info(
                "Task %s %s before; the writes of this attempt are ignored", self.request.id, reason
            )
        if opened.cancel_requested:
            self.cancel_token.set_requested(True)
        return opened

    def start(self, task: Any) -> RequestContext:
        """The task's code starts. Opens the attempt, unless STARTED has. An unavailable store does
        not block.
        """
        app_state = self.app_state
        self.task = task
        self.store_started = bool(task.track_started) and not self.ignores_result
        backend = app_state.fence(task.backend)
        if self.number is None and app_state.store_available():
            with app_state.swallow_store_errors():
                self._open_at_start(backend)
        self.running = True
        self._open_later()
        self.reporter = Reporter(
            self._store,
            name=f"{task.name}[{self.request.id}]",
            attempt=self.shown_number,
            previous=lambda: self.previous,
            interval=app_state.interval,
            breaker=app_state.breaker,
            scheduler=shared,
        )
        if app_state.cancels_on_update(task):
            self.cancel_token.on_request = self.reporter.interrupt
        context = RequestContext(
            self.request.id,
            self.reporter,
            headers=self.request.headers,
            attempt=self.shown_number,
            cancel_token=self.cancel_token,
        )
        reporter, timeout = self.reporter, app_state.progress_timeout_of(task)
        if timeout is not None:
            self.watchdog = ProgressWatchdog(timeout, lambda: reporter.newest, shared)
        return context

    def _open_at_start(self, backend: Any) -> None:
        """Open the attempt, which STARTED has not done (``task_track_started`` is off, or STARTED
        failed).
        """
        opened = self.open(backend)
        if opened is None or self.app_state.keeps_results:
            return
        # The result of the previous attempt (a failure) must not stay beside an open attempt.
        stale = opened.attempt > 1 and not self.ignores_result
        if stale or (self.number and self.store_started):
            call_with(own_write, True, self._writer(backend).store_started)

    def _open_later(self) -> None:
        """Let the timer open the attempt when the store may be used again, if needed."""
        if self.number is None and self.running:
            now, retry_at = time.monotonic(), self.app_state.breaker.retry_at
            shared.call_at(
                retry_at if retry_at > now else now + self.app_state.heartbeat_interval,
                self._open_again,
            )

    def _open_again(self, _now: float) -> None:
        """Called by the timer. A concurrent open gets the same reply."""
        app_state, again = self.app_state, True
        if not self.open_lock.acquire(blocking=False):
            return  # its code has just ended
        try:
            if self.number is None and self.running and app_state.store_available():
                with app_state.swallow_store_errors():
                    try:
                        self.open(app_state.fence(self.task.backend))
                    except Unavailable:
                        raise
                    except Exception:
                        # Trying again would not help, and would log it every few seconds.
                        again = False
                        raise
        finally:
            self.open_lock.release()
        if again:
            self._open_later()

    def start_watchdog(self) -> None:
        """Start the watchdog. Call this only if `stop_watchdog` is guaranteed to follow."""
        if self.watchdog is not None:
            self.watchdog.start()

    def stop_watchdog(self) -> None:
        """Stop the watchdog. The call may be interrupted; the caller then repeats it."""
        if self.watchdog is not None and os.getpid() == self.pid:
            self.watchdog.stop()

    def finish(self, exc: BaseException | None) -> None:
        """The task's code has ended, and Celery has not stored its end yet: write the last report
        and close the reporter (celery-facts#result-is-stored-after-call).
        """
        if os.getpid() != self.pid:
            return
        self.running = False
        if self.watchdog is not None and isinstance(exc, ProgressTimeout) and not exc.args:
            exc.args = (self.watchdog.reason,)  # an asynchronous exception has no arguments
        if self.reporter is not None:
            self.reporter.close()
        # The timer may be about to open it. It must not do so after the retry has started: that
        # would replace the newer attempt.
        if self.open_lock.acquire(timeout=CLOSE_WAIT):
            self.open_lock.release()
        if isinstance(exc, TaskCancelled):
            self.confirm_cancel()
        if (
            not isinstance(exc, SystemExit)
            or isinstance(exc, (WorkerShutdown, WorkerTerminate))
            or celery_internals.pool_process_terminating()
        ):
            # A terminated task looks the same; the worker's main process stores its end (REVOKED).
            return
        # Under prefork on 5.6.3, and in threads, gevent and solo, no process would ever store an
        # end (celery-facts#where-an-attempt-ends).
        lost = WorkerLostError(f"The task ended its process: SystemExit({exc.code!r})")
        self.end(
            "FAILURE",
            None if self.ignores_result and not self.last_state_written else ("FAILURE", lost),
        )

    def record_unreported_end(self, state: str | None, value: object) -> None:
        """Celery has finished the run (``task_postrun``): record an end that it has not stored
        (celery-facts#postrun-knows-unstored-ends).
        """
        if self.end_written or self.task is None or state is None or os.getpid() != self.pid:
            return
        # Without an end in the result backend, its readers would see PROGRESS for ever.
        has_report = self.last_state_written == "PROGRESS"
        if state == "SUCCESS" and self.ignores_result:
            self.end(state, ("SUCCESS", None) if has_report else None)
        elif state in ("FAILURE", "RETRY") and self.ignores_result:
            cause = getattr(value, "exc", None) if state == "RETRY" else value
            self.end(state, (state, cause) if has_report else None)
        elif state == "IGNORED" and not self.was_replaced:
            self.end(state, ("IGNORED", None) if has_report else None)
        elif state == "REJECTED" and not getattr(value, "requeue", False):
            # Celery's readers see FAILURE: 5.7.0 stores it too, from the main process; 5.6.3 does
            # not.
            self.end(state, ("FAILURE", value) if has_report or not self.ignores_result else None)

    def _poll_store(self) -> bool:
        """Read from the store whether the cancellation is requested; False if it is unavailable."""
        store = self.app_state.store
        if store is not None and self.app_state.store_available():
            with self.app_state.swallow_store_errors():
                record = store.read([str(self.request.id)])[0].record
                return record is not None and record.cancel_requested_at is not None
        return False

    def _store(self, meta: dict[str, object]) -> None:
        """Write one report with Celery's own ``update_state``."""
        with celery_internals.request_on_top(self.task, self.request):
            call_with(own_write, True, self.task.update_state, state="PROGRESS", meta=meta)

    def end(self, state: str, stored: tuple[str, object] | None) -> None:
        """Record an end that Celery does not store. ``stored`` is (state, result) for Celery's own
        readers.
        """
        self.end_written = True
        if self.app_state.store is None:
            return
        try:
            call_with(own_write, True, self._write_end, state, stored)
        except SoftTimeLimitExceeded:
            raise
        except Unavailable as exc:
            logger.warning(
                "The end of %s[%s] (%s) cannot be recorded: %r",
                self.task.name,
                self.request.id,
                state,
                exc.__cause__,
            )
        except Exception:
            logger.exception(
                "The end of %s[%s] (%s) cannot be recorded", self.task.name, self.request.id, state
            )

    def _write_end(self, state: str, stored: tuple[str, object] | None) -> None:
        backend = self.app_state.fence(self.task.backend)
        self.open(backend, retry_published=state == "RETRY")
        self._writer(backend).end(state, self.number, stored)

    def _writer(self, backend: Any) -> StateWriter:
        return StateWriter(self.app_state, backend, self.request)

    def confirm_cancel(self) -> None:
        """The attempt has ended by `TaskCancelled`: store REVOKED as its end, and send the event of
        Celery's monitors (celery-facts#cooperative-cancel).

        Uses ``mark_as_revoked``, with the timeout of Celery's own ends, because it also informs a
        chord that waits for this task. Never raises an error of backend or broker: the attempt is
        over in any case.
        """
        task, request = self.task, self.request
        backend = self.app_state.fence(task.backend)
        stored = not self.ignores_result or self.last_state_written == "PROGRESS"
        if not stored:
            self.end("REVOKED", None)
        try:
            backend.mark_as_revoked(request.id, "cancelled", request=request, store_result=stored)
        except SoftTimeLimitExceeded:
            raise
        except Exception:
            logger.exception("The end of %s[%s] (REVOKED) cannot be stored", task.name, request.id)
        self._send_revoked_event()

    def _send_revoked_event(self) -> None:
        """Send ``task-revoked``. The worker's main process does not send it after an Ignore."""
        task, request = self.task, self.request
        if not task.send_events:
            return
        try:
            with celery_internals.request_on_top(task, request):
                task.send_event(
                    "task-revoked", retry=False, terminated=False, signum=None, expired=False
                )
        except SoftTimeLimitExceeded:
            raise
        except Exception as exc:  # noqa: BLE001 - a lost event is not a fault of the task
            logger.warning("No task-revoked event for %s[%s]: %r", task.name, request.id, exc)


def attempt_of(request: Any, task_id: object) -> Attempt | None:
    """The attempt of this request, if it runs in this process; None for an external writer."""
    attempt = getattr(request, "_headway", None)
    return attempt if isinstance(attempt, Attempt) and request.id == task_id else None
