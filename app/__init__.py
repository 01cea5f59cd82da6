"""The Celery application of the service: ``celery -A app worker``. Its set-up is
``celeryconfig.py``, its jobs are ``tasks``.
"""

from celery import Celery

import headway

celery = Celery("headway_service")
celery.config_from_object("celeryconfig")
headway.install(celery)
