"""Asking for the end of an execution, from Python and for the HTTP API alike.

The wish is noted in the store, which is where a run learns of it (``worker/cancel.py``), now or
later: a queued task needs no worker that listens now, and a message that is delivered once more
doesn't run again. Celery's own ``revoke`` is told to the workers as well, but only where it says no
more than that:

* a task that waits (queued, or for a retry) is dropped by the worker that holds it. One that waits
  for a retry is cancelled at once, since nothing of it runs. A queued one is not: a worker without
  Headway may get it, and would run it;
* ``terminate`` kills the process or greenlet that runs it;
* a task that runs isn't revoked otherwise: up to 5.6 a worker that merely hears of it stores
  REVOKED, and the task goes on (celery-facts#revoke-does-not-stop-a-running-task).
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
#: One reconnect at once, and no waiting: ``app.control.revoke`` itself tries for ever where the
#: broker is away.
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
    """Ask for the end of an execution; returns what it is then. Raises as ``headway.cancel`` does.

    ``timeout``: seconds for each step of the connection to the broker; ``at``: the time of the
    wish, now unless given.
    """
    at = at if at is not None else datetime.now(UTC)
    # An end that only the result backend knows (a worker without Headway) is none to the registry,
    # which would note the wish and hold it against the next run of the id.
    _check_open(resolve(store.read([execution_id])[0], at))
    snapshot = store.request_cancel(execution_id, at)
    if snapshot is None:
        raise ExecutionNotFound(execution_id)
    execution, record = resolve(snapshot, at), snapshot.record
    if record is not None and record.state in READY_STATES and record.cancel_requested_at == at:
        # it went on until this very wish was noted, and was done with it before it was read again
        return execution
    _check_open(execution)
    runs = record is not None and record.is_open
    # It waits for its retry, and its worker has Headway: no run of it will open any more. The wish
    # came first, so that one which opens just now hears of it, and is then the one to confirm.
    waits = record is not None and record.state == "RETRY" and not runs
    over = waits and store.revoke(execution_id, "cancelled", at)
    if over:
        execution = resolve(store.read([execution_id])[0], at)
    if terminate and not over:
        broadcast_revoke(app, execution_id, terminate=True, timeout=timeout)
    elif not runs:
        try:
            broadcast_revoke(app, execution_id, terminate=False, timeout=timeout)
        except Unavailable as exc:
            logger.warning(
                "The workers weren't told that %s is cancelled; whoever gets it will know: %s",
                execution_id,
                exc,
            )
    return execution


def _check_open(execution: Execution) -> None:
    if execution.status.terminal:
        raise ExecutionConflict(
            f"Execution '{execution.execution_id}' is {execution.status} already; there is nothing left to cancel"
        )


def broadcast_revoke(app: Any, task_id: str, *, terminate: bool, timeout: float) -> None:
    """Broadcast a ``revoke``, as ``app.control.revoke`` does, but within a bounded time; raises
    ``Unavailable``.

    The message is Celery's own (``app.control.mailbox``; proved on 5.6.3 and 5.7.0). A connection
    for each: it happens at the pace of people.
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
                "The message broker can't be reached, so that no worker was told to end it"
            ) from exc
