"""The service's Celery settings. Broker and result backend come from the environment. ``make demo``
starts its own.

If only one of the two is set, the same server is used for both if it can be (Redis and Valkey can,
RabbitMQ stores no results).
"""

from __future__ import annotations

import os

_DEFAULT = "redis://127.0.0.1:6379/0"
_SERVES_AS_BOTH = ("redis", "rediss", "redis+socket", "sentinel", "valkey", "valkeys")


def urls(other: str) -> tuple[str, str]:
    """Broker and result backend: from the environment, else the same server for both if it can be,
    else ``other``.
    """
    broker = os.environ.get("CELERY_BROKER_URL") or ""
    backend = os.environ.get("CELERY_RESULT_BACKEND") or ""
    shared = next(
        (url for url in (broker, backend) if url.split("://", 1)[0] in _SERVES_AS_BOTH), other
    )
    return broker or shared, backend or shared


broker_url, result_backend = urls(_DEFAULT)

imports = ("tasks",)

# Only JSON: write access to the broker or the backend must not allow running code in a worker or in
# the web process.
task_serializer = result_serializer = "json"
accept_content = result_accept_content = ["json"]

timezone = "UTC"
task_track_started = True  # viewers see at once that a task has started
# In seconds. The registry keeps its records a week longer, so that "expired" and "never existed"
# differ.
result_expires = 24 * 3600

# A job of a dead worker is delivered again, and the page shows attempt 2. All five jobs may run
# twice: they only read, or write the same rows again. A job whose own process was killed (probably
# out of memory) is not delivered again: it would kill the next process too.
task_acks_late = True
task_reject_on_worker_lost = False

# No job takes ten minutes. The limits are below the visibility timeout, so that no running job is
# delivered a second time.
task_soft_time_limit = 600
task_time_limit = 660
broker_transport_options = {"visibility_timeout": 900}
# "stop" and "cancel" must reach a waiting job. With late acks a worker would reserve four more jobs
# and hold them back.
worker_prefetch_multiplier = 1
# Enough to see all five jobs side by side.
worker_concurrency = int(os.environ.get("CELERY_WORKER_CONCURRENCY") or max(5, os.cpu_count() or 1))

broker_connection_retry_on_startup = True
# A job continues while the broker is unavailable. It may be delivered again afterwards: then the
# newer attempt counts, and writes of the older one are refused.
worker_cancel_long_running_tasks_on_connection_loss = False
worker_send_task_events = False
worker_hijack_root_logger = True
