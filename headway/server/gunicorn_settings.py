"""How gunicorn runs `standalone`.

gunicorn loads this file by its path, so that nothing of Celery, Redis or Headway is imported before
gevent patches the standard library (web-facts#gunicorn-gevent-extra).

The service's ``gunicorn.conf.py`` has the same settings, with the reasons.
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
    """Handle Ctrl-C like SIGTERM: close the streams, without a traceback.

    gunicorn calls ``sys.exit`` in a greenlet 0.1 s later, which prints a traceback
    (web-facts#sigterm-waits-for-streams).
    """
    # SIGINT is the terminal's, SIGQUIT is sent by gunicorn's master.
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, worker.handle_exit)
