"""Headway: live progress for Celery.

In the Celery app::

    import headway
    headway.install(celery_app)

In a task::

    ctx = headway.RequestContext.get()
    ctx.progress.update(current, total, message, attributes)

In the Flask app::

    from headway.server import Headway
    Headway(flask_app, celery=celery_app)

In any program::

    with headway.Client("http://127.0.0.1:8000") as client:
        outputs = client.wait(execution_id)
"""

from typing import TYPE_CHECKING, Any

from headway.cancellation import cancel
from headway.core.meta import progress_from_meta
from headway.errors import HeadwayError, UsageError
from headway.models import Execution, Failure, Phase, Progress, Status
from headway.worker.context import RequestContext
from headway.worker.exceptions import ProgressTimeout, TaskCancelled
from headway.worker.install import ProgressTask, install
from headway.worker.publishing import owned_by
from headway.worker.step import Step

if TYPE_CHECKING:
    from headway.client import Client as Client

__all__ = [
    "Execution",
    "Failure",
    "HeadwayError",
    "Phase",
    "Progress",
    "ProgressTask",
    "ProgressTimeout",
    "RequestContext",
    "Status",
    "Step",
    "TaskCancelled",
    "UsageError",
    "cancel",
    "install",
    "owned_by",
    "progress_from_meta",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``headway.Client``, made known on first use: a worker has no need of the libraries that it
    stands on.
    """
    if name == "Client":
        from headway.client import Client  # noqa: PLC0415

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
