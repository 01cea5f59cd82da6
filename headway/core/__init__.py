"""The pure core: no Celery, Redis, Flask, socket or clock of its own. What needs the time is given
it.
"""
