"""One run of a task, as the worker process knows it: its number, what was stored of it, and how it
ended.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from celery.exceptions import (
    SoftTimeLimitExceeded,
    WorkerLostError,
    WorkerShutdown,
    WorkerTerminate,
)

from headway.core.registry import READY_STATES, AttemptStarted
from headway.errors import Unavailable
from headway.models import Progress
from headway.worker import cancel_token, celery_internals
from headway.worker.cancel_token import CancelToken, TaskCancelled
from headway.worker.context import RequestContext
from headway.worker.progress_timeout import ProgressTimeout, ProgressWatchdog
from headway.worker.reporter import CLOSE_WAIT, Reporter
from headway.worker.scheduler import shared

if TYPE_CHECKING:
    from headway.worker.app_state import AppState

logger = logging.getLogger(__name__)

#: True while a write of Headway's own is on its way, in this thread or greenlet: it is bounded, and
#: tried once. All other writes are Celery's or the task's own, and keep Celery's patience.
own_write: ContextVar[bool] = ContextVar("headway_ours", default=False)

#: States that end an attempt, for a store: Celery's own ends and RETRY, after which another one
#: begins.
CLOSING_STATES = READY_STATES | {"RETRY"}


class Attempt:
    """One run of a task. Hangs on Celery's request object (``request._headway``), which Celery
    itself hands to the result backend.

    The number comes from the store, which may be away at the start: then the run goes on without.
    Every later write tries again first, and so does a timer while the task's code runs: one that
    reports nothing would be shown as queued until its end.
    """

    __slots__ = (
        "began_at",
        "cancellation",
        "delivery_id",
        "ending",
        "entered",
        "frame",
        "installation",
        "left",
        "number",
        "opening",
        "pid",
        "previous",
        "replaced",
        "reporter",
        "request",
        "store_started",
        "task",
        "watch",
    )

    def __init__(self, installation: AppState, request: Any) -> None:
        self.installation = installation
        self.request = request
        #: Its mark: the same for all who speak of this run, and for each try to open it, whichever
        #: thread makes it.
        self.delivery_id: str = celery_internals.delivery_id_of(request) or os.urandom(8).hex()
        #: The process that runs it. A fork of it that unwinds through the task's frames says
        #: nothing of its end.
        self.pid = os.getpid()
        self.began_at = datetime.now(UTC)
        #: Starts at 1; 0: the execution is over already, and whatever this run writes is refused;
        #: None: not opened yet.
        self.number: int | None = None if installation.store is not None else self.guess
        #: The last progress of the attempt before this one; None where there was none, or nobody
        #: knows yet.
        self.previous: Progress | None = None
        #: Whether Celery itself wanted STARTED to be stored (``task_track_started``).
        self.store_started = False
        #: Whether anybody tried to store an end of it.
        self.ending = False
        #: The record of a report as Celery makes it. Of the next one only the result and the
        #: children differ, and to make it anew takes longer than all else but the encoding.
        self.frame: dict[str, Any] | None = None
        #: The last state that it left in the result backend, other than an end.
        self.left: str | None = None
        #: Whether the task put another one in its place (``Task.replace``).
        self.replaced = False
        self.task: Any = None
        #: Whether the task's code runs just now.
        self.entered = False
        #: Held while the timer opens it.
        self.opening = threading.Lock()
        self.reporter: Reporter | None = None
        #: Whether its end is asked for.
        self.cancellation = CancelToken(self._look)
        #: Ends it where it falls silent (``progress_timeout``); None where nobody asked for that.
        self.watch: ProgressWatchdog | None = None

    @property
    def guess(self) -> int:
        """The number as far as the message tells: a retry counts, a redelivery is in no header
        (celery-facts#celery-undoes-its-own-ends).
        """
        return int(self.request.retries or 0) + 1

    @property
    def ignores_result(self) -> bool:
        """Whether Celery stores nothing of its end. The message's word counts before the task's."""
        own = vars(self.request).get("ignore_result")
        return bool(self.task.ignore_result if own is None else own)

    def shown_number(self) -> int:
        """What the task is told, which must be a number at all times."""
        return self.number or self.guess

    def open(
        self, backend: Any, *, full_timeout: bool = False, retry_published: bool = False
    ) -> AttemptStarted | None:
        """Have the store number this run, if that isn't done; ``retry_published``: it ends, and its retry
        may have begun. Raises ``Unavailable``.
        """
        if self.number is not None:
            return None
        opened: AttemptStarted = backend.headway_open(
            self, full_timeout=full_timeout, retry_published=retry_published
        )
        # Where another thread was quicker, its answer counts: behind a first report the store knows
        # no more what was before.
        if self.number is None or opened.attempt > self.number:
            self.previous = opened.previous
            self.number = opened.attempt
        if not opened.attempt:
            why = (
                "was cancelled"
                if opened.cancel_requested
                else "was retried"
                if retry_published
                else "has succeeded"
            )
            logger.info("Task %s %s before: this run of it changes nothing", self.request.id, why)
        if opened.cancel_requested:
            self.cancellation.hear(True)
        return opened

    def enter(self, task: Any) -> RequestContext:
        """The task's code begins. Opens the attempt, unless STARTED has done that; a store that is
        away doesn't hold it up.
        """
        installation = self.installation
        self.task = task
        self.store_started = bool(task.track_started) and not self.ignores_result
        backend = installation.fence(task.backend)
        if self.number is None and installation.asks_now():
            with installation.faults():
                backend.headway_begin(self)
        self.entered = True
        self._open_later()
        self.reporter = Reporter(
            self._store,
            name=f"{task.name}[{self.request.id}]",
            attempt=self.shown_number,
            previous=lambda: self.previous,
            interval=installation.interval,
            breaker=installation.breaker,
            scheduler=shared,
        )
        if installation.cancels_on_update(task):
            self.cancellation.then = self.reporter.interrupt
        context = RequestContext(
            self.request.id,
            self.reporter,
            headers=self.request.headers,
            attempt=self.shown_number,
            cancellation=self.cancellation,
        )
        reporter, silence = self.reporter, installation.progress_timeout_of(task)
        if silence is not None:
            self.watch = ProgressWatchdog(silence, lambda: reporter.newest, shared)
        return context

    def _open_later(self) -> None:
        """Have the timer open it as soon as the store may be asked again, if that isn't done."""
        if self.number is None and self.entered:
            now, retry_at = time.monotonic(), self.installation.breaker.retry_at
            shared.call_at(
                retry_at if retry_at > now else now + self.installation.heartbeat_interval,
                self._open_again,
            )

    def _open_again(self, _now: float) -> None:
        """The timer went off. Whoever else opens it just then is told the same: the run's mark is
        one.
        """
        installation, again = self.installation, True
        if not self.opening.acquire(blocking=False):
            return  # its code has just ended
        try:
            if self.number is None and self.entered and installation.asks_now():
                with installation.faults():
                    try:
                        self.open(installation.fence(self.task.backend))
                    except Unavailable:
                        raise
                    except Exception:
                        # a fault that time doesn't mend: it would be in the log every few seconds
                        again = False
                        raise
        finally:
            self.opening.release()
        if again:
            self._open_later()

    def watch_silence(self) -> None:
        """From now on the run may be struck. Whoever calls this calls `unwatch`, whatever happens."""
        if self.watch is not None:
            self.watch.start()

    def unwatch(self) -> None:
        """Nothing may strike the run any more. May be struck itself until then, and is called once
        more where it was.
        """
        if self.watch is not None and os.getpid() == self.pid:
            self.watch.stop()

    def leave(self, exc: BaseException | None) -> None:
        """The task's code has ended, and Celery hasn't stored its end yet: write the last report,
        and latch (celery-facts#result-is-stored-after-call).
        """
        if os.getpid() != self.pid:
            return
        self.entered = False
        if self.watch is not None and isinstance(exc, ProgressTimeout) and not exc.args:
            exc.args = (self.watch.sentence,)  # an asynchronous exception is made without a word
        if self.reporter is not None:
            self.reporter.close()
        # A timer that is about to open it could come after the run that its retry has begun, and
        # take that one's place.
        if self.opening.acquire(timeout=CLOSE_WAIT):
            self.opening.release()
        if isinstance(exc, TaskCancelled):
            cancel_token.confirm(self)
        if (
            not isinstance(exc, SystemExit)
            or isinstance(exc, (WorkerShutdown, WorkerTerminate))
            or celery_internals.pool_process_terminating()
        ):
            # a terminated task looks the same, and its end (REVOKED) is stored by the worker's main
            # process
            return
        # Under prefork on 5.6.3, and in threads, gevent and solo, nobody would ever say that it
        # ended (celery-facts#where-an-attempt-ends).
        lost = WorkerLostError(f"The task ended its process: SystemExit({exc.code!r})")
        self.end("FAILURE", None if self.ignores_result and not self.left else ("FAILURE", lost))

    def conclude(self, state: str | None, value: object) -> None:
        """Celery is done with the run (``task_postrun``): record an end that it has stored nowhere
        (celery-facts#ignored-results-have-no-end, celery-facts#postrun-knows-unstored-ends).
        """
        if self.ending or self.task is None or state is None or os.getpid() != self.pid:
            return
        left = (
            self.left == "PROGRESS"
        )  # it would stay so for ever, for readers of the result backend
        if state == "SUCCESS" and self.ignores_result:
            self.end(state, ("SUCCESS", None) if left else None)
        elif state in ("FAILURE", "RETRY") and self.ignores_result:
            cause = getattr(value, "exc", None) if state == "RETRY" else value
            self.end(state, (state, cause) if left else None)
        elif state == "IGNORED" and not self.replaced:
            self.end(state, ("IGNORED", None) if left else None)
        elif state == "REJECTED" and not getattr(value, "requeue", False):
            # For Celery's readers FAILURE, which 5.7.0 stores too, from the main process, and 5.6.3
            # doesn't.
            self.end(state, ("FAILURE", value) if left or not self.ignores_result else None)

    def _look(self) -> bool:
        """Ask the store whether the end of this run is asked for; a store that is away knows of
        nothing.
        """
        store = self.installation.store
        if store is not None and self.installation.asks_now():
            with self.installation.faults():
                record = store.read([str(self.request.id)])[0].record
                return record is not None and record.cancel_requested_at is not None
        return False

    def _store(self, meta: dict[str, object]) -> None:
        """One report, by the way that every reader of Celery knows."""
        outside = own_write.get()
        try:
            own_write.set(True)
            with celery_internals.request_on_top(self.task, self.request):
                self.task.update_state(state="PROGRESS", meta=meta)
        finally:
            own_write.set(outside)

    def end(self, state: str, stored: tuple[str, object] | None) -> None:
        """Record an end that Celery stores nowhere; ``stored`` (state, result): what its own
        readers shall find, if any.
        """
        self.ending = True
        if self.installation.store is None:
            return
        outside = own_write.get()
        try:
            own_write.set(True)
            self.installation.fence(self.task.backend).headway_end(self, state, stored)
        except SoftTimeLimitExceeded:
            raise
        except Unavailable as exc:
            logger.warning(
                "The end of %s[%s] (%s) can't be recorded: %r",
                self.task.name,
                self.request.id,
                state,
                exc.__cause__,
            )
        except Exception:
            logger.exception(
                "The end of %s[%s] (%s) can't be recorded", self.task.name, self.request.id, state
            )
        finally:
            own_write.set(outside)


def attempt_of(request: Any, task_id: object) -> Attempt | None:
    """The attempt that writes, if it is one of this process and writes of itself; else None: a
    bystander.
    """
    attempt = getattr(request, "_headway", None)
    return attempt if isinstance(attempt, Attempt) and request.id == task_id else None
