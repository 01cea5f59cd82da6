"""How gunicorn serves ``web:create_app()``: it reads this from the working directory by itself; its
command line beats it.

Nothing of Celery, Redis or Headway is imported at the top: gevent patches the standard library in
the worker, after this file was read, and what was imported before would keep the unpatched parts
(web fact 23).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_host = os.environ.get("HOST") or "127.0.0.1"
bind = f"{f'[{_host}]' if ':' in _host else _host}:{os.environ.get('PORT') or '8000'}"

worker_class = "gevent"
# Above Headway's own limit of viewers: beyond this number gunicorn doesn't even accept, and a
# client hangs with no reason given (web fact 13). Headway stays below it and says "too many" in
# words.
worker_connections = 2000
# Streams are told to come back elsewhere (1012) at once; this is for what doesn't listen (web fact
# 12).
graceful_timeout = 5
# The default one is shared by all servers of a user (web fact 23).
control_socket_disable = True
# Locks and threads are made in the worker that uses them (web fact 22).
preload_app = False

accesslog = "-" if os.environ.get("HEADWAY_ACCESS_LOG") else None


def post_worker_init(worker: Any) -> None:
    """Ctrl-C ends as TERM does. gunicorn's own way out is sys.exit in a greenlet: 0.1 s later, with
    a traceback (web fact 12).
    """
    check_sockets(worker)
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, worker.handle_exit)


def check_sockets(worker: Any) -> None:
    """Refuse to serve beyond this machine without tokens, before the first request is taken.

    Here and not in the master: see above. By the sockets that it really listens on: an address on
    the command line, a descriptor that was handed over (``fd://3``) and systemd's are none of what
    is set here.
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
            sys.exit(4)  # gunicorn's APP_LOAD_ERROR: the master ends too, and doesn't try again
