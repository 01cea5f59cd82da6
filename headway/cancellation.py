"""Cancelling executions, from Python and for the HTTP API.

The request is stored, and the attempt finds it there (``worker/cancel_token.py``), now or later: a
queued task needs no worker that listens now, and a redelivered message does not run again. Celery's
own ``revoke`` is also broadcast to the workers, but only in these cases:

* a waiting task (queued, or before a retry) is dropped by the worker that holds it. One that waits
  for a retry is cancelled at once, since nothing of it runs. A queued one is not: a worker without
  Headway may get it, and would run it;
* ``terminate`` kills the process or greenlet that runs it;
* a running task is not revoked otherwise: up to 5.6, a worker that receives a revoke stores REVOKED
  while the task continues (celery-facts#revoke-does-not-stop-a-running-task).
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

from kombu.exceptions import OperationalError

from headway.core.registry import READY_STATES
from headway.core.states import resolve
from headway.errors import ExecutionConflict, ExecutionNotFound, Unavailable
from headway.models import Execution
from headway.stores.base import Store

logger = logging.getLogger(__name__)

#: Seconds for each step of a connection to the broker.
BROKER_TIMEOUT = 2.0
#: One immediate reconnect, without a pause: ``app.control.revoke`` retries for ever while the
#: broker is unavailable.
RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}


def request_cancel(
    app: Any,
    store: Store,
    execution_id: str,
    *,
    terminate: bool,
    timeout: float = BROKER_TIMEOUT,
    at: datetime | None = None,
) -> Execution:
    """Request the cancellation of an execution and return its new state. Raises like `cancel`.

    ``timeout``: seconds for each step of the connection to the broker. ``at``: the time of the
    request, by default now.
    """
    at = at if at is not None else datetime.now(UTC)
    # The registry does not know an end that only the result backend has (from a worker without
    # Headway). It would store the request, and apply it to the next attempt of the id.
    _check_open(resolve(store.read([execution_id])[0], at))
    snapshot = store.request_cancel(execution_id, at)
    if snapshot is None:
        raise ExecutionNotFound(execution_id)
    execution, record = resolve(snapshot, at), snapshot.record
    if record is not None and record.state in READY_STATES and record.cancel_requested_at == at:
        # It ended between the request and the read.
        return execution
    _check_open(execution)
    running = record is not None and record.is_open
    # It waits for its retry, and its worker has Headway: no further attempt will start. The request
    # was stored first, so an attempt that starts right now sees it, and then confirms it.
    waits = record is not None and record.state == "RETRY" and not running
    over = waits and store.revoke(execution_id, "cancelled", at)
    if over:
        execution = resolve(store.read([execution_id])[0], at)
    if terminate and not over:
        broadcast_revoke(app, execution_id, terminate=True, timeout=timeout)
    elif not running:
        try:
            broadcast_revoke(app, execution_id, terminate=False, timeout=timeout)
        except Unavailable as exc:
            logger.warning(
                "Could not broadcast the cancellation of %s (%s). "
                "The worker that receives the task will still see it",
                execution_id,
                exc,
            )
    return execution


def _check_open(execution: Execution) -> None:
    if execution.status.terminal:
        raise ExecutionConflict(
            f"Execution '{execution.execution_id}' is already {execution.status}"
        )


def broadcast_revoke(app: Any, task_id: str, *, terminate: bool, timeout: float) -> None:
    """Broadcast a ``revoke`` like ``app.control.revoke``, but within a bounded time.

    Raises ``Unavailable``. The message is Celery's own (``app.control.mailbox``; tested with 5.6.3
    and 5.7.0). It opens a connection each time: cancels are rare.
    """
    limits = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "read_timeout": timeout,
        "write_timeout": timeout,
    }
    mailbox = app.control.mailbox
    message = {
        "method": "revoke",
        "arguments": {"task_id": task_id, "terminate": terminate, "signal": None},
        "destination": None,
        "pattern": None,
        "matcher": None,
    }
    with app.connection_for_write(
        connect_timeout=timeout, transport_options={**limits, **RETRY_POLICY}
    ) as connection:
        try:
            connection.Producer(serializer=mailbox.serializer).publish(
                message,
                exchange=mailbox.exchange.name,
                declare=[mailbox.exchange],
                headers={"clock": mailbox.clock.forward(), "expires": 0},
                retry=True,
                retry_policy=RETRY_POLICY,
            )
        except (
            OperationalError,
            OSError,
            *connection.connection_errors,
            *connection.channel_errors,
        ) as exc:
            raise Unavailable(
                "The message broker is unavailable, so the task was not terminated"
            ) from exc


def cancel(app: Any, execution_id: str, terminate: bool = False) -> Execution:
    """Request the cancellation of an execution and return its new state.

    That is ``cancelling`` until the task confirms it, or ``cancelled`` if it waited for a retry.

    ``terminate``: kill the process or greenlet that runs it, with Celery's
    ``revoke(terminate=True)``. Nothing else ends a task that never reports and never checks
    ``ctx.cancelled``. The pools ``threads`` and ``solo`` do not support it. A second request does
    no harm, and may add ``terminate``.

    Raises ``ExecutionNotFound``, ``ExecutionExpired``, ``ExecutionConflict`` if it has ended,
    ``ConfigurationError`` if the app has no result backend that another process can read, and
    ``Unavailable``: without the result backend nothing was requested; without the broker the
    request is stored, but nothing was terminated.
    """
    from headway.backends import store_for  # noqa: PLC0415 - it imports the drivers

    app = getattr(app, "_get_current_object", lambda: app)()
    return request_cancel(app, store_for(app), execution_id, terminate=terminate)
