"""The service's Celery application: ``celery -A app worker``.

Its settings are in ``celeryconfig.py``, its jobs in ``tasks``.
"""

from celery import Celery

import headway

celery = Celery("headway_service")
celery.config_from_object("celeryconfig")
headway.install(celery)
