"""How gunicorn runs `standalone`: loaded by its path, so that nothing of Celery, Redis or Headway is imported before gevent has
patched the standard library (web fact 23). The same as the service's own ``gunicorn.conf.py``, which has the reasons.
"""

worker_class = "gevent"
worker_connections = 2000
graceful_timeout = 5
control_socket_disable = True
preload_app = False
