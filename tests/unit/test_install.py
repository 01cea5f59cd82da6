"""`install`: which tasks report, what is registered, and calls at any time and more than once."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery, Task, shared_task, signals
from celery.app.registry import TaskRegistry
from celery.app.trace import build_tracer

import headway
from headway import ProgressTask, RequestContext, UsageError
from headway.core.registry import READY_STATES
from headway.core.throttle import CircuitBreaker
from headway.stores.memory import MemoryStore
from headway.worker import celery_internals
from headway.worker.app_state import app_state_of
from headway.worker.fenced_backend import FencedBackendMixin
from headway.worker.publishing import registration
from tests.unit.tracing import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def report() -> str:
    """The body of every task here."""
    RequestContext.get().progress.update(1, 2, "here")
    return "done"


def bound_report(self: Any) -> str:
    """The body of a bound task."""
    assert self.request.id == RequestContext.get().request_id
    return report()


class Plain(Task):
    """A user's own class."""

    name = "classes.plain"

    def run(self) -> str:
        return report()


class WithCall(Task):
    """A user's own base class with a `__call__`."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]


class OnBase(ProgressTask):
    """A user's own base class, derived from ours, with a `__call__`."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return ["called", super().__call__(*args, **kwargs)]


@shared_task(name="tests.shared_report")
def shared_report() -> str:
    return report()


def shapes(lab: Lab) -> dict[str, Any]:
    """A task of each kind."""
    app = lab.app
    return {
        "plain": lab.task(name="plain")(report),
        "not lazy": lab.task(name="eagerly", lazy=False)(report),
        "bound": lab.task(name="bound", bind=True)(bound_report),
        "own base": lab.task(name="own", base=type("Own", (Task,), {"abstract": True}))(report),
        "own call": lab.task(name="call", base=WithCall)(report),
        "on our base": lab.task(name="ours", base=OnBase)(report),
        "autoretry": lab.task(name="autoretry", autoretry_for=(KeyError,))(report),
        "class": app.register_task(Plain()),
        "shared": app.tasks["tests.shared_report"],
    }


def test_every_kind_of_task_reports(lab: Lab) -> None:
    """Shared, class, own base, own `__call__`, autoretry: all report, and their return values are
    unchanged.
    """
    for kind, task in shapes(lab).items():
        result = lab.run(task, kind)
        assert result == (["called", "done"] if kind in ("own call", "on our base") else "done"), (
            kind
        )
        assert lab.progress(kind).message == "here", kind
        assert (lab.record(kind).state, lab.record(kind).attempt) == ("SUCCESS", 1), kind


def test_tasks_made_before_install_report() -> None:
    """A task made and used before `install` reports. Its instance, which other code may hold, is
    the same.
    """
    with Lab(install=False) as lab:
        made = lab.task(name="early", lazy=False)(report)
        headway.install(lab.app, store=lab.store)
        assert lab.app.tasks["early"] is made
        assert isinstance(made, ProgressTask)
        assert lab.run(made, "x") == "done"
        assert lab.progress("x").message == "here"


def test_install_rebuilds_prepared_tracers() -> None:
    """An existing tracer does not call `__call__` (celery-facts#result-is-stored-after-call): it is
    built again.
    """
    with Lab(install=False) as lab:
        made = lab.task(name="prepared", lazy=False)(report)
        lab.app.finalize()
        made.__trace__ = build_tracer(made.name, made, app=lab.app)
        headway.install(lab.app, store=lab.store)
        request = {
            "id": "x",
            "task": made.name,
            "hostname": "h",
            "delivery_info": {},
            "is_eager": False,
        }
        assert made.__trace__("x", (), {}, request).retval == "done"
        assert lab.progress("x").message == "here"


def test_second_install_only_changes_the_settings(lab: Lab) -> None:
    """A second call wraps nothing twice."""
    app_state = app_state_of(lab.app)
    assert app_state is not None
    before = (lab.app.send_task, lab.app._get_backend, type(lab.app._tasks))
    headway.install(lab.app, interval=1)
    assert (lab.app.send_task, lab.app._get_backend, type(lab.app._tasks)) == before
    assert app_state_of(lab.app) is app_state
    assert (app_state.interval, app_state.store) == (1.0, lab.store)


@pytest.mark.parametrize("interval", [0, -1, True, "1", float("nan"), float("inf")])
def test_invalid_interval_raises(interval: Any) -> None:
    """The `UsageError` names the default."""
    with pytest.raises(UsageError, match=r"default is 0\.25"):
        headway.install(Celery(set_as_current=False), interval=interval)


def test_install_reads_no_configuration() -> None:
    """It may come before `config_from_object`: the store is chosen on first use."""
    app = Celery("unread", set_as_current=False)
    headway.install(app)
    assert not app.configured
    app.conf.update(broker_url="memory://", result_backend="cache+memory://")


def test_install_accepts_a_proxy() -> None:
    """`install(celery.current_app)` installs on the app behind it."""
    app = Celery("behind", set_as_current=False)

    class Proxy:
        def _get_current_object(self) -> Celery:
            return app

    headway.install(Proxy())
    assert app_state_of(app) is not None


def test_covered_task_keeps_its_names_and_pickling(lab: Lab) -> None:
    """Name, module, class name, docs and pickling are unchanged."""
    task = lab.app.register_task(Plain())
    cls = type(task)
    assert (cls.__name__, cls.__module__, cls.__doc__) == ("Plain", __name__, "A user's own class.")
    lab.app.set_current()
    assert pickle.loads(pickle.dumps(task)) is task
    assert isinstance(task, Plain)


def test_custom_registry_class_keeps_its_behaviour() -> None:
    """An app's own registry class is extended, not replaced."""

    class Counting(TaskRegistry):  # type: ignore[misc]
        taken = 0

        def __setitem__(self, name: str, task: Any) -> None:
            self.taken += 1
            super().__setitem__(name, task)

    app = Celery("counting", broker="memory://", registry_cls=Counting, set_as_current=False)
    app.registry_cls = Counting
    app._tasks = Counting(app._tasks)
    headway.install(app)
    task = app.task(name="one", lazy=False, shared=False)(report)
    assert app._tasks.taken
    assert isinstance(task, ProgressTask)


def test_internal_tasks_of_celery_are_not_covered(lab: Lab) -> None:
    """`celery.chord_unlock` retries each second during a chord: no user published it."""
    lab.app.finalize()
    assert not isinstance(lab.app.tasks["celery.chord_unlock"], ProgressTask)
    assert not isinstance(lab.app.tasks["celery.backend_cleanup"], ProgressTask)


def test_unsupported_release_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """On an unknown release, `install` uses public behaviour only, and logs what is weaker."""
    app = Celery("strange", broker="memory://", set_as_current=False)
    app._tasks = {}
    with caplog.at_level(logging.WARNING):
        headway.install(app)
    assert "report nothing" in caplog.text
    assert issubclass(app.Task, ProgressTask)


def test_task_that_cannot_be_covered_is_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A task with an incompatible class runs as before, without progress."""

    class Picky(Task):
        name = "picky"

        def __init_subclass__(cls, *, required: str) -> None:
            """Subclasses need an argument, so ours cannot be made."""

        def run(self) -> str:
            return "as before"

    task = lab.app.register_task(Picky())
    assert "Task picky cannot report progress" in caplog.text
    assert lab.run(task) == "as before"


def test_ready_states_equal_celerys() -> None:
    """The pure core repeats Celery's states, so that it does not import Celery."""
    from celery import states

    assert {*states.READY_STATES, states.IGNORED, states.REJECTED} == READY_STATES


def test_tested_versions_are_releases() -> None:
    """A new release is added when its tests have run."""
    assert celery_internals.TESTED_VERSIONS == ("5.6.3", "5.7.0")


def publish(app: Celery, name: str = "anything", **options: Any) -> str:
    """Publish over the memory transport; returns the id."""
    return str(app.send_task(name, **options).id)


def test_task_is_registered_before_its_message_is_sent(lab: Lab) -> None:
    """When the broker gets the message, the id is known
    (celery-facts#pending-means-four-things).
    """
    known: list[bool] = []

    def sent(sender: Any = None, headers: Any = None, **_: Any) -> None:
        known.append(lab.store.read([headers["id"]])[0].record is not None)

    signals.after_task_publish.connect(sent, weak=False)
    try:
        task_id = publish(lab.app, "some.task", root_id="r", parent_id="p")
    finally:
        signals.after_task_publish.disconnect(sent)
    assert known == [True]
    record = lab.record(task_id)
    assert (record.task, record.root_id, record.parent_id, record.state) == (
        "some.task",
        "r",
        "p",
        None,
    )


def test_expected_by_is_the_later_of_eta_and_expires(lab: Lab) -> None:
    """The eta or countdown, or the expiry if that is later. Unknown formats are ignored."""
    eta = datetime(2031, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    later = eta + timedelta(days=1)

    def expected_by(**options: Any) -> datetime | None:
        return lab.record(str(lab.app.send_task("any", **options).id)).expected_by

    assert expected_by() is None
    assert expected_by(eta=eta) == expected_by(eta=eta, expires=eta - timedelta(days=1)) == eta
    assert expected_by(eta=eta, expires=later) == expected_by(expires=later) == later
    counted = expected_by(countdown=86400)
    assert counted is not None
    assert counted > datetime.now(UTC) + timedelta(hours=23)
    assert registration(
        {"id": "x", "eta": "2031-05-01T12:00:00", "expires": "soon"}
    ).expected_by == datetime(2031, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize("reported", [True, False])
def test_fixed_id_with_ignored_result_runs_at_each_publication(lab: Lab, reported: bool) -> None:
    """With `ignore_result` no result expires: each publication is a new attempt, a redelivery is
    not.
    """

    @lab.task(name="nightly", ignore_result=True)
    def nightly() -> None:
        if reported:
            RequestContext.get().progress.update(1, 2)

    published: list[int] = []
    for _ in range(2):
        lab.app.send_task("nightly", task_id="x")
        for _ in range(2):
            lab.trace(nightly, "x")
            published.append(lab.record("x").attempt)
    assert published == [1, 1, 2, 2]
    assert lab.record("x").state == "SUCCESS"


def test_each_app_registers_only_its_own_messages() -> None:
    """`before_task_publish` fires for every app of the process, and does not name the app
    (celery-facts#before-task-publish-comes-first).
    """
    with Lab() as one, Lab() as two:
        bare = Celery("bare", broker="memory://", set_as_current=False)
        one_id, two_id, bare_id = publish(one.app), publish(two.app), publish(bare)
        for lab, known in ((one, one_id), (two, two_id)):
            found = [
                snapshot.record is not None
                for snapshot in lab.store.read([one_id, two_id, bare_id])
            ]
            assert found == [known == each for each in (one_id, two_id, bare_id)]


def test_outage_delays_only_the_first_publication(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first message waits for the store once, the others do not. One log entry."""
    app_state = app_state_of(lab.app)
    assert app_state is not None
    app_state.breaker = CircuitBreaker(3600, 3600)  # an outage that no test outlasts
    calls: list[Any] = []
    register = lab.store.register
    monkeypatch.setattr(
        lab.store, "register", lambda entries: (calls.append(entries), register(entries))
    )
    lab.store.away = True
    for _ in range(100):
        publish(lab.app)
    assert len(calls) == 1
    assert len([record for record in caplog.records if "unavailable" in record.message]) == 1


def test_registration_of_a_retry_keeps_the_record(lab: Lab) -> None:
    """The same id is published again: its record stays
    (celery-facts#before-task-publish-comes-first).
    """

    @lab.task(bind=True, max_retries=3, name="retrying")
    def job(self: Any) -> None:
        RequestContext.get().progress.update(1, 2)
        raise self.retry(countdown=0)

    assert lab.trace(job, "x").info.state == "RETRY"
    record = lab.record("x")
    assert (
        record.attempt,
        record.last_ended_attempt,
        record.state,
        record.progress is not None,
    ) == (
        1,
        1,
        "RETRY",
        True,
    )


def test_protocol_1_messages_are_registered() -> None:
    """Messages of protocol 1 have everything in the body."""
    app = Celery("old", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.task_protocol = 1
    store = MemoryStore()
    headway.install(app, store=store)
    assert store.read([publish(app, "old.task")])[0].record is not None
    assert registration({"id": "x", "task": "t", "taskset": "g"}).group_id == "g"


def test_every_backend_with_results_is_fenced(lab: Lab) -> None:
    """The app's backend is fenced, also if it was made before `install`. rpc and disabled backends
    are unchanged.
    """
    assert isinstance(lab.app.backend, FencedBackendMixin)
    early = Celery("early", backend="cache+memory://", set_as_current=False)
    backend = early.backend
    headway.install(early, store=MemoryStore())
    assert isinstance(backend, FencedBackendMixin)
    assert early.backend is backend
    for url in ("disabled://", "rpc://"):
        other = Celery("other", backend=url, broker="memory://", set_as_current=False)
        headway.install(other)
        assert not isinstance(other.backend, FencedBackendMixin)
