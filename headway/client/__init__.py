"""A Python client for a Headway server: ``pip install 'celery-headway[client]'``.

::

    with headway.Client("https://jobs.example.com", token="...") as client:
        for event in client.watch(execution_id):
            print(event)

It needs only the server's address, neither Celery's configuration nor the broker.
"""

try:
    import requests  # noqa: F401  (only to name the missing extra)
    import websockets  # noqa: F401
except ImportError as exc:
    raise ImportError(
        "headway.Client needs additional packages: pip install 'celery-headway[client]'"
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
