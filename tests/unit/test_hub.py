"""The hub, over the fake store and the fake feed: what viewers are told, and when."""

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
from headway.server.streams.changes import Change, Frame
from headway.server.streams.hub import Hub
from headway.stores.memory import MemoryStore
from tests.support.fake_worker import FakeExecution, FakeWorker
from tests.support.wait import until


class CountingStore(MemoryStore):
    """Counts reads, and may hold them back."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, ...]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        self.poisoned: set[str] = set()

    def read(self, task_ids: Sequence[str]) -> list[Snapshot]:
        self.asked.append(tuple(task_ids))
        if self.poisoned & set(task_ids):
            raise ValueError("a record that can't be read")
        found = super().read(task_ids)
        self.reading.set()
        self.gate.wait(60)
        return found

    def forget(self) -> None:
        """Lose everything, as a server does that keeps nothing on disk."""
        self._records.clear()
        self._results.clear()


class Eye:
    """A viewer that writes down what it is shown."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.refused: HeadwayError | None = None
        self.fails = False

    def deliver(self, change: Change) -> None:
        self.frames += change.frames
        if self.fails:
            raise RuntimeError("this viewer was told to fail")

    def refuse(self, execution_id: str, error: HeadwayError) -> None:
        self.refused = error

    @property
    def kinds(self) -> list[str]:
        """The types of the frames, in order."""
        return [frame.kind for frame in self.frames]

    @property
    def phases(self) -> list[str]:
        """The phases that it was told."""
        return [frame.content["phase"] for frame in self.frames if frame.kind == "status"]

    @property
    def currents(self) -> list[Any]:
        """How far each frame with progress says it is."""
        return [
            frame.content["progress"]["current"]
            for frame in self.frames
            if frame.content.get("progress")
        ]


class House:
    """A hub and what it stands on. Its sweep comes where a test wants it: a test that is held up
    would be given reads by it.
    """

    def __init__(self, *, sweep_interval: float = 3600.0, **options: Any) -> None:
        self.store = CountingStore()
        self.feed = MemoryFeed(self.store)
        self.hub = Hub(self.store, self.feed, sweep_interval=sweep_interval, **options)
        self.runs = FakeWorker(self.store, lambda meta: json.dumps(meta).encode())

    def look(self, run: FakeExecution | str) -> Eye:
        """A viewer who has just come."""
        eye = Eye()
        self.hub.attach(run if isinstance(run, str) else run.id, eye)
        return eye

    def looking(self, run: FakeExecution) -> Eye:
        """A viewer who has been told ``status``."""
        eye = self.look(run)
        until(lambda: eye.frames)
        return eye

    def quiet(self) -> None:
        """Return when the hub has worked off everything that was stored before."""
        marker = self.runs.begin()
        eye = self.looking(marker)
        marker.report(1, 2)
        until(lambda: eye.currents == [1])
        self.hub.detach(marker.id, eye)


@pytest.fixture
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    house = House(**getattr(request, "param", {}))
    yield house
    house.hub.close()


def test_status_first_then_every_change(house: House) -> None:
    """A viewer sees ``status``, ``started``, each progress and the end, in that order and each
    once.
    """
    run = house.runs.publish()
    eye = house.looking(run)
    assert eye.frames[0].content["status"] == "pending"
    run.open()
    until(lambda: eye.kinds == ["status", "started"])
    for number in range(1, 4):
        run.report(number, 3)
        until(lambda number=number: eye.currents == list(range(1, number + 1)))
    run.succeed({"rows": 3})
    until(lambda: "completed" in eye.kinds)
    assert eye.kinds == ["status", "started", "progress", "progress", "progress", "completed"]
    assert eye.frames[-1].content["outputs"] == {"rows": 3}
    assert eye.frames[-1].content["progress"]["current"] == 3


def test_at_once_from_pending_to_its_end(house: House) -> None:
    """A run that is over before anybody could look still gives ``started`` before its end."""
    run = house.runs.publish()
    eye = house.looking(run)
    house.feed.disconnect()  # nothing of what happens in between is heard
    until(lambda: eye.kinds[-1] == "error")
    house.feed.reconnect()
    until(lambda: eye.kinds[-1] == "status")
    house.store.gate.clear()
    run.open()
    run.succeed()
    house.store.gate.set()
    until(lambda: eye.kinds[-1] == "completed")
    assert eye.kinds == ["status", "error", "status", "started", "completed"]


def test_already_over(house: House) -> None:
    """Of an execution that has ended, a viewer is told ``status`` and the end."""
    run = house.runs.begin().report(3, 10).fail("ValueError", "row 4")
    eye = house.look(run)
    until(lambda: len(eye.frames) == 2)
    assert eye.kinds == ["status", "failed"]
    assert eye.frames[1].content["error"]["message"] == "row 4"
    assert eye.currents == [3, 3]


def test_unknown(house: House) -> None:
    """An id that nobody published is refused, and nothing of it is watched any more."""
    eye = house.look("nobody")
    until(lambda: eye.refused)
    assert isinstance(eye.refused, ExecutionNotFound)
    assert not eye.frames
    until(lambda: not house.hub.watched and not house.feed.watched)


def test_expired(house: House) -> None:
    """An execution whose result is gone is refused as such."""
    run = house.runs.begin().succeed()
    house.store._results.clear()
    eye = house.look(run)
    until(lambda: eye.refused)
    assert isinstance(eye.refused, ExecutionExpired)


def test_one_watch_however_many_look(house: House) -> None:
    """A thousand viewers are one upstream watch and one read; all get the same bytes, and after the
    last there is no watch.
    """
    run = house.runs.begin()
    eyes = [house.looking(run)]
    reads = len(house.store.asked)
    eyes += [house.look(run) for _ in range(999)]
    until(lambda: all(eye.frames for eye in eyes))
    assert house.feed.watched == {run.id}
    assert len(house.store.asked) == reads
    run.report(1, 2)
    until(lambda: all(len(eye.frames) == 2 for eye in eyes))
    assert len({id(eye.frames[1].on_wire) for eye in eyes}) == 1
    assert len(house.store.asked) == reads, "a report of the open attempt wants no read"
    for eye in eyes[1:]:
        house.hub.detach(run.id, eye)
    assert house.feed.watched == {run.id}
    house.hub.detach(run.id, eyes[0])
    house.hub.detach(run.id, eyes[0])  # a second call does nothing
    assert not house.feed.watched
    assert not house.hub.watched


def test_late_joiner(house: House) -> None:
    """Who comes in the middle gets the state of that moment once, and then what follows, with
    nothing lost or doubled.
    """
    run = house.runs.begin()
    first = house.looking(run)
    eyes: list[Eye] = []
    for number in range(1, 101):
        run.report(number, 100)
        eyes.append(house.look(run))
    run.succeed()
    for eye in [first, *eyes]:
        until(lambda eye=eye: "completed" in eye.kinds)
        assert eye.kinds[0] == "status"
        assert eye.kinds.count("status") == eye.kinds.count("completed") == 1
        steps = eye.currents[:-1]  # the end repeats the last
        assert steps == sorted(set(steps)), "each once, and never backwards"
        assert eye.currents[-1] == 100


def test_nothing_is_lost_between_connect_and_first_change(house: House) -> None:
    """What is stored while the first snapshot is being read is told after it (fact 23)."""
    run = house.runs.begin()
    house.store.gate.clear()
    eye = house.look(run)
    assert house.store.reading.wait(60)  # the snapshot is taken, and not looked at yet
    run.report(1, 2)
    run.succeed("done")
    house.store.gate.set()
    until(lambda: "completed" in eye.kinds)
    assert eye.kinds[0] == "status"
    assert eye.currents[0:1] in ([], [1])


def test_a_snapshot_before_the_watch_is_taken_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a second viewer's coming led to a read before the watch was in force, it is read again
    afterwards (fact 23).
    """
    run = house.runs.begin()
    asked, in_force = threading.Event(), threading.Event()
    watch = house.feed.watch

    def slow_watch(task_id: str) -> None:
        asked.set()
        assert in_force.wait(60)
        watch(task_id)

    monkeypatch.setattr(house.feed, "watch", slow_watch)
    thread = threading.Thread(target=house.look, args=(run,))
    thread.start()
    assert asked.wait(60)
    eye = house.looking(run)
    run.report(1, 2)  # nobody hears of it
    in_force.set()
    until(lambda: eye.currents == [1])
    thread.join(60)


def test_a_message_older_than_the_snapshot_is_not_told(house: House) -> None:
    """A report that waited while a read overtook it doesn't take the viewer back."""
    run = house.runs.begin().report(1, 10)
    old = json.loads(house.store._result(run.id) or b"")
    run.report(5, 10)
    eye = house.looking(run)
    house.feed.publish(run.id, old)
    house.quiet()
    run.report(6, 10)
    until(lambda: eye.currents[-1] == 6)
    assert eye.currents == [5, 6]


def test_a_report_of_another_attempt_is_a_hint_only(house: House) -> None:
    """A report that the fence didn't let in is never told, though it was published."""
    run = house.runs.begin().report(5, 10)
    eye = house.looking(run)
    stale = json.loads(house.store._result(run.id) or b"")
    stale["result"] |= {"attempt": 7, "current": 9, "timestamp": stale["result"]["timestamp"] + 1e6}
    house.feed.publish(run.id, stale)
    house.quiet()
    assert eye.currents == [5]


def test_a_report_after_the_end_is_not_told(house: House) -> None:
    """Terminal is terminal: what is published after it changes nothing for anybody who looks on."""
    run = house.runs.begin().report(5, 10)
    late = json.loads(house.store._result(run.id) or b"")
    eye = house.looking(run)
    run.fail()
    until(lambda: eye.kinds[-1] == "failed")
    late["result"] |= {"current": 9, "timestamp": late["result"]["timestamp"] + 1e6}
    house.store.put_result(run.id, late)  # past the fence, as a process without Headway does it
    house.quiet()
    assert eye.kinds == ["status", "failed"]
    again = house.look(run)
    until(lambda: len(again.frames) == 2)
    assert again.kinds == ["status", "failed"]


def test_an_end_without_a_fence_stays_one(house: House) -> None:
    """Celery itself un-ends tasks that Headway doesn't fence (fact 14): who comes later is told the
    end that others were told.
    """
    task_id = uuid.uuid4().hex
    house.store.put_result(task_id, {"status": "FAILURE", "result": None, "task_id": task_id})
    eye = house.look(task_id)
    until(lambda: eye.kinds == ["status", "failed"])
    house.store.put_result(
        task_id, {"status": "PROGRESS", "result": {"current": 1, "total": 4}, "task_id": task_id}
    )
    house.quiet()
    late = house.look(task_id)
    until(lambda: late.kinds == ["status", "failed"])
    assert eye.kinds == ["status", "failed"]


def test_an_end_is_not_hidden_by_what_comes_after_it(house: House) -> None:
    """An end and a late report behind it in one batch: the end is told."""
    run = house.runs.begin().report(5, 10)
    late = json.loads(house.store._result(run.id) or b"")
    late["result"] |= {"current": 9, "timestamp": late["result"]["timestamp"] + 1e6}
    eye = house.looking(run)
    other = house.runs.begin()
    house.store.reading.clear()
    house.store.gate.clear()
    house.look(other)  # keeps the hub busy reading
    assert house.store.reading.wait(60)
    run.succeed()
    house.feed.publish(run.id, late)
    house.store.gate.set()
    until(lambda: "completed" in eye.kinds)
    assert eye.kinds == ["status", "completed"]


def test_tasks_that_never_heard_of_headway(house: House) -> None:
    """A plain ``update_state`` of a task without Headway is streamed too (fact 22)."""
    task_id = uuid.uuid4().hex
    house.store.put_result(
        task_id, {"status": "PROGRESS", "result": {"current": 1, "total": 4}, "task_id": task_id}
    )
    eye = house.look(task_id)
    until(lambda: eye.currents == [1])
    house.store.put_result(
        task_id, {"status": "PROGRESS", "result": {"current": 2, "total": 4}, "task_id": task_id}
    )
    until(lambda: eye.currents == [1, 2])
    house.store.put_result(task_id, {"status": "SUCCESS", "result": 7, "task_id": task_id})
    until(lambda: "completed" in eye.kinds)
    assert eye.kinds == ["status", "progress", "completed"]


def test_a_retry_is_a_status(house: House) -> None:
    """A retry and its next attempt are told as ``status``; progress of the new attempt starts anew."""
    run = house.runs.begin().report(5, 10)
    eye = house.looking(run)
    run.write("RETRY", {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"})
    until(lambda: eye.frames[-1].content.get("phase") == "retrying")
    run.open()
    until(lambda: eye.frames[-1].content.get("phase") == "running")
    run.report(1, 10)
    until(lambda: eye.currents[-1] == 1)
    assert eye.kinds == ["status", "status", "status", "progress"]


def test_who_knows_more_is_not_led_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes back while the hub tells of an older state is told of what is read after it has
    come.
    """
    run = house.runs.begin().report(1, 10)
    eye, newcomer = house.looking(run), Eye()
    tell = house.hub._publish

    def meanwhile(watched: Any, execution: Execution) -> None:
        monkeypatch.undo()
        run.report(3, 10)
        house.hub.attach(run.id, newcomer, fresh=True)
        tell(watched, execution)

    monkeypatch.setattr(house.hub, "_publish", meanwhile)
    run.report(2, 10)
    until(lambda: newcomer.frames)
    until(lambda: eye.currents[-1] == 3)
    assert newcomer.currents == [3]


def test_feed_lost_and_restored(house: House) -> None:
    """An outage of the feed is one ``error`` frame to each viewer, and a fresh ``status`` with what
    was missed.
    """
    run = house.runs.begin().report(1, 10)
    eyes = [house.looking(run), house.looking(run)]
    house.feed.disconnect()
    until(lambda: all(eye.kinds == ["status", "error"] for eye in eyes))
    assert eyes[0].frames[1].content["code"] == "unavailable"
    run.report(7, 10)
    late = house.look(run)
    until(lambda: late.kinds == ["error"])
    house.feed.reconnect()
    until(lambda: all(eye.kinds == ["status", "error", "status"] for eye in eyes))
    until(lambda: late.kinds == ["error", "status"])
    assert [eye.currents[-1] for eye in (*eyes, late)] == [7, 7, 7]
    run.report(8, 10)
    until(lambda: all(eye.currents[-1] == 8 for eye in (*eyes, late)))


def test_an_end_during_an_outage(house: House) -> None:
    """Who looks on through an outage is told the end that came meanwhile."""
    run = house.runs.begin().report(1, 10)
    eye = house.looking(run)
    house.feed.disconnect()
    until(lambda: eye.kinds[-1] == "error")
    run.succeed()
    house.feed.reconnect()
    until(lambda: eye.kinds[-1] == "completed")
    assert eye.kinds == ["status", "error", "status", "completed"]


def test_begun_and_ended_during_an_outage(house: House) -> None:
    """Who saw it pending before an outage is told that it ``started`` before its end; who comes
    then is not.
    """
    run = house.runs.publish()
    eye = house.looking(run)
    house.feed.disconnect()
    until(lambda: eye.kinds == ["status", "error"])
    run.open().succeed()
    house.feed.reconnect()
    until(lambda: eye.kinds == ["status", "error", "status", "started", "completed"])
    late = house.look(run)
    until(lambda: late.kinds == ["status", "completed"])


def test_a_report_that_comes_back(house: House) -> None:
    """Reports that lead back to what a slow viewer was shown last are not told to it: never twice
    the same.
    """
    run = house.runs.begin().report(1, 10)
    eye = house.looking(run)
    for current in (2, 1, 3):
        run.report(current, 10)
        until(lambda current=current: eye.currents[-1] == current)
    backlog: Backlog[Frame] = Backlog()
    two, one, three = eye.frames[1:]
    assert [backlog.put(two), backlog.put(one), len(backlog)] == [0, 2, 0]
    assert [backlog.put(each) for each in (two, three, one)] == [0, 1, 2]
    assert backlog.take() is None
    assert [backlog.put(each) for each in (two, one, three)] == [0, 2, 0]
    assert backlog.take() is three


def test_after_an_outage_all_are_read_in_batches(house: House) -> None:
    """`restored` reads everything watched, some hundreds at a time, not one by one."""
    runs = [house.runs.begin() for _ in range(450)]
    eyes = [house.look(run) for run in runs]
    until(lambda: all(eye.frames for eye in eyes))
    house.feed.disconnect()
    until(lambda: all(eye.kinds == ["status", "error"] for eye in eyes))
    house.store.asked.clear()
    house.feed.reconnect()
    until(lambda: all(eye.kinds == ["status", "error", "status"] for eye in eyes))
    assert len(house.store.asked) <= 4


@pytest.mark.parametrize("house", [{"retry_after": 0.02}], indirect=True)
def test_backend_away_at_connect(house: House) -> None:
    """With the backend away a newcomer is told so once, stays, and gets ``status`` when it is back."""
    run = house.runs.begin().report(1, 10)
    house.store.away = True
    eye = house.look(run)
    until(lambda: eye.kinds == ["error"])
    tries = len(house.store.asked)
    until(lambda: len(house.store.asked) > tries + 3)
    assert eye.kinds == ["error"]
    house.store.away = False
    until(lambda: eye.kinds == ["error", "status"])
    assert eye.currents == [1]


def test_one_record_that_cannot_be_read(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """A record that breaks the reader is told as unavailable to its own viewers, and to no others."""
    good, bad = house.runs.begin(), house.runs.begin()
    eyes = {run.id: house.looking(run) for run in (good, bad)}
    house.store.poisoned = {bad.id}
    house.feed.disconnect()
    until(lambda: all(eye.kinds[-1] == "error" for eye in eyes.values()))
    house.feed.reconnect()
    until(lambda: eyes[good.id].kinds == ["status", "error", "status"])
    assert eyes[bad.id].kinds == ["status", "error"]


def test_a_store_that_lost_its_data(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An execution that vanished is kept for its viewers until its next write brings it back; a
    newcomer is refused.
    """
    run = house.runs.begin().report(1, 10)
    eye = house.looking(run)
    house.store.forget()
    house.feed.publish(run.id, None)
    house.quiet()
    late = house.look(run)
    until(lambda: late.refused or late.frames)
    run.report(2, 10)
    until(lambda: eye.currents[-1] == 2)
    assert eye.refused is None


@pytest.mark.parametrize("house", [{"missing_grace": 0.05}], indirect=True)
def test_vanished_for_good(house: House) -> None:
    """One that stays gone is refused to its viewers too, after the grace."""
    run = house.runs.begin()
    eye = house.looking(run)
    house.store.forget()

    def refused() -> bool:
        house.feed.publish(run.id, None)
        return eye.refused is not None

    until(refused)
    assert isinstance(eye.refused, ExecutionNotFound)
    until(lambda: not house.feed.watched)


def test_the_sweep_finds_a_lost_message() -> None:
    """An end whose message was lost is found by the sweep."""
    house = House(sweep_interval=0.05)
    try:
        run = house.runs.begin()
        eye = house.looking(run)
        house.feed._watched.clear()  # the server forgot to publish, or the message was dropped
        run.succeed()
        until(lambda: "completed" in eye.kinds)
        assert house.hub.counts[Count.SWEEPS] >= 1
    finally:
        house.hub.close()


def test_the_sweep_sees_life_stop_and_come_back() -> None:
    """No message tells that signs of life have stopped: the sweep does, and that they are back."""
    house = House(sweep_interval=0.05)
    try:
        run = house.runs.begin()
        eye = house.looking(run)
        house.store.heartbeat([run.id], "w1@test", 0.05)
        until(lambda: "stalled" in eye.phases)
        house.store.heartbeat([run.id], "w1@test", 60)
        until(lambda: eye.phases[-1] == "running")
        assert eye.phases == ["running", "stalled", "running"]
        assert house.hub.counts[Count.SWEEPS] >= 2
    finally:
        house.hub.close()


def test_a_report_ends_a_stall(house: House) -> None:
    """What reports lives: the report is told as a status, for the phase changes with it."""
    run = house.runs.begin()
    house.store.heartbeat([run.id], "w1@test", 0.001)
    until(lambda: house.store.read([run.id])[0].alive is False)
    eye = house.looking(run)
    assert eye.phases == ["stalled"]
    house.store.heartbeat([run.id], "w1@test", 60)
    run.report(1, 2)
    until(lambda: eye.phases == ["stalled", "running"])
    assert eye.currents == [1]


def test_a_viewer_that_fails_harms_nobody(house: House) -> None:
    """An exception of one viewer neither ends the hub nor keeps the others from being told."""
    run = house.runs.begin()
    eyes = [house.looking(run) for _ in range(3)]
    eyes[1].fails = True
    run.report(1, 2)
    run.report(2, 2)
    until(lambda: all(eye.currents[-1:] == [2] for eye in eyes))


def test_a_fault_in_a_round_is_not_the_end(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub goes on after a fault of its own."""
    run = house.runs.begin()
    eye = house.looking(run)
    faults: list[Any] = []

    def fail(*args: Any) -> None:
        faults.append(args)
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(house.hub, "_publish", fail)
        run.report(1, 3)
        until(lambda: faults)
    run.report(2, 3)
    until(lambda: eye.currents[-1:] == [2])


def test_bursts_merge(house: House) -> None:
    """What comes faster than it can be told merges to the newest; the feed's thread waits for
    nobody.
    """
    run = house.runs.begin()
    eye = house.looking(run)
    other = house.runs.begin()
    house.store.reading.clear()
    house.store.gate.clear()
    house.look(other)
    assert house.store.reading.wait(60)  # the hub is held up
    for number in range(1, 1001):
        run.report(number, 1000)
    until(house.feed._queue.empty)
    house.store.gate.set()
    until(lambda: eye.currents[-1:] == [1000])
    assert len(eye.frames) < 10


# Held polls


def in_thread(call: Callable[[], Execution]) -> tuple[threading.Thread, list[Any]]:
    """Run it; the list gets what it returned or raised."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except HeadwayError as exc:
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_wait_returns_news_at_once(house: House) -> None:
    """A held poll whose answer is there already isn't held."""
    run = house.runs.begin().report(1, 2)
    assert house.hub.wait(run.id, lambda execution: True, 30).progress.current == 1  # type: ignore[union-attr]
    assert not house.hub.watched
    assert not house.feed.watched
    assert house.hub.limiter.in_use == 0


def test_wait_is_held_until_there_is_news(house: House) -> None:
    """A held poll answers with the first state that its caller calls news, asked in the caller's
    own thread.
    """
    run = house.runs.begin().report(1, 3)
    askers = set()

    def is_news(execution: Execution) -> bool:
        askers.add(threading.current_thread())
        return execution.progress is not None and execution.progress.current == 3

    thread, outcome = in_thread(lambda: house.hub.wait(run.id, is_news, 30))
    until(lambda: askers)
    run.report(2, 3)
    run.report(3, 3)
    thread.join(60)
    assert outcome[0].progress.current == 3
    assert askers == {thread}


def test_wait_ends_with_the_newest(house: House) -> None:
    """A held poll without news answers with what there is when its time is over."""
    house.hub.first_read = 60.0
    run = house.runs.begin().report(1, 3)
    execution = house.hub.wait(run.id, lambda execution: False, 0.05)
    assert execution.status is Status.RUNNING
    assert execution.progress is not None


def test_wait_unknown(house: House) -> None:
    """A held poll for an unknown id raises what a read does."""
    with pytest.raises(ExecutionNotFound):
        house.hub.wait("nobody", lambda execution: True, 30)


def test_wait_backend_away(house: House) -> None:
    """A held poll doesn't sit out an outage."""
    run = house.runs.begin()
    house.store.away = True
    with pytest.raises(Unavailable):
        house.hub.wait(run.id, lambda execution: True, 30)
    assert house.hub.limiter.in_use == 0


def test_wait_takes_a_seat() -> None:
    """Held polls count as viewers: beyond the budget they are refused."""
    house = House(max_viewers=1)
    try:
        run = house.runs.begin()
        asked = threading.Event()
        thread, outcome = in_thread(
            lambda: house.hub.wait(run.id, lambda e: bool(asked.set()) or e.status.terminal, 30)
        )
        assert asked.wait(60)
        with pytest.raises(TooManyRequests):
            house.hub.wait(run.id, lambda execution: True, 30)
        run.succeed()
        thread.join(60)
        assert outcome[0].status is Status.COMPLETED
        assert house.hub.wait(run.id, lambda execution: True, 30).status is Status.COMPLETED
    finally:
        house.hub.close()


def test_close_ends_held_polls() -> None:
    """A server that goes down doesn't wait for its held polls: they answer with what there is."""
    house = House()
    run = house.runs.begin()
    asked = threading.Event()
    thread, outcome = in_thread(lambda: house.hub.wait(run.id, lambda e: bool(asked.set()), 30))
    assert asked.wait(60)
    house.hub.close()
    thread.join(60)
    assert outcome[0].status is Status.RUNNING
    house.hub.close()  # a second call does nothing


def test_who_comes_while_it_closes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer whose watch is overtaken by the hub's end is sent away, and no thread of the feed is
    left behind.
    """
    run = house.runs.begin()
    watch = house.feed.watch

    def late(task_id: str) -> None:
        house.hub.close()
        watch(task_id)

    monkeypatch.setattr(house.feed, "watch", late)
    with pytest.raises(Unavailable):
        house.look(run)
    assert not house.feed.watched
    assert not house.hub.watched


def test_comings_and_goings_leave_nothing(house: House) -> None:
    """Viewers who come and go in many threads leave no watch and no seat, and those who stay are
    told everything.
    """
    runs = [house.runs.begin() for _ in range(4)]
    staying = [house.looking(run) for run in runs]

    def come_and_go() -> None:
        for number in range(40):
            run = runs[number % 4]
            eye = house.look(run)
            house.hub.detach(run.id, eye)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for number in range(1, 21):
        for run in runs:
            run.report(number, 20)
    for thread in threads:
        thread.join(60)
    for run, eye in zip(runs, staying, strict=True):
        run.succeed()
        until(lambda eye=eye: "completed" in eye.kinds)
        house.hub.detach(run.id, eye)
    assert not house.feed.watched
    assert not house.hub.watched


def test_nobody_who_left_is_held(house: House) -> None:
    """A viewer that came in the last round of its execution and left is let go at once, whoever
    stays, and nothing is needed to happen for that.
    """
    run = house.runs.begin()
    staying = house.looking(run)
    gone = [weakref.ref(house.looking(run)) for _ in range(3)]
    for ref in gone:
        eye = ref()
        assert eye is not None
        house.hub.detach(run.id, eye)
    del eye

    def held() -> int:
        gc.collect()
        return sum(ref() is not None for ref in gone)

    until(lambda: not held(), what="those who left to be let go")
    assert staying.kinds == ["status"]


def test_no_execution_that_nobody_watches_is_held(house: House) -> None:
    """What the hub has shown last is let go with its last viewer, and nothing is needed to happen
    for that.
    """
    run = house.runs.begin()
    run.succeed()
    eye = house.looking(run)
    house.hub.detach(run.id, eye)

    def held() -> list[object]:
        gc.collect()
        return [
            each
            for each in gc.get_objects()
            if type(each) is hub_module._Watched and each.execution_id == run.id
        ]

    until(lambda: not held(), what="the execution to be let go")
