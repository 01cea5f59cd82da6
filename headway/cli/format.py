"""Formats numbers, times, states and the texts of tasks for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from headway.models import Execution, Phase, Progress

#: Colour of a phase; None: the terminal's default.
COLOURS: Mapping[Phase, str | None] = {
    Phase.QUEUED: None,
    Phase.RUNNING: "cyan",
    Phase.RETRYING: "yellow",
    Phase.STALLED: "yellow",
    Phase.CANCELLING: "magenta",
    Phase.SUCCEEDED: "green",
    Phase.FAILED: "red",
    Phase.CANCELLED: "magenta",
}
#: Unit -> seconds.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def clean(text: str) -> str:
    """A foreign text on one line, without control characters: a message may contain some that move
    the cursor or ring the bell.
    """
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def clip(text: str, width: int) -> str:
    """The text, cut to ``width`` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def short_id(execution_id: str) -> str:
    """The first characters of an id, enough to distinguish executions on a screen."""
    return clean(execution_id)[:8]


def number(value: float) -> str:
    """About three digits and a metric prefix: 7, 0.25, 12.3k, 4.5M."""
    size = abs(value)
    for unit, power in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= power:
            return f"{value / (1e3 if unit == 'k' else power):.1f}{unit}"
    if size >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.2g}" if size < 1 else f"{value:.1f}"


def percent(progress: Progress | None) -> str:
    """The percentage, rounded down; the count if the total is unknown."""
    if progress is None:
        return ""
    if progress.indeterminate:
        return "" if progress.current is None else number(progress.current)
    return f"{int(progress.percentage)}%"


def rate(progress: Progress | None) -> str:
    """Items per second; per minute or hour if that would be below 1."""
    if progress is None or progress.rate is None or progress.rate <= 0:
        return ""
    for unit, seconds in (("s", 1), ("min", 60)):
        if progress.rate * seconds >= 1:
            return f"{number(progress.rate * seconds)}/{unit}"
    return f"{number(progress.rate * 3600)}/h"


def duration(seconds: float) -> str:
    """Like a stopwatch: 0:07, 3:12, 1:02:03, 4d 02:03."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def age(since: datetime | None, now: datetime) -> str:
    """A rough age: 8s, 4m, 3h, 2d."""
    if since is None:
        return ""
    seconds = max(0.0, (now - since).total_seconds())
    unit = "d" if seconds >= 172800 else "h" if seconds >= 7200 else "m" if seconds >= 120 else "s"
    return f"{int(seconds // UNITS[unit])}{unit}"


def parse_time(text: str, now: datetime) -> datetime:
    """An age such as ``15m``, or a time in ISO 8601 (local without a time zone). Raises
    ``ValueError``.
    """
    if text[-1:] in UNITS and text[:-1].isdecimal():
        return now - timedelta(seconds=int(text[:-1]) * UNITS[text[-1]])
    return datetime.fromisoformat(text).astimezone()


def state(execution: Execution) -> str:
    """The phase, and the number of the attempt from the second on."""
    attempt = f", attempt {execution.attempt}" if execution.attempt > 1 else ""
    return f"{execution.phase.value}{attempt}"


def run_time(execution: Execution) -> str:
    """The duration of an ended execution."""
    if execution.started_at is None or execution.finished_at is None:
        return ""
    return duration((execution.finished_at - execution.started_at).total_seconds())


def remark(execution: Execution) -> str:
    """The error of a failed execution, otherwise its message."""
    if execution.error is not None:
        return clean(f"{execution.error.type}: {execution.error.message}")
    return clean(execution.progress.message or "") if execution.progress is not None else ""


def one_line(execution: Execution) -> str:
    """All of an execution on one line, for a log."""
    progress, ended = execution.progress, execution.status.terminal
    eta = None if ended or progress is None else progress.eta_seconds
    took = run_time(execution)
    parts = [
        execution.execution_id,
        execution.task or "",
        state(execution),
        percent(progress),
        "" if ended else rate(progress),
        "" if eta is None else f"{duration(eta)} left",
        f"in {took}" if took else "",
        remark(execution),
    ]
    return clean("  ".join(part for part in parts if part).replace("  ", " | ")).replace(
        " | ", "  "
    )
