"""The Flask extension: serves progress over REST, WebSocket and server-sent events.

Needs ``celery-headway[web]``.
"""

from headway.server.auth import Action, Identity
from headway.server.extension import Headway
from headway.server.settings import Settings

__all__ = ["Action", "Headway", "Identity", "Settings"]
