"""The fence: every state write passes the store, and Celery's own writes keep Celery's
ways.
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

#: As a worker marks two deliveries of one message.
OLDER, NEWER = {celery_internals.DELIVERY_ID: "r1"}, {celery_internals.DELIVERY_ID: "r2"}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def bystander(
    task_id: str = "x", retries: int = 0, hostname: str = "w1@lab", **more: Any
) -> Context:
    """A request as the worker's main process has it."""
    return Context({"id": task_id, "task": "t", "retries": retries, "hostname": hostname, **more})


def running(lab: Lab, body: Any, **options: Any) -> Any:
    """A task whose code is ``body(self)``."""

    def run(self: Any) -> Any:
        return body(self)

    return lab.task(bind=True, name="running", **options)(run)


def test_celerys_record_is_stored_as_celery_would(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored bytes are those of the backend's own write (celery-facts#guarded-write)."""
    lab.app.conf.result_extended = True
    plain = Celery("plain", broker="memory://", backend="cache+memory://", set_as_current=False)
    plain.conf.result_extended = True
    made: dict[str, Any] = {}
    monkeypatch.setattr(
        BaseKeyValueStoreBackend, "_get_task_meta_for", lambda self, task_id: {"status": "PENDING"}
    )
    monkeypatch.setattr(CacheBackend, "set", lambda self, key, value: made.update(bytes=value))
    request = bystander(
        args=[1], kwargs={"a": 2}, delivery_info={"routing_key": "q"}, group="g", parent_id="p"
    )
    for result, state in (({"a": 1}, "CUSTOM"), (ValueError("no"), "RETRY")):
        plain.backend.store_result("x", result, state, "a traceback", request=request)
        lab.app.backend.store_result("x", result, state, "a traceback", request=request)
        assert lab.meta("x") == json.loads(made["bytes"])


def test_a_late_word_of_the_main_process_is_refused(lab: Lab) -> None:
    """A time limit that fires after the end changes nothing
    (celery-facts#celery-undoes-its-own-ends).
    """
    lab.run(running(lab, lambda self: "fine"), "x")
    lab.app.backend.mark_as_failure("x", ValueError("late"), request=bystander())
    lab.app.backend.mark_as_revoked("x", "late", request=bystander())
    assert (lab.record("x").state, lab.meta("x")["status"], lab.meta("x")["result"]) == (
        "SUCCESS",
        "SUCCESS",
        "fine",
    )


def test_the_main_process_ends_what_is_open(lab: Lab) -> None:
    """A lost child's FAILURE is let in, and the child's last words are not any more."""

    def body(self: Any) -> str:
        progress = RequestContext.get().progress
        progress.update(1, 2)
        lab.app.backend.mark_as_failure("x", ValueError("lost"), request=bystander())
        progress.update(2, 2)
        return "never mind"

    lab.run(running(lab, body), "x")
    assert (lab.record("x").state, lab.meta("x")["status"]) == ("FAILURE", "FAILURE")
    assert lab.progress("x").current == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_cold_shutdown_makes_no_retry_of_what_does_not_come_back(lab: Lab, late: bool) -> None:
    """The worker stores RETRY for every task it kills; for an acknowledged message no worker
    retries, and it stays open.
    """

    def body(self: Any) -> None:
        lab.app.backend.mark_as_retry(
            "x", ValueError("cancelled by Celery"), request=bystander(task="running")
        )
        said.append(lab.record("x").state)

    said: list[str | None] = []
    lab.run(running(lab, body, acks_late=late), "x")
    assert said == ["RETRY" if late else "STARTED"]


def test_a_neighbour_without_our_base_may_retry() -> None:
    """Where only one task of an app reports, the others' RETRY is stored as Celery stores it,
    STARTED or not.
    """
    with Lab(install=False) as lab:
        lab.app.conf.update(task_track_started=False)

        @lab.task(base=headway.ProgressTask)
        def ours() -> None:
            """The one that brings the fence."""

        @lab.task(bind=True)
        def theirs(self: Any) -> None:
            raise self.retry(exc=ValueError("later"), countdown=9)

        lab.app.finalize()
        lab.use(lab.store)
        lab.trace(theirs, "x")
        assert lab.meta("x")["status"] == "RETRY"


def test_a_fork_that_unwinds_ends_nothing(lab: Lab) -> None:
    """``os.fork`` in a task and ``sys.exit`` in the child: the child leaves the task's frames, and
    the run is its parent's.
    """

    def body(self: Any) -> str:
        attempt = self.request._headway
        attempt.pid += 1  # what a fork's copy sees: another process than its own
        attempt.finish(SystemExit(0))
        attempt.pid -= 1
        said.append(lab.record("x").state)
        return "the parent's"

    said: list[str | None] = []
    assert lab.run(running(lab, body), "x") == "the parent's"
    assert said == ["STARTED"]
    assert lab.record("x").state == "SUCCESS"


def test_a_second_delivery_is_another_attempt(lab: Lab) -> None:
    """A redelivery is in no header: the store counts, and the older run's words are refused
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


def test_a_run_that_was_lost_does_not_end_the_one_beside_it(lab: Lab) -> None:
    """One worker got a message twice, and the older run's child is killed: its FAILURE isn't the
    newer run's.
    """

    def body(self: Any) -> str:
        if RequestContext.get().attempt == 1:
            lab.trace(task, "x", properties=NEWER)
            return "older"
        lab.app.backend.mark_as_failure(
            "x", ValueError("lost"), request=bystander(properties=OLDER)
        )
        said.append(lab.record("x").state)
        lab.app.backend.mark_as_failure(
            "x", ValueError("lost"), request=bystander(properties=NEWER)
        )
        said.append(lab.record("x").state)
        return "newer"

    said: list[str | None] = []
    task = running(lab, body)
    lab.run(task, "x", properties=OLDER)
    assert said == ["STARTED", "FAILURE"]
    assert (lab.record("x").attempt, lab.record("x").state) == (2, "FAILURE")


def test_a_received_message_has_a_mark(lab: Lab) -> None:
    """Each delivery gets another one; the pool's child and the main process find the same, and the
    task doesn't see it.
    """
    task = running(lab, lambda self: None)
    lab.app.finalize()
    headers = {"id": "x", "task": task.name, "headway_owner": "ann", "lang": "py"}
    message = Message(
        body=json.dumps([[], {}, {}]),
        headers=headers,
        content_type="application/json",
        content_encoding="utf-8",
    )
    marks = []
    for _ in range(2):
        request = Request(message, app=lab.app, task=task, hostname="w1@lab")
        task_received.send(sender=None, request=request)
        child = Context(json.loads(json.dumps(request.request_dict)))
        assert celery_internals.delivery_id_of(child) == celery_internals.delivery_id_of(
            request._context
        )
        assert child.headers == {"headway_owner": "ann"}
        marks.append(celery_internals.delivery_id_of(child))
    assert None not in marks
    assert len(set(marks)) == 2
    assert celery_internals.DELIVERY_ID not in message.properties


def test_an_opening_whose_answer_is_lost(lab: Lab) -> None:
    """The store was frozen, and has opened the attempt all the same: asked again, it is the same
    one.
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
    """Both find it unopened and ask; they are the same run."""

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
            answers.extend(thread.result() for thread in threads)

    both = Barrier(2)
    answers: list[AttemptStarted] = []
    lab.run(running(lab, body), "x")
    assert [answer.attempt for answer in answers] == [1, 1]


def test_nothing_opens_a_success(lab: Lab) -> None:
    """A redelivery after the success runs, and changes nothing (contract, section 3)."""
    runs: list[int] = []
    task = running(lab, lambda self: runs.append(RequestContext.get().attempt) or len(runs))
    lab.run(task, "x")
    lab.run(task, "x")
    assert (len(runs), lab.meta("x")["result"], lab.record("x").attempt) == (2, 1, 1)


@pytest.mark.parametrize("track_started", [True, False])
def test_started_is_published_and_stored_only_if_wanted(lab: Lab, track_started: bool) -> None:
    """Watchers hear of the start in any case; readers of Celery's record only with
    `task_track_started`.
    """
    lab.app.conf.task_track_started = track_started
    heard: list[tuple[str, str]] = []
    stop = lab.store.subscribe(
        lambda task_id, meta: heard.append((meta["status"], (meta["result"] or {}).get("hostname")))
    )
    lab.run(running(lab, lambda self: stop() or (lab.meta("x") and lab.meta("x")["status"])), "x")
    assert heard == [("STARTED", "w1@lab")]
    assert lab.meta("x")["result"] == ("STARTED" if track_started else None)


def test_a_write_for_another_task_is_a_bystanders(lab: Lab) -> None:
    """`update_state(task_id=other)` carries this task's request, and speaks of the other one."""
    body = lambda self: self.update_state(  # noqa: E731
        task_id="other", state="PROGRESS", meta={"current": 1, "total": 2}
    )
    lab.run(running(lab, body), "x")
    assert lab.record("other").attempt == 0
    assert lab.progress("other").current == 1


def test_the_tasks_own_update_state_is_fenced_and_read(lab: Lab) -> None:
    """A task that never heard of Headway reports by `update_state`, in its own words; whatever it
    stores is kept as it is.
    """

    def body(self: Any) -> str:
        self.update_state(state="CRUNCHING", meta={"done": 3, "total": 4, "odd": "thing"})
        assert lab.meta("x")["result"] == {"done": 3, "total": 4, "odd": "thing"}
        return "fine"

    lab.run(running(lab, body), "x")
    assert (lab.progress("x").current, lab.progress("x").total) == (3, 4)


def test_our_reports_are_tried_once(lab: Lab) -> None:
    """`result_backend_always_retry` goes on for ever by default; a report doesn't
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


def test_celerys_own_writes_raise_the_drivers_errors(lab: Lab) -> None:
    """With the store away a write of Celery's or the task's own fails as it would without us: its
    users catch those errors.
    """

    def body(self: Any) -> str:
        lab.store.away = True
        with pytest.raises(ConnectionError, match="set to be unavailable"):
            self.update_state(state="PROGRESS", meta={"current": 1})
        lab.store.away = False
        return "fine"

    assert lab.run(running(lab, body), "x") == "fine"


def test_celerys_own_patience_is_kept(lab: Lab) -> None:
    """With `result_backend_always_retry` the end is tried until the store is back."""
    lab.app.conf.result_backend_always_retry = True
    backend = lab.app.backend
    type(backend).exception_safe_to_retry = lambda self, exc: isinstance(exc, ConnectionError)  # type: ignore[attr-defined]
    backend._sleep = lambda seconds: setattr(lab.store, "away", False)
    try:
        lab.run(running(lab, lambda self: setattr(lab.store, "away", True)), "x")
    finally:
        del type(backend).exception_safe_to_retry  # type: ignore[attr-defined]
    assert lab.record("x").state == "SUCCESS"


def test_a_start_with_the_store_away_is_made_up_for(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The run begins without a number, and has one as soon as the store is back."""

    def body(self: Any) -> int:
        assert RequestContext.get().attempt == 3, "as far as the message tells"
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


def test_a_start_that_is_made_up_for_without_a_word_of_the_task(lab: Lab) -> None:
    """An attempt that reports nothing is shown as started when the store is back: it is not shown
    for an hour that it waits.
    """
    tries: list[AttemptStart] = []
    opens_really = lab.store.start_attempt

    def start_attempt(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        tries.append(opening)
        if len(tries) < 3:
            raise Unavailable from OSError("set to be unavailable")
        return opens_really(opening, full_timeout=full_timeout)

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


def test_what_was_before_is_not_forgotten_by_a_second_answer(lab: Lab) -> None:
    """The timer's answer may come behind the first report's, when the store keeps the earlier
    progress no more.
    """
    opens_really = lab.store.start_attempt

    def report(self: Any) -> None:
        RequestContext.get().progress.update(4, 10)
        raise Retry("again", ValueError("no"), when=0)

    def body(self: Any) -> Any:
        progress = RequestContext.get().progress

        def start_attempt(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
            lab.store.start_attempt = opens_really  # type: ignore[method-assign]
            progress.update(5, 10)
            assert progress.previous is not None
            return opens_really(opening, full_timeout=full_timeout)

        lab.store.away = False
        installation = app_state_of(lab.app)
        assert installation is not None
        installation.breaker.succeeded()
        lab.store.start_attempt = start_attempt  # type: ignore[method-assign]
        self.request._headway._open_again(0.0)
        return progress.previous and progress.previous.current

    task = running(lab, lambda self: (body if self.request.retries else report)(self))
    lab.run(task, "x", properties=OLDER)
    lab.store.away = True
    assert lab.run(task, "x", retries=1, properties=NEWER) == 4
    assert lab.record("x").attempt == 2


@pytest.mark.parametrize("ignored", [False, True])
def test_a_retry_that_has_begun_already_goes_on(lab: Lab, ignored: bool) -> None:
    """The run before it, whose start the store has missed, says RETRY when its message is out: that
    replaces no other attempt.
    """
    begun: list[AttemptStarted] = []

    def body(self: Any) -> None:
        lab.store.away = False
        begun.append(
            lab.store.start_attempt(
                AttemptStart("x", "running", datetime.now(UTC), retries=1, delivery_id="r2")
            )
        )
        raise Retry("again", ValueError("no"), when=0)

    lab.store.away = True
    lab.trace(running(lab, body, ignore_result=ignored), "x", properties=OLDER)
    assert (lab.record("x").state, lab.record("x").attempt) == ("STARTED", begun[0].attempt)
    assert lab.store.write(StateWrite("x", "SUCCESS", datetime.now(UTC), attempt=begun[0].attempt))


def test_a_run_that_ends_waits_for_who_opens_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry may begin as soon as it has ended: what came then would take the newer run's place,
    and have its end refused.
    """
    opens_really = lab.store.start_attempt
    under_way, ending = Event(), Event()

    class Lock:
        """Tells that the end has come to it."""

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
        lab.store.start_attempt = opens_really  # type: ignore[method-assign]
        return opens_really(opening, full_timeout=full_timeout)

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


def test_a_fault_that_lasts_is_not_logged_again_and_again(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The timer makes up for an outage. A table of another version, say, is none: the log would be
    full of it.
    """
    installation = app_state_of(lab.app)
    assert installation is not None
    installation.heartbeat_interval = 0.01
    tries: list[str] = []

    def start_attempt(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        tries.append(current_thread().name)
        raise ConfigurationError("a table of another version")

    def body(self: Any) -> None:
        until(lambda: "headway-scheduler" in tries)
        for _ in range(20):  # the timer's thread comes this far while a few of its intervals pass
            turn = Event()
            shared.call_at(monotonic() + 0.01, lambda now, turn=turn: turn.set())  # type: ignore[misc]
            assert turn.wait(60)

    lab.store.start_attempt = start_attempt  # type: ignore[method-assign]
    lab.run(running(lab, body, ignore_result=True), "x")
    assert tries.count("headway-scheduler") == 1


def test_a_result_that_cannot_be_encoded_fails_as_ever(lab: Lab) -> None:
    """Celery makes a FAILURE of it; the fence doesn't take the first try for the end."""
    with pytest.raises(EncodeError):
        lab.run(running(lab, lambda self: object()), "x")
    assert (lab.record("x").state, lab.meta("x")["status"]) == ("FAILURE", "FAILURE")


def test_a_store_beside_the_backend() -> None:
    """Where the backend keeps its results itself, the store decides and the backend stores,
    Celery's way.
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
        app.backend.mark_as_failure("x", ValueError("late"), request=bystander())
        assert seen == ["PROGRESS", "PROGRESS"]
        assert app.backend._get_task_meta_for("x")["result"] == "fine"
        assert (lab.record("x").state, lab.record("x").attempt) == ("SUCCESS", 2)
        app.backend.delete(app.backend.get_key_for_task("x"))


def test_a_refused_run_leaves_the_end_alone() -> None:
    """Beside a backend that keeps its results itself: a message that comes again after the cancel
    stores no STARTED over it.
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


def test_ends_that_celery_stores_nowhere(lab: Lab) -> None:
    """ignore_result, Ignore, Reject, sys.exit: each is recorded, and PROGRESS doesn't stay for
    Celery's readers (celery-facts#ignored-results-have-no-end, celery-facts#where-an-attempt-ends,
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
            lambda_of(ends(how, reported))
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


def test_a_task_that_puts_another_in_its_place_has_not_ended(lab: Lab) -> None:
    """`Task.replace` ends in Ignore too, and isn't the end of the execution
    (celery-facts#what-messages-say-of-a-workflow).
    """
    other = lab.task(name="another", bind=True)(lambda_of(lambda self: None))
    lab.trace(running(lab, lambda self: self.replace(other.si())), "x")
    assert (lab.record("x").state, lab.record("x").last_ended_attempt) == ("STARTED", 0)


def lambda_of(body: Any) -> Any:
    """A named function, as Celery wants one."""

    def run(self: Any) -> Any:
        return body(self)

    return run


def test_an_end_that_cannot_be_recorded_is_told(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """With the store away a record-only end is lost, with a line in the log, and the task is none
    the wiser.
    """
    task = running(lab, lambda self: setattr(lab.store, "away", True), ignore_result=True)
    with caplog.at_level(logging.WARNING):
        lab.run(task, "x")
    lab.store.away = False
    assert "cannot be recorded" in caplog.text
    assert lab.record("x").state == "STARTED"


def test_a_fenced_backend_is_pickled_as_itself(lab: Lab) -> None:
    """An AsyncResult contains its backend; a reader that unpickles it may not have Headway."""
    data = pickle.dumps(lab.app.backend)
    assert b"headway" not in data
    lab.app.set_current()
    assert type(pickle.loads(data)) is CacheBackend


def test_failures_expire_as_configured(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """`result_failure_expires` counts for FAILURE, `result_expires` for all else; 0 is for ever."""
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


def test_whatever_a_task_stores_reaches_the_registry_json_safe(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a serializer that takes anything, `update_state` may be given anything; the store gets
    plain data.
    """
    writes: list[StateWrite] = []
    monkeypatch.setattr(
        lab.store, "write", lambda write, full_timeout=False: writes.append(write) or True
    )
    lab.app.backend.store_result("x", {"current": 1, "total": 2, "when": "now"}, "PROGRESS")
    assert json.loads(json.dumps(writes[0].meta))["current"] == 1


def test_a_defect_of_the_store_loses_no_result(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the store raises, the task runs, and its result is stored as without us; the log
    says so.
    """

    def broken(opening: AttemptStart, *, full_timeout: bool = False) -> AttemptStarted:
        raise KeyError("a defect")

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


def test_the_rules_are_the_cores() -> None:
    """The fence has no rules of its own: these two are all, and the stores apply them."""
    assert allows_write(None, StateWrite("x", "PROGRESS", at=None))  # type: ignore[arg-type]
    assert allows_start(None)
