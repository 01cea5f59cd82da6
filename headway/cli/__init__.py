"""The command line: ``celery -A proj headway CMD``, and ``headway --url URL CMD``.

Imported by every ``celery`` command, a worker's too (it is a plug-in of Celery's): what a command
needs is imported when it runs.
"""
