"""How things read at a terminal."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from headway.cli import format
from headway.cli.bars import Bars
from headway.cli.display import Lines
from headway.cli.source import SourceError
from headway.models import Execution, Failure, Phase, Progress, Status

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.25, "0.25"),
        (2.5, "2.5"),
        (999, "999"),
        (1234, "1234"),
        (12345, "12.3k"),
        (4.5e6, "4.5M"),
        (3e9, "3.0G"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    """Three digits or so."""
    assert format.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (7.4, "0:07"),
        (192, "3:12"),
        (3723, "1:02:03"),
        (-5, "0:00"),
        (353000, "4d 02:03"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """As on a stop watch."""
    assert format.clock(seconds) == text


def test_percentages_are_not_rounded_up() -> None:
    """100% is said of what is done, and of nothing else; an unknown total shows the count."""
    assert format.percent(Progress(999, 1000)) == "99%"
    assert format.percent(Progress(1000, 1000)) == "100%"
    assert format.percent(Progress(302, 0)) == "302"
    assert format.percent(None) == ""


def test_slow_rates_are_told_by_the_minute() -> None:
    """What does less than one a second is told by the minute or the hour."""
    rates = [format.rate(Progress(1, 9, rate=rate)) for rate in (12.0, 0.05, 0.001, 0.0)]
    assert rates == ["12/s", "3/min", "3.6/h", ""]


def test_ages_and_times() -> None:
    """An age is rough; it reads back as the time that it names."""
    assert [format.age(NOW - timedelta(seconds=s), NOW) for s in (8, 250, 3 * 3600, 3 * 86400)] == [
        "8s",
        "4m",
        "3h",
        "3d",
    ]
    assert format.age(None, NOW) == ""
    assert format.when("15m", NOW) == NOW - timedelta(minutes=15)
    assert format.when("2026-01-02T03:04:05Z", datetime.now(UTC)) == NOW
    with pytest.raises(ValueError, match="soon"):
        format.when("soon", NOW)


def execution(**values: object) -> Execution:
    return Execution(
        **(
            {
                "execution_id": "6a1f-22",
                "status": Status.RUNNING,
                "phase": Phase.RUNNING,
                "task": "shop.tasks.load",
            }
            | values
        )
    )  # type: ignore[arg-type]


class Watch:
    """A clock that a test turns by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(
    *executions: Execution, after: float = 0.0, trouble: SourceError | None = None
) -> list[str]:
    """The rows of the bars, as text."""
    clock = Watch()
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=False, color_system=None)
    bars = Bars(console, clock)
    for each in executions:
        bars.show(each)
    clock.now += after
    if trouble is not None:
        bars.trouble(trouble)
    console.print(bars.open().get_renderable())  # type: ignore[attr-defined]
    return output.getvalue().splitlines()


def test_a_row_has_it_all() -> None:
    """A row names the execution, and says how far, how fast and how long yet it is; the time left
    runs down between reports.
    """
    (row,) = drawn(execution(progress=Progress(1, 4, "Loading", rate=0.5)), after=2.0)
    assert row.startswith("6a1f-22 load ")
    for word in ("25%", "running", "30/min 0:04", "Loading"):
        assert word in row
    assert len(row) <= 100


def test_each_phase_is_seen() -> None:
    """Stalled, retrying and cancelling are told by their words, attempts by number, ends with how
    long it took.
    """
    started = {"started_at": NOW, "finished_at": NOW + timedelta(seconds=65)}
    rows = drawn(
        execution(execution_id="1", phase=Phase.STALLED),
        execution(execution_id="2", phase=Phase.RETRYING, attempt=2),
        execution(execution_id="3", phase=Phase.CANCELLING),
        execution(
            execution_id="4",
            status=Status.FAILED,
            phase=Phase.FAILED,
            error=Failure("ValueError", "no"),
            **started,
        ),
        execution(execution_id="5", status=Status.COMPLETED, phase=Phase.SUCCEEDED, **started),
    )
    for row, word in zip(
        rows, ("stalled", "retrying #2", "cancelling", "ValueError: no", "1:05"), strict=True
    ):
        assert word in row


def test_an_end_leaves_the_bar_where_it_was() -> None:
    """What is done at 50 % has half a bar; what said nothing, or counted without a total, has a
    whole one.
    """
    done = {"status": Status.COMPLETED, "phase": Phase.SUCCEEDED}
    reports = (Progress(5, 10), None, Progress(5, 0))
    rows = drawn(
        *(
            execution(execution_id=str(number), progress=each, **done)
            for number, each in enumerate(reports)
        )
    )
    assert [row.count("━") for row in rows] == [9, 18, 18]


def test_a_message_is_no_markup() -> None:
    """What a task says is shown as it is, and can't move the cursor."""
    (row,) = drawn(execution(progress=Progress(1, 4, "[red]x[/] \x1b[2J")))
    assert "[red]x[/] [2J" in row
    assert "\x1b" not in row


def test_trouble_is_told_beside_the_bars() -> None:
    """An outage is a line of its own."""
    assert (
        "headway: away; trying again"
        in drawn(execution(), trouble=SourceError("away; trying again"))[0]
    )


def test_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    """Reports make a line every two seconds, a change of state and an end at once."""
    clock = Watch()
    lines = Lines(clock)
    for second in range(5):
        clock.now = float(second)
        lines.show(execution(progress=Progress(second, 9)))
    lines.show(execution(phase=Phase.STALLED))
    lines.show(execution(status=Status.COMPLETED, phase=Phase.SUCCEEDED))
    told = [line.split("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert told == ["running", "running", "running", "stalled", "succeeded"]
