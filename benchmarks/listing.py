"""Few executions and many: what a page, a look and a publish cost beside so many, and how many
bytes each takes.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis
from celery import Celery

from benchmarks.measure import alternate
from headway.core.registry import AttemptStart, Registration, StateWrite
from headway.models import Query, Status
from headway.stores.codec import micros
from headway.stores.redis import RedisStore

FEW, MANY, QUICK = 1_000, 1_000_000, 50_000
#: Executions in one round trip while filling.
BATCH = 1_000
OWNERS, TASKS = 10, 20


@dataclass(frozen=True)
class Filled:
    """A registry with so many executions in it."""

    store: RedisStore
    ids: list[str]
    #: Bytes of the server for each of them, its result included.
    bytes_each: float


def fill(url: str, name: str, count: int) -> Filled:
    """Nine of ten have succeeded, one runs; each has a task and an owner, and was published a
    millisecond after another.
    """
    app = Celery(name, backend=url, set_as_current=False)
    app.conf.result_backend_transport_options = {"global_keyprefix": f"{name}:"}
    store = RedisStore(app, timeout=30.0)
    client = redis.Redis.from_url(url)
    before, begin, ids = (
        client.info("memory")["used_memory"],
        datetime.now(UTC) - timedelta(hours=1),
        [],
    )
    for first in range(0, count, BATCH):
        batch = [str(uuid.uuid4()) for _ in range(min(BATCH, count - first))]
        times = [begin + timedelta(milliseconds=first + n) for n in range(len(batch))]
        store.register(
            Registration(task_id, f"tasks.task{n % TASKS}", at, owner=f"owner{n % OWNERS}")
            for n, (task_id, at) in enumerate(zip(batch, times, strict=True))
        )
        for script, calls in (
            (store._names.scripts.open, _opens(store, batch, times)),
            (store._names.scripts.write, _ends(store, batch, times)),
        ):
            store._run(script, calls)
        ids += batch
        if sys.stderr.isatty():
            print(f"\r  {name}: {len(ids)}", end="", file=sys.stderr)
    used = client.info("memory")["used_memory"] - before
    client.close()
    return Filled(store, ids, used / count)


def _opens(
    store: RedisStore, batch: list[str], times: list[datetime]
) -> list[list[bytes | str | int]]:
    lives = store._lives(store.results.expires)
    started = store.results.encode({"status": "STARTED", "result": None})
    return [
        [*store._keys(each), micros(at), 0, "w@host", "", started, 0, *lives, 0]
        for each, at in zip(batch, times, strict=True)
    ]


def _ends(
    store: RedisStore, batch: list[str], times: list[datetime]
) -> list[list[bytes | str | int]]:
    lives = store._lives(store.results.expires)
    return [
        [
            *store._keys(each),
            "SUCCESS",
            micros(at),
            1,
            "",
            "end-store",
            store.results.encode(_meta(each)),
            *lives,
        ]
        for n, (each, at) in enumerate(zip(batch, times, strict=True))
        if n % 10
    ]


def _meta(task_id: str) -> dict[str, object]:
    return {
        "status": "SUCCESS",
        "result": 42,
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": task_id,
    }


def sides(filled: Filled) -> dict[str, Callable[[], object]]:
    """What is compared: each beside few and beside many."""
    store, some = filled.store, filled.ids[len(filled.ids) // 2]
    running = frozenset({Status.RUNNING})
    deep = store.query(
        Query(
            until=datetime.now(UTC)
            - timedelta(hours=1)
            + timedelta(milliseconds=len(filled.ids) // 2),
            limit=1,
        )
    )

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
        "  of what runs": lambda: store.query(Query(status=running)),
        "  of one owner": lambda: store.query(Query(owner="owner7")),
        "  from the middle": lambda: store.query(Query(cursor=deep.cursor)),
        "  no text fits (bounded)": lambda: store.query(Query(text="nothing")),
        "a look at one": lambda: store.read([some]),
        "noting a publish": publish,
        "noting a start": start,
        "noting an end": end,
    }


def measure(
    url: str, *, quick: bool
) -> Iterator[tuple[str, dict[str, list[float]], tuple[int, int]]]:
    """What, the rounds of ``many`` and ``few``, and how many they are."""
    count = QUICK if quick else MANY
    few, many = fill(url, "few", FEW), fill(url, "many", count)
    print(
        f"  bytes an execution, its result included: {few.bytes_each:.0f} of {FEW}, {many.bytes_each:.0f} of {count}"
    )
    beside = sides(few)
    for what, call in sides(many).items():
        yield (
            what,
            alternate({"many": _times(call), "few": _times(beside[what])}, quick=quick),
            (count, FEW),
        )
    few.store.close()
    many.store.close()


def _times(call: Callable[[], object]) -> Callable[[int], None]:
    def repeated(count: int) -> None:
        for _ in range(count):
            call()

    return repeated
