"""Asking a Headway server from Python: ``pip install 'celery-headway[client]'``.

::

    with headway.Client("https://jobs.example.com", token="...") as client:
        for event in client.watch(execution_id):
            print(event)

Needs neither Celery's configuration nor its broker: only the server's address.
"""

try:
    import requests  # noqa: F401  (only to say what to install where it is missing)
    import websockets  # noqa: F401
except ImportError as exc:
    raise ImportError(
        "The client needs more than a worker does: pip install 'celery-headway[client]'"
    ) from exc

from headway.client.client import Client
from headway.core.events import (
    AnyEvent,
    Cancelled,
    Completed,
    Event,
    Failed,
    Interrupted,
    ProgressReported,
    Started,
    StatusChanged,
)

__all__ = [
    "AnyEvent",
    "Cancelled",
    "Client",
    "Completed",
    "Event",
    "Failed",
    "Interrupted",
    "ProgressReported",
    "Started",
    "StatusChanged",
]
