"""`ctx.progress.step`: parts of a task that report their own share of the whole."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from headway import TaskCancelled, UsageError
from headway.worker.reporter import Reporter
from headway.worker.step import Step, Steps, innermost


class RecordedReports:
    """Replaces a reporter: keeps every report instead of writing the newest at intervals."""

    def __init__(self) -> None:
        self.reports: list[tuple[Any, ...]] = []
        self._steps = Steps(self.update, lambda: self.reports[-1] if self.reports else None)

    def update(self, current: Any, total: Any, message: Any = None, attributes: Any = None) -> None:
        self.reports.append((current, total, message, attributes))

    def step(self, name: str, weight: float = 1) -> Step:
        return Step(self._steps, name, weight)

    @property
    def last(self) -> tuple[Any, ...]:
        return self.reports[-1][:3]


def test_step_advances_the_whole_by_its_weight() -> None:
    """Half of a step of weight 3 out of 4 is 1.5. It ends at exactly 3, and the next step starts
    there.
    """
    recorded = RecordedReports()
    recorded.update(0, 4)
    with recorded.step("load", weight=3) as step:
        assert recorded.last == (0, 4, "load")
        step.update(5, 10, "page 5", {"bad": "1"})
        assert recorded.reports[-1] == (1.5, 4, "load: page 5", {"bad": "1"})
        step.update(12, 10, "more than expected", {"bad": "1"})
        assert recorded.last[0] == 3, "a step takes no more than its weight"
    assert recorded.reports[-1] == (3, 4, "load", {"bad": "1"})
    with recorded.step("index"):
        assert recorded.last == (3, 4, "index")
    assert recorded.last == (4, 4, "index")


def test_nested_step_advances_its_outer_step() -> None:
    """A nested step counts by the outer step's total, and the names are joined."""
    recorded = RecordedReports()
    recorded.update(0, 2)
    with recorded.step("import") as outer:
        outer.update(0, 4)
        with outer.step("parse", weight=2) as inner:
            inner.update(1, 2)
            assert recorded.last == (0.25, 2, "import: parse")
        assert recorded.last == (0.5, 2, "import: parse")
        with outer.step("store", weight=2):
            pass
    assert recorded.last == (1, 2, "import")


def test_track_in_a_step_counts_within_the_step() -> None:
    """An item counts after the loop's body, as a share of the step."""
    recorded = RecordedReports()
    recorded.update(2, 4)
    with recorded.step("rows") as step:
        seen = [(item, recorded.last[0]) for item in step.track("ab", message="Reading")]
    assert seen == [("a", 2), ("b", 2.5)]
    assert recorded.last == (3, 4, "rows")


def test_step_that_raises_keeps_its_last_progress() -> None:
    """A step that raises does not count in full. The next step starts where it stopped."""
    recorded = RecordedReports()
    recorded.update(0, 2)

    def half_way() -> None:
        with recorded.step("first") as step:
            step.update(1, 2)
            raise KeyError("x")

    with pytest.raises(KeyError):
        half_way()
    assert recorded.last == (0.5, 2, "first")
    with recorded.step("second"):
        assert recorded.last == (0.5, 2, "second")


def test_steps_without_a_total_keep_it_unknown() -> None:
    """The weights of later steps are unknown: the total stays unknown, and the count grows."""
    recorded = RecordedReports()
    with recorded.step("load", weight=3) as step:
        step.update(1, 2)
        assert recorded.last == (1.5, 0, "load")
        step.update(5, 0, "five so far")
        assert recorded.last == (0, 0, "load: five so far")
    assert recorded.last == (3, 0, "load")


def test_concurrent_steps_add_up() -> None:
    """Two steps in two threads advance one bar. A late report of an ended step is dropped."""
    recorded = RecordedReports()
    recorded.update(0, 2)
    left, right = recorded.step("left"), recorded.step("right")
    with left:
        thread = threading.Thread(target=lambda: right.__enter__().update(1, 2))
        thread.start()
        thread.join()
        left.update(1, 2)
        assert recorded.last[0] == 1.0
    assert recorded.last[0] == 1.5
    count = len(recorded.reports)
    left.update(0, 2)
    assert len(recorded.reports) == count


def test_slow_report_of_a_concurrent_step_does_not_go_back() -> None:
    """A delayed thread does not undo a later report of another one, and the next
    step starts there.
    """
    recorded = RecordedReports()
    recorded.update(0, 3)
    report = recorded.update
    other: list[threading.Thread] = []

    def slow(*args: Any) -> None:
        if not other:
            other.append(threading.Thread(target=right.update, args=(1, 1)))
            other[0].start()
            other[0].join(0.2)  # long enough to finish, if nothing held it back
        report(*args)

    steps = Steps(slow, lambda: recorded.reports[-1])
    left, right = Step(steps, "left", 1), Step(steps, "right", 1)
    other.append(threading.Thread())
    with right, left:
        other.clear()
        left.update(1, 1)
        other[0].join()
        assert recorded.last[0] == 2
    with Step(steps, "next", 1):
        assert recorded.last[0] == 2


@pytest.mark.parametrize(
    ("name", "weight"), [(5, 1), (None, 1), ("x", -1), ("x", float("nan")), ("x", True), ("x", "2")]
)
def test_invalid_name_or_weight_of_a_step_raises(name: Any, weight: Any) -> None:
    """A name is a str, a weight a finite number of at least 0. Anything else raises `UsageError`,
    and nothing is stored.
    """
    progress = Reporter(None)
    with pytest.raises(UsageError, match=r"progress\.step"):
        progress.step(name, weight)
    with progress.step("x") as step, pytest.raises(UsageError, match="current"):
        step.update(-1, 2)
    with pytest.raises(UsageError, match="twice"), step:
        pass


def test_cancellation_at_the_start_of_a_step_leaves_no_open_step() -> None:
    """If the first report of a step raises, the next task of the process is not
    inside that step.
    """
    progress = Reporter(lambda meta: None)
    progress.interrupt()
    with pytest.raises(TaskCancelled), progress.step("load"):
        raise AssertionError("the step was entered")
    assert innermost.get() is None
    progress.close()


def test_innermost_step_is_set_within_its_block_only() -> None:
    """A library's bar finds the innermost step. After the block there is none."""
    progress = Reporter(None)
    progress.update(1, 4)
    with progress.step("a") as outer, outer.step("b") as inner:
        assert innermost.get() is inner
        outer.update(1, 2)
        assert progress.newest == (1.5, 4, "a", None)
    assert innermost.get() is None
