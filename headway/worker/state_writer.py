"""`StateWriter`: records what Celery does not store itself: the start of an attempt, and some ends.

`Attempt` uses it, and it uses the backend only to encode Celery's own record and, if the store does
not keep the results, to store that record.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from headway.core.registry import AttemptStart, AttemptStarted, StateWrite
from headway.stores.base import Store
from headway.worker.app_state import AppState
from headway.worker.publishing import owner_in


class StateWriter:
    """Writes the states of one request to the store. ``backend`` is the app's fenced backend."""

    __slots__ = ("_app_state", "_backend", "_request", "_store")

    def __init__(self, app_state: AppState, backend: Any, request: Any) -> None:
        assert app_state.store is not None
        self._store: Store = app_state.store
        self._app_state, self._backend, self._request = app_state, backend, request

    def start_attempt(
        self,
        delivery_id: str,
        began_at: datetime,
        *,
        store_result: bool,
        full_timeout: bool,
        retry_published: bool,
    ) -> AttemptStarted:
        """Let the store number the attempt. ``store_result``: Celery stores STARTED itself."""
        app_state, request = self._app_state, self._request
        start = AttemptStart(
            str(request.id),
            getattr(request, "task", None),
            began_at,
            retries=int(request.retries or 0),
            worker=request.hostname,
            result=self._encode(self._started_meta(), "STARTED") if self._store.publishes else None,
            store_result=store_result and self._store.keeps_results,
            heartbeat_ttl=app_state.heartbeat_ttl if app_state.sends_heartbeats else None,
            delivery_id=delivery_id,
            owner=owner_in(request.headers),
            retry_published=retry_published,
        )
        return self._store.start_attempt(start, full_timeout=full_timeout)

    def store_started(self) -> None:
        """Store STARTED in a backend that keeps the results itself."""
        self._store_plainly(self._started_meta(), "STARTED")

    def end(self, state: str, attempt: int | None, stored: tuple[str, object] | None) -> None:
        """Record an end. ``stored`` is (state, result) for Celery's own readers."""
        request = self._request
        write = StateWrite(
            str(request.id),
            state,
            datetime.now(UTC),
            attempt=attempt,
            task=getattr(request, "task", None),
            expires=seconds_of(self._backend.expires),
        )
        if stored is None:
            self._store.write(write)
            return
        stored_state, value = stored
        write = replace(write, no_result=value is None)
        result = self._backend.encode_result(value, stored_state)
        if self._store.keeps_results:
            self._store.write(replace(write, result=self._encode(result, stored_state)))
        elif self._store.write(replace(write, result_follows=True)):
            self._store_plainly(result, stored_state)

    def _started_meta(self) -> dict[str, Any]:
        """The meta that Celery stores with STARTED."""
        return {"pid": os.getpid(), "hostname": self._request.hostname}

    def _encode(self, result: Any, state: str) -> bytes:
        request = self._request
        raw: bytes = self._backend.headway_encode_meta(request.id, result, state, None, request)
        return raw

    def _store_plainly(self, result: Any, state: str) -> None:
        request = self._request
        self._backend.headway_store_plainly(request.id, result, state, None, request, {})


def seconds_of(expires: Any) -> float | None:
    """The backend's ``expires``: seconds or a timedelta, None or 0 for ever."""
    seconds = expires.total_seconds() if hasattr(expires, "total_seconds") else expires
    return float(seconds) if seconds else None
