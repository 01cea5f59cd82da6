"""The fence: every state write passes the store, and Celery's own writes keep
Celery's behaviour.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier, Event, current_thread
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.backends.base import BaseKeyValueStoreBackend
from celery.backends.cache import CacheBackend
from celery.exceptions import Ignore, Reject, Retry
from celery.signals import task_received
from celery.worker.request import Request
from kombu import Message
from kombu.exceptions import EncodeError

import headway
from headway import RequestContext
from headway.core.registry import AttemptStart, AttemptStarted, StateWrite
from headway.core.states import allows_start, allows_write
from headway.errors import ConfigurationError, Unavailable
from headway.stores.memory import MemoryStore
from headway.worker import celery_internals
from headway.worker.app_state import app_state_of
from headway.worker.attempt import Attempt
from headway.worker.scheduler import shared
from tests.support.wait import until
from tests.unit.tracing import Lab

#: The properties of two deliveries of one message.
OLDER, NEWER = {celery_internals.DELIVERY_ID: "r1"}, {celery_internals.DELIVERY_ID: "r2"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def external_writer(
    task_id: str = "x", retries: int = 0, hostname: str = "w1@lab", **more: Any
) -> Context:
    """A request as the worker's main process has it."""
    return Context({"id": task_id, "task": "t", "retries": retries, "hostname": hostname, **more})


def running(lab: Lab, body: Any, **options: Any) -> Any:
    """A task whose code is ``body(self)``."""

    def run(self: Any) -> Any:
        return body(self)

    return lab.task(bind=True, name="running", **options)(run)


def test_stored_bytes_equal_celerys_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored bytes are those of the backend's own write (celery-facts#guarded-write)."""
    lab.app.conf.result_extended = True
    plain = Celery("plain", broker="memory://", backend="cache+memory://", set_as_current=False)
    plain.conf.result_extended = True
    made: dict[str, Any] = {}
    monkeypatch.setattr(
        BaseKeyValueStoreBackend, "_get_task_meta_for", lambda self, task_id: {"status": "PENDING"}
    )
    monkeypatch.setattr(CacheBackend, "set", lambda self, key, value: made.update(bytes=value))
    request = external_writer(
        args=[1], kwargs={"a": 2}, delivery_info={"routing_key": "q"}, group="g", parent_id="p"
    )
    for result, state in (({"a": 1}, "CUSTOM"), (ValueError("no"), "RETRY")):
        plain.backend.store_result("x", result, state, "a traceback", request=request)
        lab.app.backend.store_result("x", result, state, "a traceback", request=request)
        assert lab.meta("x") == json.loads(made["bytes"])


def test_late_write_of_the_main_process_is_refused(lab: Lab) -> None:
    """A time limit after the end changes nothing (celery-facts#celery-undoes-its-own-ends)."""
    lab.run(running(lab, lambda self: "fine"), "x")
    lab.app.backend.mark_as_failure("x", ValueError("late"), request=external_writer())
    lab.app.backend.mark_as_revoked("x", "late", request=external_writer())
    assert (lab.record("x").state, lab.meta("x")["status"], lab.meta("x")["result"]) == (
        "SUCCESS",
        "SUCCESS",
        "fine",
    )


def test_main_process_can_end_an_open_attempt(lab: Lab) -> None:
    """The FAILURE of a lost child is accepted. Later writes of that child are refused."""

    def body(self: Any) -> str:
        progress = RequestContext.get().progress
        progress.update(1, 2)
        lab.app.backend.mark_as_failure("x", ValueError("lost"), request=external_writer())
        progress.update(2, 2)
        return "never mind"

    lab.run(running(lab, body), "x")
    assert (lab.record("x").state, lab.meta("x")["status"]) == ("FAILURE", "FAILURE")
    assert lab.progress("x").current == 1


@pytest.mark.parametrize("late", [False, True])
def test_cold_shutdown_stores_retry_only_if_the_message_returns(lab: Lab, late: bool) -> None:
    """The worker stores RETRY for every task that it kills. An acknowledged message is not
    redelivered, so its attempt stays open.
    """

    def body(self: Any) -> None:
        lab.app.backend.mark_as_retry(
            "x", ValueError("cancelled by Celery"), request=external_writer(task="running")
        )
        states.append(lab.record("x").state)

    states: list[str | None] = []
    lab.run(running(lab, body, acks_late=late), "x")
    assert states == ["RETRY" if late else "STARTED"]


def test_retry_of_a_task_without_our_base_is_stored() -> None:
    """If only one task of an app reports, the RETRY of the others is stored as in Celery, with or
    without STARTED.
    """
    with Lab(install=False) as lab:
        lab.app.conf.update(task_track_started=False)

        @lab.task(base=headway.ProgressTask)
        def ours() -> None:
            """The task that installs the fence."""

        @lab.task(bind=True)
        def theirs(self: Any) -> None:
            raise self.retry(exc=ValueError("later"), countdown=9)

        lab.app.finalize()
        lab.use(lab.store)
        lab.trace(theirs, "x")
        assert lab.meta("x")["status"] == "RETRY"


def test_exit_of_a_forked_child_does_not_end_the_attempt(lab: Lab) -> None:
    """After `os.fork` in a task, `sys.exit` in the child leaves the task's frames too. The attempt
    belongs to the parent.
    """

    def body(self: Any) -> str:
        attempt = self.request._headway
        attempt.pid += 1  # as in a forked copy: the pid of another process
        attempt.finish(SystemExit(0))
        attempt.pid -= 1
        states.append(lab.record("x").state)
        return "from the parent"

    states: list[str | None] = []
    assert lab.run(running(lab, body), "x") == "from the parent"
    assert states == ["STARTED"]
    assert lab.record("x").state == "SUCCESS"


def test_redelivery_is_a_new_attempt(lab: Lab) -> None:
    """No header counts redeliveries: the store does, and refuses the older attempt's writes
    (celery-facts#redelivery-runs-the-same-id-twice).
    """

    def body(self: Any) -> str:
        ctx = RequestContext.get()
        if ctx.attempt == 1:
            older.append(ctx)
            lab.trace(task, "x", hostname="w2@lab")
            return "older"
        ctx.progress.update(2, 2, "the newer one")
        older[0].progress.update(1, 2, "the older one")
        assert lab.progress("x").message == "the newer one"
        return "newer"

    older: list[RequestContext] = []
    task = running(lab, body)
    lab.run(task, "x")
    assert (lab.record("x").attempt, lab.record("x").state, lab.meta("x")["result"]) == (
        2,
        "SUCCESS",
        "newer",
    )
    assert lab.progress("x").message == "the newer one"


def test_lost_delivery_does_not_end_a_newer_one(lab: Lab) -> None:
    """A worker received a message twice, and the older delivery's child was killed: its FAILURE
    does not end the newer attempt.
    """

    def body(self: Any) -> str:
        if RequestContext.get().attempt == 1:
            lab.trace(task, "x", properties=NEWER)
            return "older"
        lab.app.backend.mark_as_failure(
            "x", ValueError("lost"), request=external_writer(properties=OLDER)
        )
        states.append(lab.record("x").state)
        lab.app.backend.mark_as_failure(
            "x", ValueError("lost"), request=external_writer(properties=NEWER)
        )
        states.append(lab.record("x").state)
        return "newer"

    states: list[str | None] = []
    task = running(lab, body)
    lab.run(task, "x", properties=OLDER)
    assert states == ["STARTED", "FAILURE"]
    assert (lab.record("x").attempt, lab.record("x").state) == (2, "FAILURE")


def test_each_delivery_has_its_own_id(lab: Lab) -> None:
    """The pool's child and the main process find the same delivery id. The task does not see it."""
    task = running(lab, lambda self: None)
    lab.app.finalize()
    headers = {"id": "x", "task": task.name, "headway_owner": "ann", "lang": "py"}
    message = Message(
        body=json.dumps([[], {}, {}]),
        headers=headers,
        content_type="application/json",
        content_encoding="utf-8",
    )
    delivery_ids = []
    for _ in range(2):
        request = Request(message, app=lab.app, task=task, hostname="w1@lab")
        task_received.send(sender=None, request=request)
        child = Context(json.loads(json.dumps(request.request_dict)))
        assert celery_internals.delivery_id_of(child) == celery_internals.delivery_id_of(
            request._context
        )
        assert child.headers == {"headway_owner": "ann"}
        delivery_ids.append(celery_internals.delivery_id_of(child))
    assert None not in delivery_ids
    assert len(set(delivery_ids)) == 2
    assert celery_internals.DELIVERY_ID not in message.properties


def test_start_is_repeated_after_a_lost_reply(lab: Lab) -> None:
    """The store opened the attempt, but its reply was lost: the second try gets
    the same attempt.
    """

    class Frozen(MemoryStore):
        def start_attempt(
            self, opening: AttemptStart, *, full_timeout: bool = False
        ) -> AttemptStarted:
            opened.append(super().start_attempt(opening, full_timeout=full_timeout).attempt)
            if len(opened) == 1:
                raise Unavailable
            return AttemptStarted(opened[-1])

    opened: list[int] = []
    lab.use(Frozen())
    lab.run(running(lab, lambda self: None), "x")
    assert opened == [1, 1]
    assert (lab.record("x").attempt, lab.record("x").state) == (1, "SUCCESS")


def test_two_threads_of_a_task_open_one_attempt(lab: Lab) -> None:
    """Both threads find it unopened and start it: the store gives them the same number."""

    class Meeting(MemoryStore):
        def start_attempt(
            self, opening: AttemptStart, *, full_timeout: bool = False
        ) -> AttemptStarted:
            both.wait(timeout=60)
            return super().start_attempt(opening, full_timeout=full_timeout)

    def body(self: Any) -> None:
        lab.use(Meeting())
        attempt = self.request._headway
        with ThreadPoolExecutor(2) as pool:
            attempt.number = None
            threads = [pool.submit(attempt.open, lab.app.backend) for _ in range(2)]
            replies.extend(thread.result() for thread in threads)

    both = Barrier(2)
    replies: list[AttemptStarted] = []
    lab.run(running(lab, body), "x")
    assert [reply.attempt for reply in replies] == [1, 1]


def test_redelivery_after_success_changes_nothing(lab: Lab) -> None:
    """The task runs again, and its writes are refused (contract, section 3)."""
    runs: list[int] = []
    task = running(lab, lambda self: runs.append(RequestContext.get().attempt) or len(runs))
    lab.run(task, "x")
    lab.run(task, "x")
    assert (len(runs), lab.meta("x")["result"], lab.record("x").attempt) == (2, 1, 1)


@pytest.mark.parametrize("track_started", [True, False])
def test_started_is_published_always_and_stored_only_if_tracked(
    lab: Lab, track_started: bool
) -> None:
    """Subscribers always receive the start. Celery's record has it only with
    `task_track_started`.
    """
    lab.app.conf.task_track_started = track_started
    published: list[tuple[str, str]] = []
    stop = lab.store.subscribe(
        lambda task_id, meta: published.append(
            (meta["status"], (meta["result"] or {}).get("hostname"))
        )
    )
    lab.run(running(lab, lambda self: stop() or (lab.meta("x") and lab.meta("x")["status"])), "x")
    assert published == [("STARTED", "w1@lab")]
    assert lab.meta("x")["result"] == ("STARTED" if track_started else None)


def test_write_for_another_task_is_an_external_write(lab: Lab) -> None:
    """`update_state(task_id=other)` carries this task's request, but changes the other task."""
    body = lambda self: self.update_state(  # noqa: E731
        task_id="other", state="PROGRESS", meta={"current": 1, "total": 2}
    )
    lab.run(running(lab, body), "x")
    assert lab.record("other").attempt == 0
    assert lab.progress("other").current == 1


def test_update_state_with_foreign_keys_is_read_and_kept(lab: Lab) -> None:
    """A task that does not know Headway reports with its own keys. The stored
    result is unchanged.
    """

    def body(self: Any) -> str:
        self.update_state(state="CRUNCHING", meta={"done": 3, "total": 4, "odd": "thing"})
        assert lab.meta("x")["result"] == {"done": 3, "total": 4, "odd": "thing"}
        return "fine"

    lab.run(running(lab, body), "x")
    assert (lab.progress("x").current, lab.progress("x").total) == (3, 4)


def test_report_is_tried_once(lab: Lab) -> None:
    """`result_backend_always_retry` retries for ever by default; a report does not
    (celery-facts#update-state-raises-when-backend-is-down).
    """
    lab.app.conf.result_backend_always_retry = True
    backend = lab.app.backend
    type(backend).exception_safe_to_retry = lambda self, exc: True  # type: ignore[attr-defined]
    tries: list[Any] = []
    backend._sleep = tries.append

    def body(self: Any) -> str:
        lab.store.away = True
        RequestContext.get().progress.update(1, 2)
        lab.store.away = False
        return "fine"

    try:
        assert lab.run(running(lab, body), "x") == "fine"
    finally:
        del type(backend).exception_safe_to_retry  # type: ignore[attr-defined]
    assert tries == []


def test_update_state_raises_the_drivers_errors(lab: Lab) -> None:
    """During an outage, a write of Celery or of the task raises the driver's error, as without
    Headway: existing code catches it.
    """

    def body(self: Any) -> str:
        lab.store.away = True
        with pytest.raises(ConnectionError, match="set to be unavailable"):
            self.update_state(state="PROGRESS", meta={"current": 1})
        lab.store.away = False
        return "fine"

    assert lab.run(running(lab, body), "x") == "fine"


def test_always_retry_stores_the_end_after_an_outage(lab: Lab) -> None:
    """With `result_backend_always_retry`, Celery retries the end until the store is available."""
    lab.app.conf.result_backend_always_retry = True
    backend = lab.app.backend
    type(backend).exception_safe_to_retry = lambda self, exc: isinstance(exc, ConnectionError)  # type: ignore[attr-defined]
    backend._sleep = lambda seconds: setattr(lab.store, "away", False)
    try:
        lab.run(running(lab, lambda self: setattr(lab.store, "away", True)), "x")
    finally:
        del type(backend).exception_safe_to_retry  # type: ignore[attr-defined]
    assert lab.record("x").state == "SUCCESS"


def test_start_during_an_outage_is_recorded_later(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The attempt starts without a number, and gets one when the store is available."""

    def body(self: Any) -> int:
        assert RequestContext.get().attempt == 3, "the number from the message"
        lab.store.away = False
        return RequestContext.get().attempt

    lab.store.away = True
    assert lab.run(running(lab, body), "x", retries=2) == 3
    record = lab.record("x")
    assert (record.state, record.attempt, record.last_ended_attempt) == ("SUCCESS", 3, 3)
    assert record.started_at is not None
    assert record.finished_at is not None
    assert record.started_at <= record.finished_at
    assert caplog.text.count("is unavailable") == 1


def test_silent_attempt_is_opened_by_the_timer_after_an_outage(lab: Lab) -> None:
    """An attempt that reports nothing is shown as started when the store is available, not only at
    its end.
    """
    tries: list[AttemptStart] = []
    original = lab.store.start_attempt

    def start_attempt(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        tries.append(opening)
        if len(tries) < 3:
            raise Unavailable from OSError("set to be unavailable")
        return original(opening, full_timeout=full_timeout)

    def body(self: Any) -> int:
        assert until(lambda: lab.store.read(["x"])[0].record).state == "STARTED"
        return RequestContext.get().attempt

    lab.store.start_attempt = start_attempt  # type: ignore[method-assign]
    assert lab.run(running(lab, body), "x") == 1
    assert len(tries) == 3
    assert len({opening.delivery_id for opening in tries}) == 1
    assert (lab.record("x").state, lab.record("x").attempt) == ("SUCCESS", 1)


def test_finished_attempt_is_never_opened(lab: Lab) -> None:
    """The timer that retries a missed start finds the attempt ended and writes nothing."""
    left: list[Attempt] = []

    def body(self: Any) -> None:
        left.append(self.request._headway)
        lab.store.away = False

    lab.store.away = True
    lab.run(running(lab, body, ignore_result=True), "x")
    record = lab.record("x")
    left[0].number = None
    left[0]._open_again(0.0)
    assert lab.record("x") == record
    assert left[0].number is None


def test_second_start_reply_does_not_clear_previous_progress(lab: Lab) -> None:
    """The timer's reply may arrive after the first report, when the store no longer has the earlier
    progress.
    """
    original = lab.store.start_attempt

    def report(self: Any) -> None:
        RequestContext.get().progress.update(4, 10)
        raise Retry("again", ValueError("no"), when=0)

    def body(self: Any) -> Any:
        progress = RequestContext.get().progress

        def start_attempt(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
            lab.store.start_attempt = original  # type: ignore[method-assign]
            progress.update(5, 10)
            assert progress.previous is not None
            return original(opening, full_timeout=full_timeout)

        lab.store.away = False
        app_state = app_state_of(lab.app)
        assert app_state is not None
        app_state.breaker.succeeded()
        lab.store.start_attempt = start_attempt  # type: ignore[method-assign]
        self.request._headway._open_again(0.0)
        return progress.previous and progress.previous.current

    task = running(lab, lambda self: (body if self.request.retries else report)(self))
    lab.run(task, "x", properties=OLDER)
    lab.store.away = True
    assert lab.run(task, "x", retries=1, properties=NEWER) == 4
    assert lab.record("x").attempt == 2


@pytest.mark.parametrize("ignored", [False, True])
def test_late_retry_does_not_end_the_attempt_that_follows(lab: Lab, ignored: bool) -> None:
    """An attempt whose start was not recorded stores RETRY after its retry has started: this
    replaces no other attempt.
    """
    started: list[AttemptStarted] = []

    def body(self: Any) -> None:
        lab.store.away = False
        started.append(
            lab.store.start_attempt(
                AttemptStart("x", "running", datetime.now(UTC), retries=1, delivery_id="r2")
            )
        )
        raise Retry("again", ValueError("no"), when=0)

    lab.store.away = True
    lab.trace(running(lab, body, ignore_result=ignored), "x", properties=OLDER)
    assert (lab.record("x").state, lab.record("x").attempt) == ("STARTED", started[0].attempt)
    assert lab.store.write(
        StateWrite("x", "SUCCESS", datetime.now(UTC), attempt=started[0].attempt)
    )


def test_end_waits_for_the_timer_that_opens_the_attempt(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry may start right after the end. A later open would take the newer attempt's place, and
    its end would be refused.
    """
    original = lab.store.start_attempt
    under_way, ending = Event(), Event()

    class Lock:
        """Signals that the end has reached the lock."""

        def __init__(self, lock: Any) -> None:
            self.lock, self.release = lock, lock.release

        def acquire(self, **options: Any) -> bool:
            ending.set()
            return bool(self.lock.acquire(**options))

    def start_attempt(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        if current_thread().name != "headway-scheduler":
            raise Unavailable from OSError("set to be unavailable")
        under_way.set()
        ending.wait(60)
        lab.store.start_attempt = original  # type: ignore[method-assign]
        return original(opening, full_timeout=full_timeout)

    def body(self: Any) -> None:
        under_way.wait(60)
        self.request._headway.open_lock = Lock(self.request._headway.open_lock)
        raise Retry("again", ValueError("no"), when=0)

    def ended(self: Any, *args: Any) -> None:
        numbers.append(self.request._headway.number)

    numbers: list[int | None] = []
    monkeypatch.setattr("headway.worker.attempt.CLOSE_WAIT", 60.0)
    lab.store.start_attempt = start_attempt  # type: ignore[method-assign]
    lab.trace(running(lab, body, on_retry=ended), "x")
    assert lab.record("x").state == "RETRY"
    assert numbers == [1]


def test_permanent_error_of_the_start_is_not_retried(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The timer retries after an outage. It does not retry other errors, which
    would fill the log.
    """
    app_state = app_state_of(lab.app)
    assert app_state is not None
    app_state.heartbeat_interval = 0.01
    tries: list[str] = []

    def start_attempt(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        tries.append(current_thread().name)
        raise ConfigurationError("a table of another version")

    def body(self: Any) -> None:
        until(lambda: "headway-scheduler" in tries)
        for _ in range(20):  # meanwhile a few of the timer's intervals pass
            turn = Event()
            shared.call_at(monotonic() + 0.01, lambda now, turn=turn: turn.set())  # type: ignore[misc]
            assert turn.wait(60)

    lab.store.start_attempt = start_attempt  # type: ignore[method-assign]
    lab.run(running(lab, body, ignore_result=True), "x")
    assert tries.count("headway-scheduler") == 1


def test_result_that_cannot_be_encoded_is_a_failure(lab: Lab) -> None:
    """Celery then stores FAILURE. The fence does not treat the first try as the end."""
    with pytest.raises(EncodeError):
        lab.run(running(lab, lambda self: object()), "x")
    assert (lab.record("x").state, lab.meta("x")["status"]) == ("FAILURE", "FAILURE")


def test_store_beside_the_backend_decides_and_the_backend_stores() -> None:
    """If the backend keeps its own results, the store decides, and the backend
    stores as in Celery.
    """

    class Beside(MemoryStore):
        keeps_results = False
        publishes = False

    app = Celery("beside", broker="memory://", backend="cache+memory://", set_as_current=False)
    store = Beside()
    headway.install(app, store=store)
    with Lab(app=app) as lab:
        lab.store = store
        seen: list[Any] = []

        def body(self: Any) -> str:
            RequestContext.get().progress.update(1, 2)
            seen.append(app.backend._get_task_meta_for("x")["status"])
            if len(seen) == 1:
                raise ValueError("once")
            return "fine"

        task = running(lab, body)
        with pytest.raises(ValueError, match="once"):
            lab.run(task, "x")
        assert lab.record("x").result_stored
        lab.run(task, "x")
        app.backend.mark_as_failure("x", ValueError("late"), request=external_writer())
        assert seen == ["PROGRESS", "PROGRESS"]
        assert app.backend._get_task_meta_for("x")["result"] == "fine"
        assert (lab.record("x").state, lab.record("x").attempt) == ("SUCCESS", 2)
        app.backend.delete(app.backend.get_key_for_task("x"))


def test_redelivery_after_cancel_stores_no_started() -> None:
    """Beside a backend that keeps its own results: a redelivery after the cancel does not replace
    REVOKED by STARTED.
    """

    class Beside(MemoryStore):
        keeps_results = False
        publishes = False

    app = Celery("beside", broker="memory://", backend="cache+memory://", set_as_current=False)
    store = Beside()
    headway.install(app, store=store)
    with Lab(app=app) as lab:
        lab.store = store

        def body(self: Any) -> None:
            store.request_cancel("x", datetime.now(UTC))
            raise headway.TaskCancelled

        task = running(lab, body)
        lab.trace(task, "x")
        lab.trace(task, "x")
        assert app.backend._get_task_meta_for("x")["status"] == "REVOKED"
        app.backend.delete(app.backend.get_key_for_task("x"))


def test_ends_that_celery_does_not_store_are_recorded(lab: Lab) -> None:
    """ignore_result, Ignore, Reject and sys.exit are recorded, and Celery's readers do not see
    PROGRESS for ever (celery-facts#ignored-results-have-no-end, celery-facts#where-an-attempt-ends,
    celery-facts#postrun-knows-unstored-ends).
    """

    def ends(how: str, report: bool) -> Any:
        def body(self: Any) -> None:
            if report:
                RequestContext.get().progress.update(1, 2)
            if how == "ignore":
                raise Ignore
            if how.startswith("reject"):
                raise Reject("why", requeue=how == "reject and requeue")
            if how == "exit":
                sys.exit(3)
            if how == "fail":
                raise ValueError("no")

        return body

    expected = {  # how it ends, ignore_result, reported -> the registry's state, Celery's
        ("well", True, True): ("SUCCESS", "SUCCESS"),
        ("well", True, False): ("SUCCESS", None),
        ("fail", True, True): ("FAILURE", "FAILURE"),
        ("fail", True, False): ("FAILURE", None),
        ("ignore", False, True): ("IGNORED", "IGNORED"),
        ("ignore", False, False): ("IGNORED", "STARTED"),
        ("ignore", True, True): ("IGNORED", "IGNORED"),
        ("reject", False, True): ("REJECTED", "FAILURE"),
        ("reject", True, False): ("REJECTED", None),
        ("reject and requeue", False, True): ("PROGRESS", "PROGRESS"),
        ("exit", False, True): ("FAILURE", "FAILURE"),
        ("exit", True, False): ("FAILURE", None),
    }
    for number, ((how, ignore_result, reported), (state, stored)) in enumerate(expected.items()):
        task = lab.task(bind=True, name=f"ends {number}", ignore_result=ignore_result)(
            named_function(ends(how, reported))
        )
        try:
            lab.trace(task, f"x{number}")
        except SystemExit:
            assert how == "exit"
        meta = lab.meta(f"x{number}")
        assert (lab.record(f"x{number}").state, meta and meta["status"]) == (state, stored), (
            how,
            ignore_result,
            reported,
        )


def test_replaced_task_has_not_ended(lab: Lab) -> None:
    """`Task.replace` raises Ignore too, but the execution continues
    (celery-facts#what-messages-say-of-a-workflow).
    """
    other = lab.task(name="another", bind=True)(named_function(lambda self: None))
    lab.trace(running(lab, lambda self: self.replace(other.si())), "x")
    assert (lab.record("x").state, lab.record("x").last_ended_attempt) == ("STARTED", 0)


def named_function(body: Any) -> Any:
    """A named function, as Celery requires."""

    def run(self: Any) -> Any:
        return body(self)

    return run


def test_end_that_cannot_be_recorded_is_logged(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """During an outage, an end that only the registry would have is lost and logged. The task is
    not affected.
    """
    task = running(lab, lambda self: setattr(lab.store, "away", True), ignore_result=True)
    with caplog.at_level(logging.WARNING):
        lab.run(task, "x")
    lab.store.away = False
    assert "cannot be recorded" in caplog.text
    assert lab.record("x").state == "STARTED"


def test_fenced_backend_is_pickled_without_headway(lab: Lab) -> None:
    """An AsyncResult contains its backend; a reader that unpickles it may not have Headway."""
    data = pickle.dumps(lab.app.backend)
    assert b"headway" not in data
    lab.app.set_current()
    assert type(pickle.loads(data)) is CacheBackend


def test_results_expire_as_configured(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """`result_failure_expires` is for FAILURE, `result_expires` for all others; 0 means never."""
    backend = lab.app.backend
    writes: list[StateWrite] = []
    monkeypatch.setattr(
        lab.store, "write", lambda write, full_timeout=False: writes.append(write) or True
    )
    backend.expires, backend.failure_expires = 60, 30
    backend.store_result("x", None, "SUCCESS")
    backend.store_result("x", ValueError(), "FAILURE")
    backend.expires = 0
    backend.store_result("x", None, "SUCCESS")
    assert [write.expires for write in writes] == [60.0, 30.0, None]


def test_registry_gets_json_safe_progress_only(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """`update_state` accepts any object that the serializer accepts. The store gets plain data."""
    writes: list[StateWrite] = []
    monkeypatch.setattr(
        lab.store, "write", lambda write, full_timeout=False: writes.append(write) or True
    )
    lab.app.backend.store_result("x", {"current": 1, "total": 2, "when": "now"}, "PROGRESS")
    assert json.loads(json.dumps(writes[0].meta))["current"] == 1


def test_bug_in_the_store_loses_no_result(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The task runs, its result is stored as without Headway, and the error is logged."""

    def broken(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        raise KeyError("a bug")

    monkeypatch.setattr(lab.store, "start_attempt", broken)
    backend = lab.app.backend
    assert (
        lab.run(
            running(lab, lambda self: RequestContext.get().progress.update(1, 2) or "fine"), "x"
        )
        == "fine"
    )
    assert backend._get_task_meta_for("x")["result"] == "fine"
    assert "Unexpected error" in caplog.text
    backend.delete(backend.get_key_for_task("x"))


def test_rules_are_part_of_the_core() -> None:
    """The fence has no rules of its own: it uses these two, and the stores apply them."""
    assert allows_write(None, StateWrite("x", "PROGRESS", at=None))  # type: ignore[arg-type]
    assert allows_start(None)
