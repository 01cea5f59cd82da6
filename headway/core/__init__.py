"""The pure core: no Celery, Redis, Flask, sockets or clock. Callers pass the time in."""
