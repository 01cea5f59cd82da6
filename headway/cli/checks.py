"""The checks of `doctor`: Celery settings that lead to wrong or missing progress.

Each check is a function that takes the app and yields findings. It changes nothing. The facts
behind the checks are in ``docs/celery-facts.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from headway.backends import store_for
from headway.errors import ConfigurationError, Unavailable
from headway.stores.result_backend import ResultBackend, check_readable, without_password
from headway.worker.app_state import app_state_of
from headway.worker.install import ProgressTask
from headway.worker.publishing import INTERNAL_TASKS

#: Default visibility timeouts of the transports, seconds: an unacknowledged message is then
#: delivered again.
VISIBILITY_TIMEOUTS = {
    "redis": 3600.0,
    "rediss": 3600.0,
    "sentinel": 3600.0,
    "valkey": 3600.0,
    "sqs": 1800.0,
}
#: A shorter ``result_expires`` is reported, seconds: users may look at a result later than that.
MIN_EXPIRES = 3600.0
#: Accepted difference of two clocks, seconds.
MAX_CLOCK_SKEW = 2.0
#: Seconds for the broker to respond.
BROKER_TIMEOUT = 2.0


class Severity(StrEnum):
    """Notes alone lead to exit status 0."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem and how to fix it."""

    #: For ``--ignore``.
    name: str
    severity: Severity
    problem: str
    fix: str


Check = Callable[[Any], Iterator[Finding]]


def run_checks(app: Any, ignored: Sequence[str] = ()) -> list[Finding]:
    """All findings of an app, the most severe first. Loads the app's tasks."""
    order = list(Severity)
    found = [finding for check in CHECKS for finding in check(app) if finding.name not in ignored]
    return sorted(found, key=lambda finding: order.index(finding.severity))


def check_imports(app: Any) -> Iterator[Finding]:
    """Whether the tasks can be imported. The other checks don't see tasks that can't."""
    try:
        app.loader.import_default_modules()
        app.finalize()
    except Exception as exc:  # noqa: BLE001  (the project's modules may raise any exception)
        yield Finding(
            "imports",
            Severity.ERROR,
            f"the project's tasks can't be imported: {type(exc).__name__}: {exc}",
            "fix the module, or the setting imports (include)",
        )


def check_installation(app: Any) -> Iterator[Finding]:
    """Whether Headway is installed and covers all tasks."""
    if app_state_of(app) is None:
        yield Finding(
            "not-installed",
            Severity.ERROR,
            "Headway is not installed on this app: queued and unknown ids look the same, and a "
            "late write can replace a final state",
            "call headway.install(app) where the app is created",
        )
        if not app.conf.task_track_started:
            yield Finding(
                "track-started",
                Severity.WARNING,
                "task_track_started is off: without Headway, a running task that reports nothing "
                "looks queued",
                "set task_track_started = True, or install Headway",
            )
        return
    uncovered = [name for name, task in _tasks(app) if not isinstance(task, ProgressTask)]
    if uncovered:
        yield Finding(
            "not-covered",
            Severity.WARNING,
            f"headway.install could not cover {_names(uncovered)}: the worker's log has the reason",
            "give them base=headway.ProgressTask",
        )


def check_result_backend(app: Any) -> Iterator[Finding]:
    """Whether other processes can read results safely, and whether writes are atomic
    (celery-facts#rpc-results-are-private, celery-facts#pickle-results-run-code).
    """
    try:
        check_readable(app)
    except ConfigurationError as exc:
        problem, _, fix = str(exc).partition(". ")
        yield Finding("result-backend", Severity.ERROR, problem, fix or "see docs/backends.md")
        return
    store = store_for(app)
    if not store.keeps_results:
        yield Finding(
            "weak-fence",
            Severity.NOTE,
            "this result backend has no atomic check-and-write: Headway polls it, and its fence "
            "is weaker",
            "use Redis or Valkey as result_backend (docs/backends.md)",
        )


def check_serializers(app: Any) -> Iterator[Finding]:
    """Whether pickle is accepted: a writer to the broker or the backend could then run code in the
    readers (celery-facts#pickle-results-run-code).
    """
    for setting, where in (
        ("accept_content", "broker"),
        ("result_accept_content", "result backend"),
    ):
        accepted = {str(each) for each in getattr(app.conf, setting) or ()}
        if accepted & {"pickle", "application/x-python-serialize"}:
            yield Finding(
                "pickle",
                Severity.WARNING,
                f"{setting} allows pickle: anyone who can write to the {where} can run code in "
                "its readers",
                f"remove it from {setting}, and use json",
            )


def check_results(app: Any) -> Iterator[Finding]:
    """What is stored of a result, and for how long (celery-facts#ignored-results-have-no-end,
    celery-facts#extended-results-repeat-arguments, celery-facts#expiry-restarts-at-each-write).
    """
    conf = app.conf
    if conf.task_ignore_result:
        yield Finding(
            "ignore-result",
            Severity.WARNING,
            "task_ignore_result is on: Headway shows that an execution has ended, but neither its "
            "result nor its error",
            "turn it off, or set ignore_result on single tasks only",
        )
    else:
        ignoring = [name for name, task in _tasks(app) if task.ignore_result]
        if ignoring:
            yield Finding(
                "ignore-result",
                Severity.NOTE,
                f"{_names(ignoring)} ignore their results: neither result nor error is stored",
                "set ignore_result=False on tasks whose result or error is needed",
            )
    if conf.result_extended:
        yield Finding(
            "result-extended",
            Severity.WARNING,
            "result_extended is on: each update_state of a task stores its arguments again",
            "turn it off, or report with ctx.progress.update, which leaves them out",
        )
    expires = conf.result_expires
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else float(expires or 0)
    if not seconds:
        yield Finding(
            "result-expires",
            Severity.WARNING,
            "result_expires is off: results are kept forever, and the result backend fills up",
            "set it to the time that results are needed, such as 86400",
        )
    elif seconds < MIN_EXPIRES:
        yield Finding(
            "result-expires",
            Severity.WARNING,
            f"result_expires is {seconds:g} s: an execution that reports nothing for longer, or "
            "that ended longer ago, is gone (410)",
            "set it to an hour or more; Celery's default is a day",
        )


def check_delivery(app: Any) -> Iterator[Finding]:
    """Which tasks run twice (celery-facts#redelivery-runs-the-same-id-twice), or outside a worker
    (celery-facts#update-state-needs-a-task-id).
    """
    conf = app.conf
    if conf.task_always_eager:
        yield Finding(
            "always-eager",
            Severity.ERROR,
            "task_always_eager is on: tasks run in the calling process, and nothing is stored",
            "turn it off; in tests, use a worker or the fakes",
        )
    scheme = str(conf.broker_url or "").split("://", 1)[0].split("+")[0]
    default = VISIBILITY_TIMEOUTS.get(scheme)
    if default is None:
        return
    options = conf.broker_transport_options or {}
    timeout = options.get("visibility_timeout", default)
    late = [
        name
        for name, task in _tasks(app)
        if task.acks_late and not 0 < (task.time_limit or conf.task_time_limit or 0) < timeout
    ]
    if late:
        yield Finding(
            "visibility-timeout",
            Severity.WARNING,
            f"acks_late without a time limit below the visibility timeout of {timeout:g} s: "
            f"{_names(late)} may run twice",
            "set task_time_limit below it, or set visibility_timeout in broker_transport_options "
            "above the longest run",
        )
    if "visibility_timeout" not in options:
        yield Finding(
            "long-eta",
            Severity.NOTE,
            f"a countdown, eta or retry of more than {timeout:g} s (the broker's visibility "
            "timeout) is delivered twice",
            "set visibility_timeout in broker_transport_options above the longest delay",
        )


def check_events(app: Any) -> Iterator[Finding]:
    """Whether Celery's own monitoring is on."""
    enabled = [
        name
        for name in ("worker_send_task_events", "task_send_sent_event")
        if getattr(app.conf, name)
    ]
    if enabled:
        yield Finding(
            "task-events",
            Severity.NOTE,
            f"{' and '.join(enabled)} {'is' if len(enabled) == 1 else 'are'} on: Celery sends "
            "messages for each task that Headway does not need",
            "keep it for Flower and similar tools, or turn it off",
        )


def check_broker(app: Any) -> Iterator[Finding]:
    """Whether the broker can be reached."""
    options = {
        "socket_timeout": BROKER_TIMEOUT,
        "socket_connect_timeout": BROKER_TIMEOUT,
        "max_retries": 0,
    }
    try:
        with app.connection_for_write(
            connect_timeout=BROKER_TIMEOUT, transport_options=options
        ) as connection:
            connection.ensure_connection(
                max_retries=1, interval_start=0, interval_step=0, timeout=BROKER_TIMEOUT
            )
    except Exception as exc:  # noqa: BLE001  (each transport has its own errors; a driver may lack)
        url = without_password(str(app.conf.broker_url))
        yield Finding(
            "broker-away",
            Severity.ERROR,
            f"the broker {url!r} can't be reached: {type(exc).__name__}",
            "start it, or correct broker_url",
        )


def check_backend_server(app: Any) -> Iterator[Finding]:
    """Whether the server of the result backend can be reached; for Redis, its eviction policy and
    its clock.
    """
    try:
        check_readable(app)
        store = store_for(app)
    except ConfigurationError:
        return  # `check_result_backend` reports it
    url = without_password(str(app.conf.result_backend))
    try:
        store.ping()
        if store.publishes:
            yield from _check_redis(app, url)
    except Unavailable as exc:
        yield Finding(
            "backend-away",
            Severity.ERROR,
            f"{exc}: {url!r} ({type(exc.__cause__).__name__})",
            "start it, or correct result_backend",
        )


def _check_redis(app: Any, url: str) -> Iterator[Finding]:
    # Imported here, because redis-py may be missing with other backends.
    from headway.stores.redis_connection import connect, translate_errors  # noqa: PLC0415

    with translate_errors(), connect(ResultBackend(app).backend) as client:
        memory = client.info("memory")
        before = time.time()
        seconds, micros = client.time()
        after = time.time()
    policy, limit = memory.get("maxmemory_policy"), memory.get("maxmemory")
    if limit and isinstance(policy, str) and policy != "noeviction":
        # volatile-* is a problem, too: all keys of Celery and Headway have a time to live.
        yield Finding(
            "eviction",
            Severity.ERROR if policy.startswith("allkeys") else Severity.WARNING,
            f"{url!r} may evict results and queued messages when its memory is full "
            f"(maxmemory-policy {policy})",
            "set maxmemory-policy noeviction, and use a separate server as a cache",
        )
    skew = seconds + micros / 1e6 - (before + after) / 2
    # The server read its clock at an unknown time between `before` and `after`.
    if abs(skew) - (after - before) / 2 > MAX_CLOCK_SKEW:
        direction = "ahead of" if skew > 0 else "behind"
        yield Finding(
            "clock-skew",
            Severity.WARNING,
            f"the clock of {url!r} is {abs(skew):.0f} s {direction} this machine's, so displayed "
            "ages are wrong by that much",
            "synchronize both clocks with NTP",
        )


def _tasks(app: Any) -> list[tuple[str, Any]]:
    """The project's own tasks."""
    return sorted(
        (name, task)
        for name, task in app.tasks.items()
        if not name.startswith("celery.") and name not in INTERNAL_TASKS
    )


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


CHECKS: Sequence[Check] = (
    check_imports,
    check_installation,
    check_result_backend,
    check_serializers,
    check_results,
    check_delivery,
    check_events,
    check_broker,
    check_backend_server,
)
