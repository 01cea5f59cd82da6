"""How things read at a terminal: numbers, times, states, and what tasks wrote. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from headway.models import Execution, Phase, Progress

#: What a phase looks like; None: as it is.
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
#: Seconds -> how it is written.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def clean(text: str) -> str:
    """What somebody else wrote, on one line and harmless: a message may hold whatever moves a
    cursor or rings a bell.
    """
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def clip(text: str, width: int) -> str:
    """At most so many characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def short(execution_id: str) -> str:
    """Enough of an id to tell it from others on a screen."""
    return clean(execution_id)[:8]


def number(value: float) -> str:
    """Three digits or so, and what they are thousands of: 7, 0.25, 12.3k, 4.5M."""
    size = abs(value)
    for unit, power in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= power:
            return f"{value / (1e3 if unit == 'k' else power):.1f}{unit}"
    return (
        f"{value:.0f}"
        if size >= 100 or value == int(value)
        else f"{value:.2g}"
        if size < 1
        else f"{value:.1f}"
    )


def percent(progress: Progress | None) -> str:
    """How much is done: a percentage that isn't 100 before all is, or the bare count where the
    total isn't known.
    """
    if progress is None:
        return ""
    if progress.indeterminate:
        return "" if progress.current is None else number(progress.current)
    return f"{int(progress.percentage)}%"


def rate(progress: Progress | None) -> str:
    """Units a second; a minute or an hour where that would be a fraction."""
    if progress is None or progress.rate is None or progress.rate <= 0:
        return ""
    for unit, seconds in (("s", 1), ("min", 60)):
        if progress.rate * seconds >= 1:
            return f"{number(progress.rate * seconds)}/{unit}"
    return f"{number(progress.rate * 3600)}/h"


def clock(seconds: float) -> str:
    """A duration, as on a stop watch: 0:07, 3:12, 1:02:03, 4d 02:03."""
    minutes, left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def age(since: datetime | None, now: datetime) -> str:
    """How long ago, roughly: 8s, 4m, 3h, 2d."""
    if since is None:
        return ""
    seconds = max(0.0, (now - since).total_seconds())
    unit = "d" if seconds >= 172800 else "h" if seconds >= 7200 else "m" if seconds >= 120 else "s"
    return f"{int(seconds // UNITS[unit])}{unit}"


def when(text: str, now: datetime) -> datetime:
    """``15m`` (ago), or a time in ISO 8601, local where it names no zone. Raises ``ValueError``."""
    if text[-1:] in UNITS and text[:-1].isdecimal():
        return now - timedelta(seconds=int(text[:-1]) * UNITS[text[-1]])
    return datetime.fromisoformat(text).astimezone()


def state(execution: Execution) -> str:
    """The phase, and which attempt it is where it isn't the first."""
    again = f", attempt {execution.attempt}" if execution.attempt > 1 else ""
    return f"{execution.phase.value}{again}"


def took(execution: Execution) -> str:
    """How long it ran, once it has ended."""
    if execution.started_at is None or execution.finished_at is None:
        return ""
    return clock((execution.finished_at - execution.started_at).total_seconds())


def remark(execution: Execution) -> str:
    """What a person would want to read: why it failed, else its message."""
    if execution.error is not None:
        return clean(f"{execution.error.type}: {execution.error.message}")
    return clean(execution.progress.message or "") if execution.progress is not None else ""


def line(execution: Execution) -> str:
    """All of it on one line, for a log."""
    progress, over = execution.progress, execution.status.terminal
    left = None if over or progress is None else progress.eta_seconds
    duration = took(execution)
    parts = [
        execution.execution_id,
        execution.task or "",
        state(execution),
        percent(progress),
        "" if over else rate(progress),
        "" if left is None else f"{clock(left)} left",
        f"in {duration}" if duration else "",
        remark(execution),
    ]
    return clean("  ".join(part for part in parts if part).replace("  ", " | ")).replace(
        " | ", "  "
    )
