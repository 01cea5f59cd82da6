"""How gunicorn serves ``web:create_app()``. gunicorn reads this file from the working directory.
Its command line overrides it.

Nothing of Celery, Redis or Headway is imported at the top: gevent patches the standard library in
the worker, after it has read this file. Modules that are imported before keep the unpatched parts
(web-facts#gunicorn-gevent-extra).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_host = os.environ.get("HOST") or "127.0.0.1"
bind = f"{f'[{_host}]' if ':' in _host else _host}:{os.environ.get('PORT') or '8000'}"

worker_class = "gevent"
# Above Headway's own limit of viewers. Beyond this number gunicorn stops accepting, and a client
# hangs without an error. Headway's limit comes first and returns "too many requests"
# (web-facts#one-budget-for-all-streams).
worker_connections = 2000
# Headway closes streams with 1012 at once. This limit is for connections that don't close
# (web-facts#sigterm-waits-for-streams).
graceful_timeout = 5
# All servers of a user share the default socket (web-facts#gunicorn-gevent-extra).
control_socket_disable = True
# Locks and threads must be made in the worker that uses them (web-facts#no-locks-before-fork).
preload_app = False

accesslog = "-" if os.environ.get("HEADWAY_ACCESS_LOG") else None


def post_worker_init(worker: Any) -> None:
    """Check the sockets, and handle Ctrl-C like SIGTERM. gunicorn calls ``sys.exit`` in a greenlet
    0.1 s later, which prints a traceback (web-facts#sigterm-waits-for-streams).
    """
    check_sockets(worker)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, worker.handle_exit)


def check_sockets(worker: Any) -> None:
    """Exit before the first request if the server is reachable from other machines without tokens.

    In the worker and not in the master, because of the imports (see above). Checks the real
    sockets, because the command line, an inherited descriptor (``fd://3``) and systemd override
    ``bind``.
    """
    from headway.errors import ConfigurationError  # noqa: PLC0415
    from headway.server.auth import check_bind  # noqa: PLC0415

    for listener in worker.sockets:
        address = listener.getsockname()
        host = address[0] if isinstance(address, tuple) else "unix:"
        try:
            check_bind(host, os.environ.get("HEADWAY_TOKENS"))
        except ConfigurationError as exc:
            worker.log.error("%s", exc)
            sys.exit(4)  # gunicorn's APP_LOAD_ERROR: the master exits too, and starts no new worker
