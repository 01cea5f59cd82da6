"""What `doctor` looks for: traps of Celery's that a project's configuration falls into. Facts:
``docs/celery-facts.md``.

Each check is a function of the app that yields what it found. None of them changes anything.
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

#: Seconds after which Redis gives an unacknowledged message to somebody else, unless told
#: otherwise; and SQS.
VISIBILITY = {
    "redis": 3600.0,
    "rediss": 3600.0,
    "sentinel": 3600.0,
    "valkey": 3600.0,
    "sqs": 1800.0,
}
#: Seconds that a result should stay for somebody to come and look.
SHORT = 3600.0
#: Seconds that two clocks may differ.
SKEW = 2.0
#: Seconds for the broker to answer.
BROKER_TIMEOUT = 2.0


class Severity(StrEnum):
    """How bad it is. A note is no fault: exit status 0."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One trap, and the way out of it."""

    #: For ``--ignore``.
    name: str
    severity: Severity
    problem: str
    cure: str


Check = Callable[[Any], Iterator[Finding]]


def run(app: Any, ignored: Sequence[str] = ()) -> list[Finding]:
    """All that is found in an app, its tasks loaded; the worst first."""
    order = list(Severity)
    found = [finding for check in CHECKS for finding in check(app) if finding.name not in ignored]
    return sorted(found, key=lambda finding: order.index(finding.severity))


def imports(app: Any) -> Iterator[Finding]:
    """Whether the tasks can be loaded: those that can't are looked at by no other check."""
    try:
        app.loader.import_default_modules()
        app.finalize()
    except Exception as exc:  # noqa: BLE001  (somebody's modules are imported: they may raise anything)
        problem = f"the project's tasks can't be imported: {type(exc).__name__}: {exc}"
        yield Finding(
            "imports", Severity.ERROR, problem, "mend the module, or the setting imports (include)"
        )


def installed(app: Any) -> Iterator[Finding]:
    """Headway itself."""
    if app_state_of(app) is None:
        problem = "Headway is not installed on this app: queued and unknown ids look the same, and a late write un-ends a task"
        yield Finding(
            "not-installed",
            Severity.ERROR,
            problem,
            "call headway.install(app) where the app is made",
        )
        if not app.conf.task_track_started:
            problem = "task_track_started is off: without Headway a task that reports nothing looks queued while it runs"
            yield Finding(
                "track-started",
                Severity.WARNING,
                problem,
                "set task_track_started = True, or install Headway",
            )
        return
    bare = [name for name, task in _tasks(app) if not isinstance(task, ProgressTask)]
    if bare:
        problem = f"headway.install could not cover {_names(bare)}: the worker's log says why"
        yield Finding(
            "not-covered", Severity.WARNING, problem, "give them base=headway.ProgressTask"
        )


def result_backend(app: Any) -> Iterator[Finding]:
    """Whether another process could read results at all (facts 19, 20), and how well."""
    try:
        check_readable(app)
    except ConfigurationError as exc:
        problem, _, cure = str(exc).partition(". ")
        yield Finding("result-backend", Severity.ERROR, problem, cure or "see docs/backends.md")
        return
    store = store_for(app)
    if not store.keeps_results:
        problem = "this result backend can't check and write in one step: it is polled, and its fence is weaker"
        yield Finding(
            "weak-fence",
            Severity.NOTE,
            problem,
            "use Redis or Valkey as result_backend (docs/backends.md)",
        )


def serializers(app: Any) -> Iterator[Finding]:
    """Fact 19: whoever can write to the broker or the backend may run code in whoever reads."""
    for setting, where in (
        ("accept_content", "broker"),
        ("result_accept_content", "result backend"),
    ):
        accepted = {str(each) for each in getattr(app.conf, setting) or ()}
        if accepted & {"pickle", "application/x-python-serialize"}:
            problem = f"{setting} has pickle: whoever can write to the {where} can run code in what reads from it"
            yield Finding(
                "pickle", Severity.WARNING, problem, f"take it out of {setting}, and use json"
            )


def results(app: Any) -> Iterator[Finding]:
    """What is kept of an end, and for how long (facts 7, 10, 15)."""
    conf = app.conf
    if conf.task_ignore_result:
        problem = "task_ignore_result is on: an execution's end is known, but neither what it returned nor why it failed"
        yield Finding(
            "ignore-result", Severity.WARNING, problem, "turn it off, or on for single tasks only"
        )
    else:
        ignoring = [name for name, task in _tasks(app) if task.ignore_result]
        if ignoring:
            problem = f"{_names(ignoring)} ignore their results: neither what they returned nor why they failed is kept"
            yield Finding(
                "ignore-result",
                Severity.NOTE,
                problem,
                "ignore_result=False where somebody wants to know",
            )
    if conf.result_extended:
        problem = "result_extended is on: a task's arguments are stored again at every update_state of its own"
        yield Finding(
            "result-extended",
            Severity.WARNING,
            problem,
            "turn it off, or report by ctx.progress.update, which leaves them out",
        )
    expires = conf.result_expires
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else float(expires or 0)
    if not seconds:
        problem = (
            "result_expires is off: results are kept for ever, and the result backend fills up"
        )
        yield Finding(
            "result-expires",
            Severity.WARNING,
            problem,
            "set it to as long as somebody may ask, such as 86400",
        )
    elif seconds < SHORT:
        problem = f"result_expires is {seconds:g} s: a job that is silent for longer, or that ended so long ago, is gone (410)"
        yield Finding(
            "result-expires",
            Severity.WARNING,
            problem,
            "set it to an hour or more; a day is Celery's default",
        )


def delivery(app: Any) -> Iterator[Finding]:
    """What runs twice (fact 13), and what doesn't run at all."""
    conf = app.conf
    if conf.task_always_eager:
        problem = "task_always_eager is on: tasks run where they are called, and nothing of them is stored (fact 6)"
        yield Finding(
            "always-eager",
            Severity.ERROR,
            problem,
            "turn it off; in tests, use a worker or the fakes",
        )
    scheme = str(conf.broker_url or "").split("://", 1)[0].split("+")[0]
    default = VISIBILITY.get(scheme)
    if default is None:
        return
    given = (conf.broker_transport_options or {}).get("visibility_timeout", default)
    late = [
        name
        for name, task in _tasks(app)
        if task.acks_late and not 0 < (task.time_limit or conf.task_time_limit or 0) < given
    ]
    if late:
        problem = f"acks_late without a time limit below the visibility timeout, {given:g} s: {_names(late)} may run twice"
        cure = "set task_time_limit below it, or visibility_timeout in broker_transport_options above the longest run"
        yield Finding("visibility-timeout", Severity.WARNING, problem, cure)
    if "visibility_timeout" not in (conf.broker_transport_options or {}):
        problem = f"a countdown, eta or retry of more than {given:g} s (the broker's visibility timeout) is delivered twice"
        yield Finding(
            "long-eta",
            Severity.NOTE,
            problem,
            "set visibility_timeout in broker_transport_options above the longest",
        )


def events(app: Any) -> Iterator[Finding]:
    """Celery's own monitoring."""
    on = [
        name
        for name in ("worker_send_task_events", "task_send_sent_event")
        if getattr(app.conf, name)
    ]
    if on:
        problem = f"{' and '.join(on)} {'is' if len(on) == 1 else 'are'} on: messages for each task, which Headway has no need of"
        yield Finding(
            "task-events", Severity.NOTE, problem, "leave it to Flower and the like, or turn it off"
        )


def broker(app: Any) -> Iterator[Finding]:
    """Whether it is there."""
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
    except Exception as exc:  # noqa: BLE001  (whatever the transport raises, its driver missing included)
        problem = f"the broker {without_password(str(app.conf.broker_url))!r} can't be reached: {type(exc).__name__}"
        yield Finding("broker-away", Severity.ERROR, problem, "start it, or mend broker_url")


def backend_server(app: Any) -> Iterator[Finding]:
    """The server behind the result backend: whether it is there, what it throws away, and what time
    it thinks it is.
    """
    try:
        check_readable(app)
        store = store_for(app)
    except ConfigurationError:
        return  # `result_backend` has said so
    url = without_password(str(app.conf.result_backend))
    try:
        store.ping()
        if store.publishes:
            yield from _redis(app, url)
    except Unavailable as exc:
        problem = f"{exc}: {url!r} ({type(exc.__cause__).__name__})"
        yield Finding("backend-away", Severity.ERROR, problem, "start it, or mend result_backend")


def _redis(app: Any, url: str) -> Iterator[Finding]:
    from headway.stores.redis_connection import connect, translate_errors  # noqa: PLC0415  (redis-py, where that is the backend)

    with translate_errors(), connect(ResultBackend(app).backend) as client:
        policy, limit = (
            client.info("memory").get(key) for key in ("maxmemory_policy", "maxmemory")
        )
        before = time.time()
        seconds, to_micros = client.time()
        after = time.time()
    if limit and isinstance(policy, str) and policy != "noeviction":
        # volatile-* too: whatever Celery and Headway keep there has a time to live.
        problem = f"{url!r} may throw away results and queued messages when its memory is full (maxmemory-policy {policy})"
        severity = Severity.ERROR if policy.startswith("allkeys") else Severity.WARNING
        yield Finding(
            "eviction",
            severity,
            problem,
            "set maxmemory-policy noeviction, and a cache on a server of its own",
        )
    skew = seconds + to_micros / 1e6 - (before + after) / 2
    # The server looked at its clock at some moment in between: what took long proves no more than
    # it took.
    if abs(skew) - (after - before) / 2 > SKEW:
        side = "ahead of" if skew > 0 else "behind"
        problem = f"the clock of {url!r} is {abs(skew):.0f} s {side} this machine's, and ages are wrong by so much"
        yield Finding("clock-skew", Severity.WARNING, problem, "let NTP set both clocks")


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
    imports,
    installed,
    result_backend,
    serializers,
    results,
    delivery,
    events,
    broker,
    backend_server,
)
