"""A registry with many executions beside one with few: pages, reads, publishing, and bytes."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis
from celery import Celery

from benchmarks.measure import Size, alternate, repeat
from headway.core.registry import AttemptStart, Registration, StateWrite
from headway.models import Query, Status
from headway.stores.redis import RedisStore

FEW = 1_000
MANY = {Size.FULL: 1_000_000, Size.QUICK: 50_000, Size.SMOKE: 2_000}
#: Executions that are registered in one round trip.
BATCH = 1_000
OWNERS, TASKS = 10, 20


@dataclass(frozen=True)
class Registry:
    """A store with executions."""

    store: RedisStore
    ids: list[str]
    #: Bytes of the server per execution, result included.
    bytes_each: float


@contextmanager
def registries(url: str, size: Size) -> Iterator[tuple[Registry, Registry]]:
    """A registry with few executions, and one with many, on the same server."""
    few, many = fill(url, "few", FEW), fill(url, "many", MANY[size])
    try:
        yield few, many
    finally:
        few.store.close()
        many.store.close()


def fill(url: str, name: str, count: int) -> Registry:
    """Create executions: one of ten runs, the others have succeeded. Each has a task and an owner,
    and was published one millisecond after the one before.
    """
    app = Celery(name, backend=url, set_as_current=False)
    app.conf.result_backend_transport_options = {"global_keyprefix": f"{name}:"}
    store = RedisStore(app, timeout=30.0)
    published = datetime.now(UTC) - timedelta(hours=1)
    ids = [str(uuid.uuid4()) for _ in range(count)]
    with closing(redis.Redis.from_url(url)) as client:
        before = client.info("memory")["used_memory"]
        for first in range(0, count, BATCH):
            batch = [
                Registration(
                    task_id,
                    f"tasks.task{n % TASKS}",
                    published + timedelta(milliseconds=n),
                    owner=f"owner{n % OWNERS}",
                )
                for n, task_id in enumerate(ids[first : first + BATCH], first)
            ]
            store.register(batch)
            for n, each in enumerate(batch):
                _run(store, each, succeed=n % 10 > 0)
            if sys.stderr.isatty():
                print(f"\r  {name}: {first + len(batch)}", end="", file=sys.stderr)
        used = client.info("memory")["used_memory"] - before
    return Registry(store, ids, used / count)


def _run(store: RedisStore, task: Registration, *, succeed: bool) -> None:
    store.start_attempt(
        AttemptStart(task.task_id, task.task, task.created_at, worker="w@host", delivery_id="1")
    )
    if succeed:
        record = {"status": "SUCCESS", "result": 42, "traceback": None, "children": []}
        record |= {"date_done": None, "task_id": task.task_id}
        store.write(
            StateWrite(
                task.task_id,
                "SUCCESS",
                task.created_at,
                attempt=1,
                result=store.results.encode(record),
                expires=store.results.expires,
            )
        )


def measure(
    few: Registry, many: Registry, size: Size
) -> Iterator[tuple[str, dict[str, list[float]]]]:
    """The name of each operation, and the rounds of ``many`` and ``few``."""
    baseline = operations(few)
    for name, call in operations(many).items():
        yield name, alternate({"many": repeat(call), "few": repeat(baseline[name])}, size)


def operations(registry: Registry) -> dict[str, Callable[[], object]]:
    """The operations that are compared. The names of pages contain "page"."""
    store, some_id = registry.store, registry.ids[len(registry.ids) // 2]
    running = Query(status=frozenset({Status.RUNNING}))
    middle = store.read([some_id])[0].record
    assert middle is not None
    cursor = store.query(Query(until=middle.created_at, limit=1)).cursor

    def publish() -> None:
        store.register(
            [Registration(str(uuid.uuid4()), "tasks.task0", datetime.now(UTC), owner="owner0")]
        )

    def start() -> None:
        store.start_attempt(AttemptStart(str(uuid.uuid4()), "tasks.task0", datetime.now(UTC)))

    def end() -> None:
        store.write(StateWrite(str(uuid.uuid4()), "REVOKED", datetime.now(UTC)))

    return {
        "a page of 50": lambda: store.query(Query()),
        "a page by status": lambda: store.query(running),
        "a page by owner": lambda: store.query(Query(owner="owner7")),
        "a page from the middle": lambda: store.query(Query(cursor=cursor)),
        "a search without a match": lambda: store.query(Query(text="nothing")),
        "a read of one": lambda: store.read([some_id]),
        "recording a publish": publish,
        "recording a start": start,
        "recording an end": end,
    }
