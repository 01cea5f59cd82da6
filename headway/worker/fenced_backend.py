"""The fence in the result backend: every state passes the store before it is stored, Celery's too.

Celery itself replaces terminal states (celery-facts#celery-undoes-its-own-ends), in three
processes: the pool's child (STARTED, RETRY, SUCCESS, FAILURE), the worker's main process (time
limits, lost children, REVOKED) and the publisher (chords). All of them call ``_store_result``.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, cast

from celery.exceptions import BackendStoreError, SoftTimeLimitExceeded
from kombu.utils.encoding import ensure_bytes

from headway.core.meta import progress_from_meta
from headway.core.registry import StateWrite
from headway.errors import Unavailable
from headway.stores.base import Store
from headway.worker import celery_internals
from headway.worker.app_state import app_state_of
from headway.worker.attempt import CLOSING_STATES, Attempt, attempt_of, own_write
from headway.worker.state_writer import seconds_of
from headway.worker.validation import to_meta

logger = logging.getLogger(__name__)


class _StoreBug(Exception):
    """The store raised an unexpected error. No result may be lost because of it."""


def fence(backend: Any) -> Any:
    """Add the fence to a backend. Without ``_store_result`` (rpc, disabled) it is unchanged."""
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
    """Mixed into the backend's class. Our own names start with ``headway_``; the backend has
    hundreds.
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
        """As Celery's, but our own writes are tried once: ``result_backend_always_retry`` retries
        for ever.
        """
        if not own_write.get():
            return super().store_result(  # type: ignore[misc]
                task_id, result, state, traceback=traceback, request=request, **kwargs
            )
        encoded = self.encode_result(result, state)
        self._store_result(task_id, encoded, state, traceback, request=request, **kwargs)
        return encoded

    def ensure(self: Any, fun: Any, args: Any, **policy: Any) -> Any:
        """As Celery's (twenty tries with pauses of a second), but our own writes are tried once."""
        return fun(*args) if own_write.get() else super().ensure(fun, args, **policy)  # type: ignore[misc]

    def _get_result_meta(
        self: Any, result: Any, state: str, traceback: Any, request: Any, **kwargs: Any
    ) -> Any:
        """As Celery's, but our own writes omit the arguments
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
        app_state = app_state_of(self.app)
        store = app_state.store if app_state is not None else None
        if app_state is None or store is None:
            return super()._store_result(  # type: ignore[misc]
                task_id, result, state, traceback, request=request, **kwargs
            )
        attempt = attempt_of(request, task_id)
        if state == "STARTED" and attempt is None and app_state.is_executing(request, task_id):
            attempt = request._headway = Attempt(app_state, request)
            attempt.store_started = True
            return self._store_started(attempt, result, traceback, kwargs)
        # A run without an attempt belongs to a task without our base class: its RETRY is real.
        if (
            state == "RETRY"
            and attempt is None
            and not app_state.is_executing(request, task_id)
            and self._is_shutdown_retry(request)
        ):
            logger.info("Task %s was stopped with its worker and will not be retried", task_id)
            return result
        if attempt is not None and state in CLOSING_STATES:
            attempt.end_written = True
        write = self._write_of(task_id, result, state, request, attempt)
        if store.keeps_results:
            write = replace(
                write, result=self.headway_encode_meta(task_id, result, state, traceback, request)
            )
            try:
                accepted = self._deliver(store, attempt, write)
            except _StoreBug as exc:
                logger.error(
                    "Unexpected error while recording %s of task %s; "
                    "storing the result without the fence",
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
                self.headway_store_plainly(task_id, result, state, traceback, request, kwargs)
        if not accepted:
            logger.debug("Refused a late %s of task %s", state, task_id)
        elif attempt is not None and state not in CLOSING_STATES:
            attempt.last_state_written = state
        elif attempt is not None and state == "RETRY" and attempt.cancel_token.requested:
            with (
                app_state.swallow_store_errors()
            ):  # no attempt can confirm it before the retry is due
                store.revoke(str(task_id), "cancelled", datetime.now(UTC))
        return result

    def _is_shutdown_retry(self: Any, request: Any) -> bool:
        """Whether the main process stored this RETRY at a cold shutdown, for an acknowledged
        message.

        Celery stores RETRY for every task that it kills then, but the broker redelivers only those
        with ``acks_late``. The others would be shown as retrying for ever; left open, they are
        stalled when the heartbeats of their worker stop. From 5.7 on, Celery also stores it for the
        task of a lost child that it has published again (``retry_on_worker_lost``).
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

        An unavailable backend does not end the task here, unlike in Celery: the next write opens
        the attempt.
        """
        with attempt.app_state.swallow_store_errors():
            attempt.open(self)
        if not attempt.app_state.keeps_results and attempt.number != 0:
            request = attempt.request
            super()._store_result(  # type: ignore[misc]
                request.id, result, "STARTED", traceback, request=request, **kwargs
            )
        return result

    def _write_of(
        self: Any, task_id: Any, result: Any, state: str, request: Any, attempt: Attempt | None
    ) -> StateWrite:
        external = (
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
            retries=getattr(request, "retries", None) if external else None,
            worker=getattr(request, "hostname", None) if external else None,
            delivery_id=celery_internals.delivery_id_of(request) if external else None,
            task=getattr(request, "task", None),
            meta=_json_safe_meta(state, result),
            expires=seconds_of(expires),
        )

    def _deliver(self: Any, store: Store, attempt: Attempt | None, write: StateWrite) -> bool:
        """Let the store decide and store, with the right timeout."""
        full_timeout = not own_write.get()

        def deliver() -> bool:
            return _write(self, store, attempt, write, full_timeout=full_timeout)

        if not full_timeout:
            return deliver()

        def deliver_as_celery() -> bool:
            try:
                return deliver()
            except Unavailable as exc:
                # Celery's retries expect the driver's errors.
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
        """Let the store decide; the backend stores. If the store is unavailable, Celery's own
        writes are stored without the fence.
        """
        full_timeout = not own_write.get()
        try:
            return _write(self, store, attempt, write, full_timeout=full_timeout)
        except Unavailable as exc:
            if not full_timeout:
                raise
            logger.warning(
                "The registry is unavailable; storing %s of task %s without the fence: %r",
                write.state,
                write.task_id,
                exc.__cause__,
            )
            return True

    def headway_store_plainly(  # noqa: PLR0917 - the backend's signature
        self: Any, task_id: Any, result: Any, state: str, traceback: Any, request: Any, kwargs: Any
    ) -> None:
        """Store as the backend does; in our own writes, an outage is raised as ``Unavailable``."""
        try:
            super()._store_result(task_id, result, state, traceback, request=request, **kwargs)  # type: ignore[misc]
        except Exception as exc:
            away = isinstance(
                exc, (OSError, *getattr(self, "connection_errors", ()))
            ) or self.exception_safe_to_retry(exc)
            if own_write.get() and away:
                raise Unavailable from exc
            raise

    def headway_encode_meta(
        self: Any, task_id: Any, result: Any, state: str, traceback: Any, request: Any
    ) -> bytes:
        """The record as Celery's key-value backends encode it (celery-facts#guarded-write)."""
        attempt = attempt_of(request, task_id) if state == "PROGRESS" and own_write.get() else None
        if attempt is not None and attempt.meta_template is not None:
            meta = attempt.meta_template | {
                "result": result,
                "children": self.current_task_children(request),
            }
        else:
            meta = self._get_result_meta(
                result=result, state=state, traceback=traceback, request=request
            )
            if attempt is not None:
                attempt.meta_template = meta
        meta["task_id"] = str(task_id)
        raw = self.encode(meta)
        if isinstance(raw, str) and len(raw) > getattr(self, "_MAX_STR_VALUE_SIZE", len(raw)):
            raise BackendStoreError(
                "value too large for Redis backend", state=state, task_id=task_id
            )
        return bytes(ensure_bytes(raw))  # type: ignore[no-untyped-call]

    def __reduce__(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the backend without the fence: a reader that unpickles it may not have Headway."""
        reduced: Any = super().__reduce__(*args, **kwargs)
        revive, (cls, *rest) = reduced
        return revive, (cls.__mro__[2] if issubclass(cls, FencedBackendMixin) else cls, *rest)


def _write(
    backend: Any, store: Store, attempt: Attempt | None, write: StateWrite, *, full_timeout: bool
) -> bool:
    """Open the attempt if needed, and let the store decide. Returns whether it accepted the write.

    Passes on a cancel request in the reply, so that reports need no extra read.
    """
    if attempt is None:
        return bool(store.write(write, full_timeout=full_timeout))
    attempt.open(backend, full_timeout=full_timeout, retry_published=write.state == "RETRY")
    if write.attempt != attempt.number:
        write = replace(write, attempt=attempt.number)
    written = store.write(write, full_timeout=full_timeout)
    attempt.cancel_token.set_requested(written.cancel_requested)
    return bool(written)


def _json_safe_meta(state: str, result: Any) -> dict[str, Any] | None:
    """The progress in a meta as JSON-safe data; our own reports already are."""
    if state in CLOSING_STATES or state == "STARTED":
        return None
    if own_write.get():
        return cast("dict[str, Any]", result)
    progress = progress_from_meta(state, result)
    if progress is None:
        return None
    attributes = None if progress.attributes is None else dict(progress.attributes)
    report = progress.current, progress.total, progress.message, attributes
    return to_meta(report, None if progress.timestamp is None else progress.timestamp.timestamp())
