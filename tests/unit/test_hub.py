"""The hub, over the fake store and the fake feed: what viewers receive, and when."""

from __future__ import annotations

import gc
import json
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from headway.core.registry import Snapshot
from headway.errors import (
    ExecutionExpired,
    ExecutionNotFound,
    HeadwayError,
    TooManyRequests,
    Unavailable,
)
from headway.feeds.memory import MemoryFeed
from headway.models import Execution, Status
from headway.server.counters import Count
from headway.server.streams import hub as hub_module
from headway.server.streams.backlog import Backlog
from headway.server.streams.changes import Frame
from headway.server.streams.hub import Hub
from headway.stores.memory import MemoryStore
from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.recording_viewer import RecordingViewer
from tests.support.wait import until


class CountingStore(MemoryStore):
    """Records the reads, and can block or fail them."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        self.unreadable: set[str] = set()

    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        self.reads.append(tuple(task_ids))
        if self.unreadable & set(task_ids):
            raise ValueError("this record cannot be read")
        found = super().read(task_ids)
        self.reading.set()
        self.gate.wait(60)
        return found

    def lose_data(self) -> None:
        """Lose everything, as a server without persistence does when it restarts."""
        self._records.clear()
        self._results.clear()


class HubEnvironment:
    """A hub over the fakes. It does not sweep unless a test sets the interval: on a slow machine, a
    sweep would add reads.
    """

    def __init__(self, *, sweep_interval: float = 3600.0, **options: Any) -> None:
        self.store = CountingStore()
        self.feed = MemoryFeed(self.store)
        self.hub = Hub(self.store, self.feed, sweep_interval=sweep_interval, **options)
        self.runs = FakeWorker(self.store, lambda meta: json.dumps(meta).encode())

    def attach(self, run: FakeExecution | str) -> RecordingViewer:
        """A viewer that was attached just now."""
        viewer = RecordingViewer()
        self.hub.attach(run if isinstance(run, str) else run.id, viewer)
        return viewer

    def attach_and_wait(self, run: FakeExecution) -> RecordingViewer:
        """A viewer that has received its first frame."""
        viewer = self.attach(run)
        until(lambda: viewer.frames)
        return viewer

    def wait_until_idle(self) -> None:
        """Return when the hub has processed everything that was stored before."""
        marker = self.runs.begin()
        viewer = self.attach_and_wait(marker)
        marker.report(1, 2)
        until(lambda: viewer.currents == [1])
        self.hub.detach(marker.id, viewer)


@pytest.fixture
def env(request: pytest.FixtureRequest) -> Iterator[HubEnvironment]:
    env = HubEnvironment(**getattr(request, "param", {}))
    yield env
    env.hub.close()


def test_viewer_gets_status_then_every_change(env: HubEnvironment) -> None:
    """``status``, ``started``, each progress and the end, in this order and each once."""
    run = env.runs.publish()
    viewer = env.attach_and_wait(run)
    assert viewer.frames[0].content["status"] == "pending"
    run.open()
    until(lambda: viewer.kinds == ["status", "started"])
    for number in range(1, 4):
        run.report(number, 3)
        until(lambda number=number: viewer.currents == list(range(1, number + 1)))
    run.succeed({"rows": 3})
    until(lambda: "completed" in viewer.kinds)
    assert viewer.kinds == ["status", "started", "progress", "progress", "progress", "completed"]
    assert viewer.frames[-1].content["outputs"] == {"rows": 3}
    assert viewer.frames[-1].content["progress"]["current"] == 3


def test_started_precedes_an_end_seen_in_one_read(env: HubEnvironment) -> None:
    """If one read finds a pending execution ended, ``started`` is sent before the end."""
    run = env.runs.publish()
    viewer = env.attach_and_wait(run)
    env.feed.disconnect()  # so that one read finds both changes
    until(lambda: viewer.kinds[-1] == "error")
    env.feed.reconnect()
    until(lambda: viewer.kinds[-1] == "status")
    env.store.gate.clear()
    run.open()
    run.succeed()
    env.store.gate.set()
    until(lambda: viewer.kinds[-1] == "completed")
    assert viewer.kinds == ["status", "error", "status", "started", "completed"]


def test_viewer_of_terminal_execution_gets_status_and_end(env: HubEnvironment) -> None:
    """A viewer of a terminal execution receives ``status`` and the end."""
    run = env.runs.begin().report(3, 10).fail("ValueError", "row 4")
    viewer = env.attach(run)
    until(lambda: len(viewer.frames) == 2)
    assert viewer.kinds == ["status", "failed"]
    assert viewer.frames[1].content["error"]["message"] == "row 4"
    assert viewer.currents == [3, 3]


def test_viewer_of_unknown_id_is_refused(env: HubEnvironment) -> None:
    """An id that was never published is refused, and not watched afterwards."""
    viewer = env.attach("unknown")
    until(lambda: viewer.refused)
    assert isinstance(viewer.refused, ExecutionNotFound)
    assert not viewer.frames
    until(lambda: not env.hub.watched and not env.feed.watched)


def test_viewer_of_expired_execution_is_refused(env: HubEnvironment) -> None:
    """An execution whose result is gone is refused with its own error."""
    run = env.runs.begin().succeed()
    env.store._results.clear()
    viewer = env.attach(run)
    until(lambda: viewer.refused)
    assert isinstance(viewer.refused, ExecutionExpired)


def test_thousand_viewers_share_subscription_read_and_bytes(env: HubEnvironment) -> None:
    """A thousand viewers: one subscription, one read, the same bytes; none after the last."""
    run = env.runs.begin()
    viewers = [env.attach_and_wait(run)]
    reads = len(env.store.reads)
    viewers += [env.attach(run) for _ in range(999)]
    until(lambda: all(viewer.frames for viewer in viewers))
    assert env.feed.watched == {run.id}
    assert len(env.store.reads) == reads
    run.report(1, 2)
    until(lambda: all(len(viewer.frames) == 2 for viewer in viewers))
    assert len({id(viewer.frames[1].on_wire) for viewer in viewers}) == 1
    assert len(env.store.reads) == reads, "a report of the open attempt needs no read"
    for viewer in viewers[1:]:
        env.hub.detach(run.id, viewer)
    assert env.feed.watched == {run.id}
    env.hub.detach(run.id, viewers[0])
    env.hub.detach(run.id, viewers[0])  # a second call does nothing
    assert not env.feed.watched
    assert not env.hub.watched


def test_late_viewer_misses_and_repeats_nothing(env: HubEnvironment) -> None:
    """A viewer that attaches midway gets the current state once, then every later change."""
    run = env.runs.begin()
    first = env.attach_and_wait(run)
    viewers: list[RecordingViewer] = []
    for number in range(1, 101):
        run.report(number, 100)
        viewers.append(env.attach(run))
    run.succeed()
    for viewer in [first, *viewers]:
        until(lambda viewer=viewer: "completed" in viewer.kinds)
        assert viewer.kinds[0] == "status"
        assert viewer.kinds.count("status") == viewer.kinds.count("completed") == 1
        steps = viewer.currents[:-1]  # the end repeats the last one
        assert steps == sorted(set(steps)), "each once, in order"
        assert viewer.currents[-1] == 100


def test_change_during_first_read_is_delivered_after_it(env: HubEnvironment) -> None:
    """A change during the first read is delivered after it
    (celery-facts#subscribe-before-snapshot).
    """
    run = env.runs.begin()
    env.store.gate.clear()
    viewer = env.attach(run)
    assert env.store.reading.wait(60)  # the store was read, the result is held back
    run.report(1, 2)
    run.succeed("done")
    env.store.gate.set()
    until(lambda: "completed" in viewer.kinds)
    assert viewer.kinds[0] == "status"
    assert viewer.currents[0:1] in ([], [1])


def test_read_before_the_subscription_is_repeated(
    env: HubEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second viewer's read may precede the subscription; the store is read again after it
    (celery-facts#subscribe-before-snapshot).
    """
    run = env.runs.begin()
    asked, in_force = threading.Event(), threading.Event()
    watch = env.feed.watch

    def slow_watch(task_id: str) -> None:
        asked.set()
        assert in_force.wait(60)
        watch(task_id)

    monkeypatch.setattr(env.feed, "watch", slow_watch)
    thread = threading.Thread(target=env.attach, args=(run,))
    thread.start()
    assert asked.wait(60)
    viewer = env.attach_and_wait(run)
    run.report(1, 2)  # its message reaches no subscription
    in_force.set()
    until(lambda: viewer.currents == [1])
    thread.join(60)


def test_report_older_than_the_read_is_dropped(env: HubEnvironment) -> None:
    """A report that a read has overtaken does not set the viewer back."""
    run = env.runs.begin().report(1, 10)
    old = json.loads(env.store._result(run.id) or b"")
    run.report(5, 10)
    viewer = env.attach_and_wait(run)
    env.feed.publish(run.id, old)
    env.wait_until_idle()
    run.report(6, 10)
    until(lambda: viewer.currents[-1] == 6)
    assert viewer.currents == [5, 6]


def test_report_of_another_attempt_is_not_delivered(env: HubEnvironment) -> None:
    """A report that the fence refused is not delivered, although it was published."""
    run = env.runs.begin().report(5, 10)
    viewer = env.attach_and_wait(run)
    stale = json.loads(env.store._result(run.id) or b"")
    stale["result"] |= {"attempt": 7, "current": 9, "timestamp": stale["result"]["timestamp"] + 1e6}
    env.feed.publish(run.id, stale)
    env.wait_until_idle()
    assert viewer.currents == [5]


def test_report_after_the_end_is_not_delivered(env: HubEnvironment) -> None:
    """A terminal state is final: a later report changes nothing, for any viewer."""
    run = env.runs.begin().report(5, 10)
    late = json.loads(env.store._result(run.id) or b"")
    viewer = env.attach_and_wait(run)
    run.fail()
    until(lambda: viewer.kinds[-1] == "failed")
    late["result"] |= {"current": 9, "timestamp": late["result"]["timestamp"] + 1e6}
    env.store.put_result(run.id, late)  # without the fence, as an external writer does
    env.wait_until_idle()
    assert viewer.kinds == ["status", "failed"]
    again = env.attach(run)
    until(lambda: len(again.frames) == 2)
    assert again.kinds == ["status", "failed"]


def test_unfenced_end_stays_terminal(env: HubEnvironment) -> None:
    """Celery may overwrite the end of a task that Headway does not fence
    (celery-facts#celery-undoes-its-own-ends): late viewers still get the end.
    """
    task_id = uuid.uuid4().hex
    env.store.put_result(task_id, {"status": "FAILURE", "result": None, "task_id": task_id})
    viewer = env.attach(task_id)
    until(lambda: viewer.kinds == ["status", "failed"])
    env.store.put_result(
        task_id, {"status": "PROGRESS", "result": {"current": 1, "total": 4}, "task_id": task_id}
    )
    env.wait_until_idle()
    late = env.attach(task_id)
    until(lambda: late.kinds == ["status", "failed"])
    assert viewer.kinds == ["status", "failed"]


def test_end_is_delivered_despite_late_report_in_batch(env: HubEnvironment) -> None:
    """An end and a late report in one batch: the end is delivered."""
    run = env.runs.begin().report(5, 10)
    late = json.loads(env.store._result(run.id) or b"")
    late["result"] |= {"current": 9, "timestamp": late["result"]["timestamp"] + 1e6}
    viewer = env.attach_and_wait(run)
    other = env.runs.begin()
    env.store.reading.clear()
    env.store.gate.clear()
    env.attach(other)  # its read blocks the hub
    assert env.store.reading.wait(60)
    run.succeed()
    env.feed.publish(run.id, late)
    env.store.gate.set()
    until(lambda: "completed" in viewer.kinds)
    assert viewer.kinds == ["status", "completed"]


def test_plain_update_state_is_streamed(env: HubEnvironment) -> None:
    """A plain ``update_state`` of a task without Headway is streamed too
    (celery-facts#redis-publishes-every-state).
    """
    task_id = uuid.uuid4().hex
    env.store.put_result(
        task_id, {"status": "PROGRESS", "result": {"current": 1, "total": 4}, "task_id": task_id}
    )
    viewer = env.attach(task_id)
    until(lambda: viewer.currents == [1])
    env.store.put_result(
        task_id, {"status": "PROGRESS", "result": {"current": 2, "total": 4}, "task_id": task_id}
    )
    until(lambda: viewer.currents == [1, 2])
    env.store.put_result(task_id, {"status": "SUCCESS", "result": 7, "task_id": task_id})
    until(lambda: "completed" in viewer.kinds)
    assert viewer.kinds == ["status", "progress", "completed"]


def test_retry_is_sent_as_status(env: HubEnvironment) -> None:
    """A retry and its next attempt are ``status`` frames; the new attempt's progress restarts."""
    run = env.runs.begin().report(5, 10)
    viewer = env.attach_and_wait(run)
    run.write("RETRY", {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"})
    until(lambda: viewer.frames[-1].content.get("phase") == "retrying")
    run.open()
    until(lambda: viewer.frames[-1].content.get("phase") == "running")
    run.report(1, 10)
    until(lambda: viewer.currents[-1] == 1)
    assert viewer.kinds == ["status", "status", "status", "progress"]


def test_reconnecting_viewer_gets_no_older_state(
    env: HubEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer that reconnects while the hub delivers an older state gets what is read later."""
    run = env.runs.begin().report(1, 10)
    viewer, newcomer = env.attach_and_wait(run), RecordingViewer()
    publish = env.hub._publish

    def meanwhile(watched: Any, execution: Execution) -> None:
        monkeypatch.undo()
        run.report(3, 10)
        env.hub.attach(run.id, newcomer, fresh=True)
        publish(watched, execution)

    monkeypatch.setattr(env.hub, "_publish", meanwhile)
    run.report(2, 10)
    until(lambda: newcomer.frames)
    until(lambda: viewer.currents[-1] == 3)
    assert newcomer.currents == [3]


def test_feed_outage_is_error_then_status(env: HubEnvironment) -> None:
    """An outage of the feed is one ``error`` frame per viewer, then ``status`` with the changes."""
    run = env.runs.begin().report(1, 10)
    viewers = [env.attach_and_wait(run), env.attach_and_wait(run)]
    env.feed.disconnect()
    until(lambda: all(viewer.kinds == ["status", "error"] for viewer in viewers))
    assert viewers[0].frames[1].content["code"] == "unavailable"
    run.report(7, 10)
    late = env.attach(run)
    until(lambda: late.kinds == ["error"])
    env.feed.reconnect()
    until(lambda: all(viewer.kinds == ["status", "error", "status"] for viewer in viewers))
    until(lambda: late.kinds == ["error", "status"])
    assert [viewer.currents[-1] for viewer in (*viewers, late)] == [7, 7, 7]
    run.report(8, 10)
    until(lambda: all(viewer.currents[-1] == 8 for viewer in (*viewers, late)))


def test_end_during_outage_is_delivered(env: HubEnvironment) -> None:
    """A viewer that stays connected during an outage gets the end that it missed."""
    run = env.runs.begin().report(1, 10)
    viewer = env.attach_and_wait(run)
    env.feed.disconnect()
    until(lambda: viewer.kinds[-1] == "error")
    run.succeed()
    env.feed.reconnect()
    until(lambda: viewer.kinds[-1] == "completed")
    assert viewer.kinds == ["status", "error", "status", "completed"]


def test_started_is_delivered_after_outage(env: HubEnvironment) -> None:
    """A viewer that saw ``pending`` gets ``started`` before the end; a later one does not."""
    run = env.runs.publish()
    viewer = env.attach_and_wait(run)
    env.feed.disconnect()
    until(lambda: viewer.kinds == ["status", "error"])
    run.open().succeed()
    env.feed.reconnect()
    until(lambda: viewer.kinds == ["status", "error", "status", "started", "completed"])
    late = env.attach(run)
    until(lambda: late.kinds == ["status", "completed"])


def test_backlog_drops_reports_that_cancel_out(env: HubEnvironment) -> None:
    """Reports that return to what a slow viewer has already received are both dropped."""
    run = env.runs.begin().report(1, 10)
    viewer = env.attach_and_wait(run)
    for current in (2, 1, 3):
        run.report(current, 10)
        until(lambda current=current: viewer.currents[-1] == current)
    backlog: Backlog[Frame] = Backlog()
    two, one, three = viewer.frames[1:]
    assert [backlog.put(two), backlog.put(one), len(backlog)] == [0, 2, 0]
    assert [backlog.put(each) for each in (two, three, one)] == [0, 1, 2]
    assert backlog.take() is None
    assert [backlog.put(each) for each in (two, one, three)] == [0, 2, 0]
    assert backlog.take() is three


def test_executions_are_read_in_batches_after_outage(env: HubEnvironment) -> None:
    """`restored` reads everything that is watched, in batches of hundreds."""
    runs = [env.runs.begin() for _ in range(450)]
    viewers = [env.attach(run) for run in runs]
    until(lambda: all(viewer.frames for viewer in viewers))
    env.feed.disconnect()
    until(lambda: all(viewer.kinds == ["status", "error"] for viewer in viewers))
    env.store.reads.clear()
    env.feed.reconnect()
    until(lambda: all(viewer.kinds == ["status", "error", "status"] for viewer in viewers))
    assert len(env.store.reads) <= 4


@pytest.mark.parametrize("env", [{"retry_after": 0.02}], indirect=True)
def test_viewer_during_backend_outage_gets_error_then_status(env: HubEnvironment) -> None:
    """A viewer that attaches during an outage gets one ``error``, and ``status`` afterwards."""
    run = env.runs.begin().report(1, 10)
    env.store.away = True
    viewer = env.attach(run)
    until(lambda: viewer.kinds == ["error"])
    before = len(env.store.reads)
    until(lambda: len(env.store.reads) > before + 3)
    assert viewer.kinds == ["error"]
    env.store.away = False
    until(lambda: viewer.kinds == ["error", "status"])
    assert viewer.currents == [1]


def test_unreadable_record_affects_its_own_viewers_only(
    env: HubEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that breaks the reader is an ``error`` for its own viewers only."""
    good, bad = env.runs.begin(), env.runs.begin()
    viewers = {run.id: env.attach_and_wait(run) for run in (good, bad)}
    env.store.unreadable = {bad.id}
    env.feed.disconnect()
    until(lambda: all(viewer.kinds[-1] == "error" for viewer in viewers.values()))
    env.feed.reconnect()
    until(lambda: viewers[good.id].kinds == ["status", "error", "status"])
    assert viewers[bad.id].kinds == ["status", "error"]


def test_viewers_stay_when_store_loses_data(
    env: HubEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vanished execution keeps its viewers until its next write; a new viewer is refused."""
    run = env.runs.begin().report(1, 10)
    viewer = env.attach_and_wait(run)
    env.store.lose_data()
    env.feed.publish(run.id, None)
    env.wait_until_idle()
    late = env.attach(run)
    until(lambda: late.refused or late.frames)
    run.report(2, 10)
    until(lambda: viewer.currents[-1] == 2)
    assert viewer.refused is None


@pytest.mark.parametrize("env", [{"missing_grace": 0.05}], indirect=True)
def test_viewers_of_vanished_execution_are_refused_after_grace(env: HubEnvironment) -> None:
    """An execution that does not return is refused to its viewers after the grace period."""
    run = env.runs.begin()
    viewer = env.attach_and_wait(run)
    env.store.lose_data()

    def refused() -> bool:
        env.feed.publish(run.id, None)
        return viewer.refused is not None

    until(refused)
    assert isinstance(viewer.refused, ExecutionNotFound)
    until(lambda: not env.feed.watched)


def test_sweep_finds_end_whose_message_was_lost() -> None:
    """A sweep finds an end whose message was lost."""
    env = HubEnvironment(sweep_interval=0.05)
    try:
        run = env.runs.begin()
        viewer = env.attach_and_wait(run)
        env.feed._watched.clear()  # the message is lost
        run.succeed()
        until(lambda: "completed" in viewer.kinds)
        assert env.hub.counts[Count.SWEEPS] >= 1
    finally:
        env.hub.close()


def test_sweep_finds_stopped_and_resumed_heartbeats() -> None:
    """No message reports that heartbeats have stopped or resumed: the sweep finds both."""
    env = HubEnvironment(sweep_interval=0.05)
    try:
        run = env.runs.begin()
        viewer = env.attach_and_wait(run)
        env.store.heartbeat([run.id], "w1@test", 0.05)
        until(lambda: "stalled" in viewer.phases)
        env.store.heartbeat([run.id], "w1@test", 60)
        until(lambda: viewer.phases[-1] == "running")
        assert viewer.phases == ["running", "stalled", "running"]
        assert env.hub.counts[Count.SWEEPS] >= 2
    finally:
        env.hub.close()


def test_report_of_stalled_execution_is_sent_as_status(env: HubEnvironment) -> None:
    """A report ends a stall: the phase changes too, so it is sent as ``status``."""
    run = env.runs.begin()
    env.store.heartbeat([run.id], "w1@test", 0.001)
    until(lambda: env.store.read([run.id])[0].alive is False)
    viewer = env.attach_and_wait(run)
    assert viewer.phases == ["stalled"]
    env.store.heartbeat([run.id], "w1@test", 60)
    run.report(1, 2)
    until(lambda: viewer.phases == ["stalled", "running"])
    assert viewer.currents == [1]


def test_failing_viewer_does_not_affect_others(env: HubEnvironment) -> None:
    """An exception of one viewer neither ends the hub nor affects other viewers."""
    run = env.runs.begin()
    viewers = [env.attach_and_wait(run) for _ in range(3)]
    viewers[1].fails = True
    run.report(1, 2)
    run.report(2, 2)
    until(lambda: all(viewer.currents[-1:] == [2] for viewer in viewers))


def test_hub_continues_after_an_exception(
    env: HubEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub continues after an exception of its own."""
    run = env.runs.begin()
    viewer = env.attach_and_wait(run)
    failures: list[Any] = []

    def fail(*args: Any) -> None:
        failures.append(args)
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(env.hub, "_publish", fail)
        run.report(1, 3)
        until(lambda: failures)
    run.report(2, 3)
    until(lambda: viewer.currents[-1:] == [2])


def test_bursts_of_reports_are_merged(env: HubEnvironment) -> None:
    """Reports faster than their delivery are merged; the feed's thread never blocks."""
    run = env.runs.begin()
    viewer = env.attach_and_wait(run)
    other = env.runs.begin()
    env.store.reading.clear()
    env.store.gate.clear()
    env.attach(other)
    assert env.store.reading.wait(60)  # the hub is blocked
    for number in range(1, 1001):
        run.report(number, 1000)
    until(env.feed._queue.empty)
    env.store.gate.set()
    until(lambda: viewer.currents[-1:] == [1000])
    assert len(viewer.frames) < 10


# Held polls


def in_thread(call: Callable[[], Execution]) -> tuple[threading.Thread, list[Any]]:
    """Run it in a thread; the list receives what it returns or raises."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except HeadwayError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_wait_returns_at_once_if_accepted(env: HubEnvironment) -> None:
    """A held poll returns at once if the current state is accepted."""
    run = env.runs.begin().report(1, 2)
    assert env.hub.wait(run.id, lambda execution: True, 30).progress.current == 1  # type: ignore[union-attr]
    assert not env.hub.watched
    assert not env.feed.watched
    assert env.hub.limiter.in_use == 0


def test_wait_returns_first_accepted_state(env: HubEnvironment) -> None:
    """A held poll returns the first accepted state; `accept` runs in the caller's thread."""
    run = env.runs.begin().report(1, 3)
    threads_of_accept = set()

    def accept(execution: Execution) -> bool:
        threads_of_accept.add(threading.current_thread())
        return execution.progress is not None and execution.progress.current == 3

    thread, outcome = in_thread(lambda: env.hub.wait(run.id, accept, 30))
    until(lambda: threads_of_accept)
    run.report(2, 3)
    run.report(3, 3)
    thread.join(60)
    assert outcome[0].progress.current == 3
    assert threads_of_accept == {thread}


def test_wait_returns_newest_state_after_timeout(env: HubEnvironment) -> None:
    """A held poll returns the newest state when its time is over."""
    env.hub.first_read = 60.0
    run = env.runs.begin().report(1, 3)
    execution = env.hub.wait(run.id, lambda execution: False, 0.05)
    assert execution.status is Status.RUNNING
    assert execution.progress is not None


def test_wait_for_unknown_id_raises(env: HubEnvironment) -> None:
    """A held poll for an unknown id raises what a read raises."""
    with pytest.raises(ExecutionNotFound):
        env.hub.wait("unknown", lambda execution: True, 30)


def test_wait_raises_during_backend_outage(env: HubEnvironment) -> None:
    """A held poll does not wait for the end of an outage."""
    run = env.runs.begin()
    env.store.away = True
    with pytest.raises(Unavailable):
        env.hub.wait(run.id, lambda execution: True, 30)
    assert env.hub.limiter.in_use == 0


def test_wait_counts_as_a_viewer() -> None:
    """Held polls count as viewers: beyond the limit they are refused."""
    env = HubEnvironment(max_viewers=1)
    try:
        run = env.runs.begin()
        asked = threading.Event()
        thread, outcome = in_thread(
            lambda: env.hub.wait(run.id, lambda e: bool(asked.set()) or e.status.terminal, 30)
        )
        assert asked.wait(60)
        with pytest.raises(TooManyRequests):
            env.hub.wait(run.id, lambda execution: True, 30)
        run.succeed()
        thread.join(60)
        assert outcome[0].status is Status.COMPLETED
        assert env.hub.wait(run.id, lambda execution: True, 30).status is Status.COMPLETED
    finally:
        env.hub.close()


def test_close_ends_held_polls() -> None:
    """Held polls return the newest state when the server shuts down."""
    env = HubEnvironment()
    run = env.runs.begin()
    asked = threading.Event()
    thread, outcome = in_thread(lambda: env.hub.wait(run.id, lambda e: bool(asked.set()), 30))
    assert asked.wait(60)
    env.hub.close()
    thread.join(60)
    assert outcome[0].status is Status.RUNNING
    env.hub.close()  # a second call does nothing


def test_viewer_attached_during_close_is_refused(
    env: HubEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer whose subscription comes after `close` is refused, and leaves no feed thread."""
    run = env.runs.begin()
    watch = env.feed.watch

    def late(task_id: str) -> None:
        env.hub.close()
        watch(task_id)

    monkeypatch.setattr(env.feed, "watch", late)
    with pytest.raises(Unavailable):
        env.attach(run)
    assert not env.feed.watched
    assert not env.hub.watched


def test_concurrent_viewers_leave_no_subscription(env: HubEnvironment) -> None:
    """Viewers that come and go in many threads leave nothing; those that stay get every end."""
    runs = [env.runs.begin() for _ in range(4)]
    staying = [env.attach_and_wait(run) for run in runs]

    def attach_and_detach() -> None:
        for number in range(40):
            run = runs[number % 4]
            viewer = env.attach(run)
            env.hub.detach(run.id, viewer)

    threads = [threading.Thread(target=attach_and_detach) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(1, 21):
        for run in runs:
            run.report(number, 20)
    for thread in threads:
        thread.join(60)
    for run, viewer in zip(runs, staying, strict=True):
        run.succeed()
        until(lambda viewer=viewer: "completed" in viewer.kinds)
        env.hub.detach(run.id, viewer)
    assert not env.feed.watched
    assert not env.hub.watched


def test_detached_viewers_are_released(env: HubEnvironment) -> None:
    """A detached viewer is released at once, without a further change."""
    run = env.runs.begin()
    staying = env.attach_and_wait(run)
    gone = [weakref.ref(env.attach_and_wait(run)) for _ in range(3)]
    for ref in gone:
        viewer = ref()
        assert viewer is not None
        env.hub.detach(run.id, viewer)
    del viewer

    def held() -> int:
        gc.collect()
        return sum(ref() is not None for ref in gone)

    until(lambda: not held(), what="the detached viewers to be released")
    assert staying.kinds == ["status"]


def test_unwatched_execution_is_released(env: HubEnvironment) -> None:
    """The hub releases an execution with its last viewer, without a further change."""
    run = env.runs.begin()
    run.succeed()
    viewer = env.attach_and_wait(run)
    env.hub.detach(run.id, viewer)

    def held() -> list[object]:
        gc.collect()
        return [
            each
            for each in gc.get_objects()
            if type(each) is hub_module._Watched and each.execution_id == run.id
        ]

    until(lambda: not held(), what="the execution to be released")
