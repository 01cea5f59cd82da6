"""The fence in the result backend: every state that is stored passes the store first, Celery's own
too.

Celery un-ends tasks by itself (celery-facts#celery-undoes-its-own-ends), in three processes: the
pool's child (STARTED, RETRY, SUCCESS, FAILURE), the worker's main process (time limits, lost
children, REVOKED) and whoever publishes (chords). All of them go through ``_store_result``.
"""

from __future__ import annotations

import copy
import logging
import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from celery.exceptions import BackendStoreError, SoftTimeLimitExceeded
from kombu.utils.encoding import ensure_bytes

from headway.core.meta import progress_from_meta
from headway.core.registry import AttemptStart, AttemptStarted, StateWrite, WriteResult
from headway.errors import Unavailable
from headway.stores.base import Store
from headway.worker import celery_internals
from headway.worker.app_state import app_state_of
from headway.worker.attempt import CLOSING_STATES, Attempt, attempt_of, own_write
from headway.worker.publishing import owner_in

logger = logging.getLogger(__name__)


class _StoreBug(Exception):
    """The store raised what it may not raise. A result must not be lost by that."""


def fence(backend: Any) -> Any:
    """Put the fence into a backend; one that can't have it (rpc, disabled: no ``_store_result``) is
    left as it is.
    """
    cls: Any = type(backend)
    if not issubclass(cls, FencedBackendMixin) and hasattr(cls, "_store_result"):
        backend.__class__ = _fenced(cls)
    return backend


@cache
def _fenced(cls: Any) -> type:
    return type(
        cls.__name__,
        (FencedBackendMixin, cls),
        {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__},
    )


class FencedBackendMixin:
    """What is mixed into the backend's class. Names of our own start with ``headway_``; the backend
    has hundreds.
    """

    def store_result(
        self: Any,
        task_id: Any,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Celery's, but for our own writes: those are tried once. ``result_backend_always_retry``
        would go on for ever (celery-facts#update-state-raises-when-backend-is-down).
        """
        if not own_write.get():
            return super().store_result(  # type: ignore[misc]
                task_id, result, state, traceback=traceback, request=request, **kwargs
            )
        encoded = self.encode_result(result, state)
        self._store_result(task_id, encoded, state, traceback, request=request, **kwargs)
        return encoded

    def ensure(self: Any, fun: Any, args: Any, **policy: Any) -> Any:
        """Celery's patience (twenty tries, a second between them), but for our own writes."""
        return fun(*args) if own_write.get() else super().ensure(fun, args, **policy)  # type: ignore[misc]

    def _get_result_meta(
        self: Any, result: Any, state: str, traceback: Any, request: Any, **kwargs: Any
    ) -> Any:
        """Celery's, but our own writes don't carry the arguments: 200 KB of them at each report
        (celery-facts#extended-results-repeat-arguments).
        """
        if request is not None and own_write.get():
            request = copy.copy(request)
            request.args = request.kwargs = None
        return super()._get_result_meta(  # type: ignore[misc]
            result=result, state=state, traceback=traceback, request=request, **kwargs
        )

    def _store_result(
        self: Any,
        task_id: Any,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        installation = app_state_of(self.app)
        store = installation.store if installation is not None else None
        if installation is None or store is None:
            return super()._store_result(  # type: ignore[misc]
                task_id, result, state, traceback, request=request, **kwargs
            )
        attempt = attempt_of(request, task_id)
        if state == "STARTED" and attempt is None and installation.runs(request, task_id):
            attempt = request._headway = Attempt(installation, request)
            attempt.store_started = True
            return self._store_started(attempt, result, traceback, kwargs)
        # A run without an attempt is one of a task that isn't covered (only its neighbour has our
        # base): its RETRY is true.
        if (
            state == "RETRY"
            and attempt is None
            and not installation.runs(request, task_id)
            and self._gives_up(request)
        ):
            logger.info("Task %s was stopped with its worker, and nobody will retry it", task_id)
            return result
        if attempt is not None and state in CLOSING_STATES:
            attempt.ending = True
        write = self._write_of(task_id, result, state, request, attempt)
        if store.keeps_results:
            write = replace(
                write, result=self.headway_record(task_id, result, state, traceback, request)
            )
            try:
                accepted = self._deliver(store, attempt, write)
            except _StoreBug as exc:
                logger.error(
                    "%s of task %s goes past the fence, which has a defect",
                    state,
                    task_id,
                    exc_info=exc.__cause__,
                )
                return super()._store_result(  # type: ignore[misc]
                    task_id, result, state, traceback, request=request, **kwargs
                )
        else:
            accepted = self._deliver_registry(store, attempt, replace(write, result_follows=True))
            if accepted:
                self._store_plainly(task_id, result, state, traceback, request, kwargs)
        if not accepted:
            logger.debug("A late %s of task %s is refused", state, task_id)
        elif attempt is not None and state not in CLOSING_STATES:
            attempt.left = state
        elif attempt is not None and state == "RETRY" and attempt.cancellation.asked:
            with installation.faults():  # nobody is left to confirm it until the retry is due
                store.revoke(str(task_id), "cancelled", datetime.now(UTC))
        return result

    def _gives_up(self: Any, request: Any) -> bool:
        """Whether this RETRY is the main process's, at a cold shutdown, of a task whose message is
        acknowledged.

        Celery says so of every task that it kills then; only one with ``acks_late`` comes back, by
        its broker. The others would be retrying for ever; left open they are stalled as soon as
        their worker has gone. From 5.7 on it also says so of a lost child's task that it has
        published again (``retry_on_worker_lost``).
        """
        task = self.app.tasks.get(getattr(request, "task", None))
        return (
            task is not None
            and not task.acks_late
            and not getattr(task, "retry_on_worker_lost", False)
        )

    def _store_started(
        self: Any, attempt: Attempt, result: Any, traceback: Any, kwargs: Any
    ) -> Any:
        """STARTED opens the attempt.

        A backend that is away doesn't end the task here, as it does in Celery: nothing is lost but
        the word, and the next write opens the attempt.
        """
        with attempt.installation.faults():
            attempt.open(self)
        if not attempt.installation.keeps_results and attempt.number != 0:
            request = attempt.request
            super()._store_result(  # type: ignore[misc]
                request.id, result, "STARTED", traceback, request=request, **kwargs
            )
        return result

    def _write_of(
        self: Any, task_id: Any, result: Any, state: str, request: Any, attempt: Attempt | None
    ) -> StateWrite:
        bystander = (
            attempt is None and request is not None and getattr(request, "id", None) == task_id
        )
        expires = (
            getattr(self, "failure_expires", self.expires) if state == "FAILURE" else self.expires
        )
        return StateWrite(
            str(task_id),
            state,
            datetime.now(UTC),
            attempt=attempt.number if attempt is not None else None,
            retries=getattr(request, "retries", None) if bystander else None,
            worker=getattr(request, "hostname", None) if bystander else None,
            delivery_id=celery_internals.delivery_id_of(request) if bystander else None,
            task=getattr(request, "task", None),
            meta=_plain_meta(state, result),
            expires=_seconds(expires),
        )

    def _deliver(self: Any, store: Store, attempt: Attempt | None, write: StateWrite) -> bool:
        """Let the store decide and keep it, with the patience that fits."""
        full_timeout = not own_write.get()

        def deliver() -> bool:
            nonlocal write
            if attempt is not None:
                attempt.open(
                    self, full_timeout=full_timeout, retry_published=write.state == "RETRY"
                )
                if write.attempt != attempt.number:
                    write = replace(write, attempt=attempt.number)
            return _heard(attempt, store.write(write, full_timeout=full_timeout))

        if not full_timeout:
            return deliver()

        def deliver_as_celery() -> bool:
            try:
                return deliver()
            except Unavailable as exc:
                # Celery's own retries, and those of its users, know the driver's errors.
                raise (exc.__cause__ or exc) from None
            except SoftTimeLimitExceeded:
                raise
            except Exception as exc:
                raise _StoreBug from exc

        ensure = getattr(super(), "ensure", None)
        return bool(ensure(deliver_as_celery, ()) if ensure is not None else deliver_as_celery())

    def _deliver_registry(
        self: Any, store: Store, attempt: Attempt | None, write: StateWrite
    ) -> bool:
        """Let the store decide; the backend keeps it. Where the store is away, Celery's own writes
        go on as if there were no fence.
        """
        full_timeout = not own_write.get()
        try:
            if attempt is not None:
                attempt.open(
                    self, full_timeout=full_timeout, retry_published=write.state == "RETRY"
                )
                if write.attempt != attempt.number:
                    write = replace(write, attempt=attempt.number)
            return _heard(attempt, store.write(write, full_timeout=full_timeout))
        except Unavailable as exc:
            if not full_timeout:
                raise
            logger.warning(
                "The registry of executions is away, %s of task %s goes past it: %r",
                write.state,
                write.task_id,
                exc.__cause__,
            )
            return True

    def _store_plainly(  # noqa: PLR0917  the backend's own order
        self: Any, task_id: Any, result: Any, state: str, traceback: Any, request: Any, kwargs: Any
    ) -> None:
        """As the backend would without us; for our own writes a fault of the server is
        ``Unavailable``.
        """
        try:
            super()._store_result(task_id, result, state, traceback, request=request, **kwargs)  # type: ignore[misc]
        except Exception as exc:
            away = isinstance(
                exc, (OSError, *getattr(self, "connection_errors", ()))
            ) or self.exception_safe_to_retry(exc)
            if own_write.get() and away:
                raise Unavailable from exc
            raise

    def headway_begin(self: Any, attempt: Attempt) -> None:
        """Open an attempt that no STARTED has opened (``task_track_started`` is off, or that write
        failed).
        """
        opened = attempt.open(self)
        stale = opened is not None and opened.attempt > 1 and not attempt.ignores_result
        if not attempt.installation.keeps_results and (
            stale or (attempt.number and opened and attempt.store_started)
        ):
            # The record of the attempt before (a failure) would stand beside an open attempt.
            outside = own_write.get()
            try:
                own_write.set(True)
                self._store_plainly(
                    attempt.request.id, _whereabouts(attempt), "STARTED", None, attempt.request, {}
                )
            finally:
                own_write.set(outside)

    def headway_open(
        self: Any, attempt: Attempt, *, full_timeout: bool, retry_published: bool
    ) -> AttemptStarted:
        """Ask the store for the attempt's number."""
        request, installation = attempt.request, attempt.installation
        assert installation.store is not None
        raw = None
        if installation.store.publishes:
            raw = self.headway_record(request.id, _whereabouts(attempt), "STARTED", None, request)
        opening = AttemptStart(
            str(request.id),
            getattr(request, "task", None),
            attempt.began_at,
            retries=int(request.retries or 0),
            worker=request.hostname,
            result=raw,
            store_result=attempt.store_started and installation.keeps_results,
            heartbeat_ttl=installation.heartbeat_ttl if installation.sends_heartbeats else None,
            delivery_id=attempt.delivery_id,
            owner=owner_in(request.headers),
            retry_published=retry_published,
        )
        return installation.store.start_attempt(opening, full_timeout=full_timeout)

    def headway_end(
        self: Any, attempt: Attempt, state: str, stored: tuple[str, object] | None
    ) -> None:
        """Record an end that Celery stores nowhere; ``stored`` (state, result) is what its own
        readers shall find, if anything.
        """
        installation, request = attempt.installation, attempt.request
        assert installation.store is not None
        attempt.open(self, retry_published=state == "RETRY")
        write = StateWrite(
            str(request.id),
            state,
            datetime.now(UTC),
            attempt=attempt.number,
            task=getattr(request, "task", None),
            expires=_seconds(self.expires),
        )
        if stored is None:
            installation.store.write(write)
            return
        stored_state, value = stored
        write = replace(write, no_result=value is None)
        result = self.encode_result(value, stored_state)
        if installation.store.keeps_results:
            raw = self.headway_record(request.id, result, stored_state, None, request)
            installation.store.write(replace(write, result=raw))
        elif installation.store.write(replace(write, result_follows=True)):
            self._store_plainly(request.id, result, stored_state, None, request, {})

    def headway_record(
        self: Any, task_id: Any, result: Any, state: str, traceback: Any, request: Any
    ) -> bytes:
        """The record as Celery's key-value backends encode it (celery-facts#guarded-write)."""
        attempt = attempt_of(request, task_id) if state == "PROGRESS" and own_write.get() else None
        if attempt is not None and attempt.frame is not None:
            meta = attempt.frame | {
                "result": result,
                "children": self.current_task_children(request),
            }
        else:
            meta = self._get_result_meta(
                result=result, state=state, traceback=traceback, request=request
            )
            if attempt is not None:
                attempt.frame = meta
        meta["task_id"] = str(task_id)
        raw = self.encode(meta)
        if isinstance(raw, str) and len(raw) > getattr(self, "_MAX_STR_VALUE_SIZE", len(raw)):
            raise BackendStoreError(
                "value too large for Redis backend", state=state, task_id=task_id
            )
        return bytes(ensure_bytes(raw))  # type: ignore[no-untyped-call]

    def __reduce__(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the backend without the fence: whoever unpickles it (an AsyncResult) may have no
        Headway.
        """
        reduced: Any = super().__reduce__(*args, **kwargs)
        revive, (cls, *rest) = reduced
        return revive, (cls.__mro__[2] if issubclass(cls, FencedBackendMixin) else cls, *rest)


def _heard(attempt: Attempt | None, written: WriteResult) -> bool:
    """Whether it was let in. Each reply also says whether a cancel is asked for: a task that
    reports needn't ask.
    """
    if attempt is not None:
        attempt.cancellation.hear(written.cancel_requested)
    return bool(written)


def _whereabouts(attempt: Attempt) -> dict[str, Any]:
    """What Celery stores with STARTED."""
    return {"pid": os.getpid(), "hostname": attempt.request.hostname}


def _plain_meta(state: str, result: Any) -> Any:
    """The progress in a meta, JSON-safe whatever the serializer was; a report of our own is that
    already.
    """
    if state in CLOSING_STATES or state == "STARTED":
        return None
    if own_write.get():
        return result
    progress = progress_from_meta(state, result)
    if progress is None:
        return None
    return {
        "current": progress.current,
        "total": progress.total,
        "message": progress.message,
        "attributes": dict(progress.attributes) if progress.attributes is not None else None,
        "timestamp": int(progress.timestamp.timestamp() * 1000)
        if progress.timestamp is not None
        else None,
    }


def _seconds(expires: Any) -> float | None:
    """The backend's ``expires``: seconds or a timedelta, None or 0 for ever."""
    seconds = expires.total_seconds() if hasattr(expires, "total_seconds") else expires
    return float(seconds) if seconds else None
