"""Each store and the pure rules must give equal answers to any sequence of calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from headway.core import states
from headway.core.registry import READY_STATES, AttemptStart, Registration, StateWrite, TaskRecord
from headway.errors import ExecutionExpired
from headway.models import Query, Status
from headway.stores.memory import MemoryStore
from headway.stores.pagination import (
    IndexReader,
    Slice,
    indexed_status,
    matches,
    position_of,
    status_index,
)
from tests.support import stores
from tests.support.stores import StoreUnderTest, at, report

IDS = st.sampled_from(["a", "b"])
STATES = st.sampled_from(
    ["PROGRESS", "PROGRESS", "WORKING", "STARTED", "PENDING", "RETRY", *sorted(READY_STATES)]
)
RESULTS = st.one_of(
    st.none(),
    st.builds(report, st.integers(0, 5), st.integers(0, 5)),
    st.sampled_from(
        ["text", {}, {"message": "m"}, {"exc_type": "E", "exc_message": ["m"]}, {"rows": 7}, 42]
    ),
)
WORKERS = st.sampled_from([None, "w1", "w2"])
RETRIES = st.integers(0, 2)
DELIVERIES = st.sampled_from([None, "r1", "r2"])
OWNERS = st.sampled_from([None, "ann", "bob"])
STARTS = st.builds(
    AttemptStart,
    IDS,
    st.just("tasks.t"),
    st.just(at(0)),
    RETRIES,
    WORKERS,
    store_result=st.booleans(),
    delivery_id=DELIVERIES,
    owner=OWNERS,
    retry_published=st.booleans(),
)
ATTEMPT_WRITES = st.builds(
    StateWrite,
    IDS,
    STATES,
    st.just(at(0)),
    st.integers(0, 4),
    meta=RESULTS,
    task=st.sampled_from([None, "tasks.t", "tasks.u"]),
    no_result=st.booleans(),
)
EXTERNAL_WRITES = st.builds(
    StateWrite,
    IDS,
    STATES,
    st.just(at(0)),
    retries=st.none() | RETRIES,
    worker=WORKERS,
    delivery_id=DELIVERIES,
    meta=RESULTS,
)


LIFETIME = 600.0


def without_heartbeat_time(record: TaskRecord) -> TaskRecord:
    """Return the record without its heartbeat time, which only some stores keep."""
    return replace(record, heartbeat_at=None)


class Machine(RuleBasedStateMachine):
    """Compare ``subject``, which the test sets, with a dict of records and the pure rules."""

    subject: StoreUnderTest

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, TaskRecord] = {}
        self.kept: set[str] = set()
        self.reindexed: set[str] = set()
        self.seconds = 0
        self.lose_data()

    def now(self) -> int:
        self.seconds += 1
        return self.seconds

    @rule(task_id=IDS, owner=OWNERS, delay=st.sampled_from([None, 0, 86400]))
    def register(self, task_id: str, owner: str | None, delay: int | None) -> None:
        expected_by = None if delay is None else at(self.seconds + delay)
        registration = Registration(
            task_id, "tasks.t", at(self.now()), owner=owner, expected_by=expected_by
        )
        self.subject.store.register([registration])
        self.known[task_id] = states.apply_registration(self.known.get(task_id), registration)

    @rule(start=STARTS)
    def start_attempt(self, start: AttemptStart) -> None:
        # After the grace period in which a result may still arrive.
        self.seconds += 60
        task_id, start = start.task_id, replace(start, at=at(self.now()))
        record = self.known.get(task_id)
        expected = states.start_reply(record, start, result_gone=task_id not in self.kept)
        answer = self.subject.store.start_attempt(start)
        assert answer == expected
        if expected.attempt and not states.is_same_delivery(record, start):
            self.known[task_id] = states.apply_start(record, start)
            if start.store_result:
                self.kept.add(task_id)

    @rule(write=ATTEMPT_WRITES)
    def write_as_attempt(self, write: StateWrite) -> None:
        self.write(replace(write, at=at(self.now())))

    @rule(task_id=IDS, state=STATES, result=RESULTS)
    def write_open(self, task_id: str, state: str, result: object) -> None:
        known = self.known.get(task_id)
        self.write(
            StateWrite(
                task_id,
                state,
                at(self.now()),
                attempt=known.attempt if known is not None else 1,
                meta=result,
            )
        )

    @rule(write=EXTERNAL_WRITES)
    def write_as_external_writer(self, write: StateWrite) -> None:
        self.write(replace(write, at=at(self.now())))

    @rule(
        task_id=IDS,
        state=st.sampled_from(["PROGRESS", "SUCCESS", "IGNORED", "REJECTED"]),
        attempt=st.none() | st.integers(1, 3),
    )
    def write_no_result(self, task_id: str, state: str, attempt: int | None) -> None:
        write = StateWrite(
            task_id,
            state,
            at(self.now()),
            attempt=attempt,
            meta=report(1) if state == "PROGRESS" else None,
        )
        record = self.known.get(task_id)
        assert self.subject.store.write(write) == states.write_reply(record, write)
        if states.allows_write(record, write):
            self.known[task_id] = states.apply_write(record, write)

    @rule(task_id=IDS, worker=st.sampled_from(["w1", "w2"]))
    def heartbeat(self, task_id: str, worker: str) -> None:
        known = states.apply_heartbeat(self.known.get(task_id), worker, LIFETIME, at(self.now()))
        requested = known is not None and known.cancel_requested_at is not None
        assert self.subject.store.heartbeat([task_id], worker, LIFETIME) == (
            {task_id} if requested else set()
        )
        if known is not None:
            self.known[task_id] = known

    @rule(task_id=IDS)
    def request_cancel(self, task_id: str) -> None:
        record, now = self.known.get(task_id), at(self.now())
        known = (
            states.apply_cancel_request(record, task_id, now)
            if record is not None or task_id in self.kept
            else None
        )
        answer = self.subject.store.request_cancel(task_id, now)
        assert (answer and answer.record and without_heartbeat_time(answer.record)) == (
            known and without_heartbeat_time(known)
        )
        if known is not None:
            self.known[task_id] = known

    @rule(task_id=IDS)
    def forget(self, task_id: str) -> None:
        known = self.known.get(task_id)
        if known is not None and known.state in READY_STATES and task_id in self.kept:
            self.subject.forget(task_id)
            self.kept.discard(task_id)

    @rule()
    def lose_data(self) -> None:
        """Restart the server without its data."""
        store, app = self.subject.store, self.subject.app
        self.known, self.kept, self.reindexed = {}, set(), set()
        if isinstance(store, MemoryStore):
            store._records.clear()
            store._results.clear()
        else:
            assert app is not None
            app.backend.client.flushdb()

    def write(self, write: StateWrite) -> None:
        record = self.known.get(write.task_id)
        expected = states.allows_write(record, write)
        more = {
            "attempt": write.attempt,
            "retries": write.retries,
            "worker": write.worker,
            "task": write.task,
        }
        more |= {"delivery_id": write.delivery_id, "no_result": write.no_result}
        accepted = self.subject.write(
            write.task_id, write.state, self.seconds, result=write.meta, **more
        )
        assert accepted == states.write_reply(record, write)
        if expected:
            encoded = self.subject.encode(write.task_id, write.state, write.meta)
            self.known[write.task_id] = states.apply_write(record, replace(write, result=encoded))
            self.kept.add(write.task_id)

    @invariant()
    def records_equal_model(self) -> None:
        snapshots = self.subject.store.read(["a", "b"])
        records = [
            snapshot.record and without_heartbeat_time(snapshot.record) for snapshot in snapshots
        ]
        assert records == [
            known and without_heartbeat_time(known)
            for known in (self.known.get("a"), self.known.get("b"))
        ]
        for snapshot, known in zip(
            snapshots, (self.known.get("a"), self.known.get("b")), strict=True
        ):
            beats = known is not None and known.is_open and known.heartbeat_attempt == known.attempt
            assert snapshot.alive is (True if beats else None)

    @invariant()
    def listings_equal_model(self) -> None:
        store = self.subject.store
        assert isinstance(store, IndexReader)
        shown = {
            task_id: known
            for task_id, known in self.known.items()
            if self.status(task_id) is not None
        }
        names = [status_index(status) for status in Status]
        # A PENDING state may carry a report: only a read shows that the task runs, and repairs the
        # index.
        self.reindexed |= {
            task_id
            for task_id, known in shown.items()
            if self.status(task_id) is not indexed_status(known)
        }
        for name, scan in zip(names, store.scan(names, Slice(None, 0, 10)), strict=True):
            certain = {
                task_id: known for task_id, known in shown.items() if task_id not in self.reindexed
            }
            found = [place for place in scan if place.task_id in certain]
            assert found == sorted(
                (
                    position_of(r)
                    for r in certain.values()
                    if status_index(indexed_status(r)) == name
                ),
                reverse=True,
            )
        for query in (
            Query(),
            Query(owner="ann"),
            Query(task="tasks.t"),
            Query(status=frozenset({Status.RUNNING})),
        ):
            expected = [
                r
                for t, r in shown.items()
                if matches(query, states.resolve(store.read([t])[0], at(0)), position_of(r))
            ]
            page = store.query(query)
            assert [each.task_id for each in page.snapshots] == [
                r.task_id for r in sorted(expected, key=position_of, reverse=True)
            ]
            assert page.cursor is None

    def status(self, task_id: str) -> Status | None:
        try:
            return states.resolve(self.subject.snapshot(task_id), at(0)).status
        except ExecutionExpired:
            return None

    @invariant()
    def results_equal_model(self) -> None:
        for snapshot in self.subject.store.read(["a", "b"]):
            assert (snapshot.meta is not None) == (snapshot.task_id in self.kept)


@pytest.mark.parametrize("name", ["memory", "redis", "redis-msgpack"])
def test_store_follows_pure_rules_for_any_call_sequence(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A store answers any sequence of calls and data losses as the pure rules do."""
    url = request.getfixturevalue("redis_url") if name in stores.REDIS else None
    Machine.subject = stores.make(name, tmp_path, url)
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    chosen = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        suppress_health_check=checks,
        database=None,
    )
    try:
        run_state_machine_as_test(Machine, settings=chosen)
    finally:
        Machine.subject.store.close()
