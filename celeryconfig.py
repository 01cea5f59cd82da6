"""How the service's Celery is set up. Broker and result backend come from the environment; ``make
demo`` brings its own.

Where only one of the two is set, it serves as both if it can (Redis or Valkey can, RabbitMQ keeps
no results).
"""

from __future__ import annotations

import os

_DEFAULT = "redis://127.0.0.1:6379/0"
_STORES = ("redis", "rediss", "redis+socket", "sentinel", "valkey", "valkeys")


def urls(other: str) -> tuple[str, str]:
    """Broker and result backend: what the environment says, else the one for both where it can be
    both, else ``other``.
    """
    broker = os.environ.get("CELERY_BROKER_URL") or ""
    backend = os.environ.get("CELERY_RESULT_BACKEND") or ""
    spare = next((url for url in (broker, backend) if url.split("://", 1)[0] in _STORES), other)
    return broker or spare, backend or spare


broker_url, result_backend = urls(_DEFAULT)

imports = ("tasks",)

# JSON and nothing else: whoever can write to the broker or the backend must not be able to run code
# in a worker or the web process by it.
task_serializer = result_serializer = "json"
accept_content = result_accept_content = ["json"]

timezone = "UTC"
task_track_started = True  # STARTED is when a waiting person is told that it begins
result_expires = (
    24 * 3600
)  # seconds; the registry remembers a week longer, so that "expired" and "never there" differ

# A job of a worker that died is delivered again (each of the five may run twice: they read, or
# write the same rows once more), and the page sees attempt 2. A job whose own process was killed
# (out of memory, most likely) isn't: it would kill the next too.
task_acks_late = True
task_reject_on_worker_lost = False

# Nothing here takes ten minutes. The limits lie below the visibility timeout, so that no running
# job is delivered a second time.
task_soft_time_limit = 600
task_time_limit = 660
broker_transport_options = {"visibility_timeout": 900}
# "stop" and "cancel" must reach a job that waits: with late acks a worker that reserves four more
# would hold them back.
worker_prefetch_multiplier = 1
# Enough to see the five jobs side by side on any machine.
worker_concurrency = int(os.environ.get("CELERY_WORKER_CONCURRENCY") or max(5, os.cpu_count() or 1))

broker_connection_retry_on_startup = True
# A job goes on while the broker is away. It may be delivered once more afterwards: then the newer
# attempt counts, and what the older one still says is refused.
worker_cancel_long_running_tasks_on_connection_loss = False
worker_send_task_events = False
worker_hijack_root_logger = True
