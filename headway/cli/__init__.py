"""The command line: ``celery -A proj headway COMMAND``, and ``headway --url URL COMMAND``.

Celery loads this plug-in in every ``celery`` command, also in a worker. Therefore each command
imports what it needs when it runs.
"""
