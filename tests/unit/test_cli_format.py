"""The terminal formats, bars and lines of the CLI."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from headway.cli import format
from headway.cli.bars import BarDisplay
from headway.cli.display import LineDisplay
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
def test_number_has_about_three_digits(value: float, text: str) -> None:
    """A number has about three digits and a metric prefix."""
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
def test_duration_reads_like_a_stopwatch(seconds: float, text: str) -> None:
    """A duration reads like a stopwatch."""
    assert format.duration(seconds) == text


def test_percentage_is_rounded_down() -> None:
    """Only a finished task shows 100%; an unknown total shows the count."""
    assert format.percent(Progress(999, 1000)) == "99%"
    assert format.percent(Progress(1000, 1000)) == "100%"
    assert format.percent(Progress(302, 0)) == "302"
    assert format.percent(None) == ""


def test_slow_rate_is_shown_per_minute_or_hour() -> None:
    """A rate below one per second is shown per minute or per hour."""
    rates = [format.rate(Progress(1, 9, rate=rate)) for rate in (12.0, 0.05, 0.001, 0.0)]
    assert rates == ["12/s", "3/min", "3.6/h", ""]


def test_age_is_rough_and_can_be_parsed() -> None:
    """An age has one unit; `parse_time` reads ages and ISO times."""
    assert [format.age(NOW - timedelta(seconds=s), NOW) for s in (8, 250, 3 * 3600, 3 * 86400)] == [
        "8s",
        "4m",
        "3h",
        "3d",
    ]
    assert format.age(None, NOW) == ""
    assert format.parse_time("15m", NOW) == NOW - timedelta(minutes=15)
    assert format.parse_time("2026-01-02T03:04:05Z", datetime.now(UTC)) == NOW
    with pytest.raises(ValueError, match="soon"):
        format.parse_time("soon", NOW)


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


class ManualClock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def rendered(
    *executions: Execution, after: float = 0.0, error: SourceError | None = None
) -> list[str]:
    """The rows of `BarDisplay`, as text."""
    clock = ManualClock()
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=False, color_system=None)
    bars = BarDisplay(console, clock)
    for each in executions:
        bars.show(each)
    clock.now += after
    if error is not None:
        bars.show_error(error)
    console.print(bars.open().get_renderable())  # type: ignore[attr-defined]
    return output.getvalue().splitlines()


def test_row_shows_all_fields() -> None:
    """A row shows id, task, percentage, speed, time left and message; the time left counts down
    between reports.
    """
    (row,) = rendered(execution(progress=Progress(1, 4, "Loading", rate=0.5)), after=2.0)
    assert row.startswith("6a1f-22 load ")
    for word in ("25%", "running", "30/min 0:04", "Loading"):
        assert word in row
    assert len(row) <= 100


def test_row_shows_phase_attempt_and_run_time() -> None:
    """A row shows the phase, the number of the attempt, and the run time after the end."""
    started = {"started_at": NOW, "finished_at": NOW + timedelta(seconds=65)}
    rows = rendered(
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


def test_completed_bar_stays_at_the_last_report() -> None:
    """An execution that completed at 50 % keeps half a bar; one without a percentage gets a full
    bar.
    """
    done = {"status": Status.COMPLETED, "phase": Phase.SUCCEEDED}
    reports = (Progress(5, 10), None, Progress(5, 0))
    rows = rendered(
        *(
            execution(execution_id=str(number), progress=each, **done)
            for number, each in enumerate(reports)
        )
    )
    assert [row.count("━") for row in rows] == [9, 18, 18]


def test_message_is_not_interpreted_as_markup() -> None:
    """A message is printed literally, and can't move the cursor."""
    (row,) = rendered(execution(progress=Progress(1, 4, "[red]x[/] \x1b[2J")))
    assert "[red]x[/] [2J" in row
    assert "\x1b" not in row


def test_outage_is_printed_above_the_bars() -> None:
    """An outage is printed as a separate line."""
    assert (
        "headway: away; trying again"
        in rendered(execution(), error=SourceError("away; trying again"))[0]
    )


def test_lines_are_limited_to_one_per_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress prints a line every two seconds; a new state and an end print one at once."""
    clock = ManualClock()
    lines = LineDisplay(clock)
    for second in range(5):
        clock.now = float(second)
        lines.show(execution(progress=Progress(second, 9)))
    lines.show(execution(phase=Phase.STALLED))
    lines.show(execution(status=Status.COMPLETED, phase=Phase.SUCCEEDED))
    states = [line.split("  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert states == ["running", "running", "running", "stalled", "succeeded"]
