"""How gunicorn runs `standalone`: loaded by its path, so that nothing of Celery, Redis or Headway
is imported before gevent has patched the standard library (web fact 23). The same as the service's
own ``gunicorn.conf.py``, which has the reasons.
"""

from __future__ import annotations

import signal
from typing import Any

worker_class = "gevent"
worker_connections = 2000
graceful_timeout = 5
control_socket_disable = True
preload_app = False


def post_worker_init(worker: Any) -> None:
    """Ctrl-C ends as TERM does: streams are told, and the terminal isn't.

    gunicorn's own way out is ``sys.exit`` in a greenlet, 0.1 s later and with a traceback (web fact
    12).
    """
    for number in (
        signal.SIGINT,
        signal.SIGQUIT,
    ):  # the terminal's, and what gunicorn's master makes of it
        signal.signal(number, worker.handle_exit)
