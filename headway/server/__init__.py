"""The Flask extension: REST, WebSocket and server-sent events over what the workers report. Needs
``celery-headway[web]``.
"""

from headway.server.auth import Action, Identity
from headway.server.extension import Headway
from headway.server.settings import Settings

__all__ = ["Action", "Headway", "Identity", "Settings"]
