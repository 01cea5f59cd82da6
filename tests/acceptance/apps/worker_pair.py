"""Two apps in one process, each with its own result backend. A task of the first publishes to the
second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from celery import Celery

import headway


def make_apps(env: Mapping[str, str] = os.environ) -> tuple[Celery, Celery]:
    """Both apps."""
    first = Celery(
        "first", broker=env["PAIR_BROKER"], backend=env["PAIR_ONE"], set_as_current=False
    )
    second = Celery(
        "second", broker=env["PAIR_BROKER"], backend=env["PAIR_TWO"], set_as_current=False
    )
    first.conf.update(task_default_queue="first", broker_connection_retry_on_startup=True)
    second.conf.update(task_default_queue="second", broker_connection_retry_on_startup=True)
    headway.install(first)
    headway.install(second)

    @first.task(name="first.job")
    def first_job() -> str:
        headway.RequestContext.get().progress.update(1, 1, "first")
        return str(second.send_task("second.job").id)

    @second.task(name="second.job")
    def second_job() -> str:
        headway.RequestContext.get().progress.update(1, 1, "second")
        return "second"

    return first, second


if "PAIR_BROKER" in os.environ:
    first, second = make_apps()
