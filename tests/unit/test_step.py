"""`ctx.progress.step`: parts of a task that report on their own, as so much of the whole."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from headway import TaskCancelled, UsageError
from headway.worker.reporter import Reporter
from headway.worker.step import Step, Steps, innermost


class Told:
    """In the place of a reporter: keeps every report, where that one would write the newest now and
    then.
    """

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self._steps = Steps(self.update, lambda: self.said[-1] if self.said else None)

    def update(self, current: Any, total: Any, message: Any = None, attributes: Any = None) -> None:
        self.said.append((current, total, message, attributes))

    def step(self, name: str, weight: float = 1) -> Step:
        return Step(self._steps, name, weight)

    @property
    def last(self) -> tuple[Any, ...]:
        return self.said[-1][:3]


def test_a_step_moves_the_whole_by_its_weight() -> None:
    """Half of a step of weight 3 out of 4 is 1.5; its end is 3, exactly; the next step begins
    there.
    """
    told = Told()
    told.update(0, 4)
    with told.step("load", weight=3) as step:
        assert told.last == (0, 4, "load")
        step.update(5, 10, "page 5", {"bad": "1"})
        assert told.said[-1] == (1.5, 4, "load: page 5", {"bad": "1"})
        step.update(12, 10, "more than was thought", {"bad": "1"})
        assert told.last[0] == 3, "a step takes no more than its weight"
    assert told.said[-1] == (3, 4, "load", {"bad": "1"})
    with told.step("index"):
        assert told.last == (3, 4, "index")
    assert told.last == (4, 4, "index")


def test_steps_hold_steps() -> None:
    """A step's own steps move it, by its total, and their names stand one behind the other."""
    told = Told()
    told.update(0, 2)
    with told.step("import") as outer:
        outer.update(0, 4)
        with outer.step("parse", weight=2) as inner:
            inner.update(1, 2)
            assert told.last == (0.25, 2, "import: parse")
        assert told.last == (0.5, 2, "import: parse")
        with outer.step("store", weight=2):
            pass
    assert told.last == (1, 2, "import")


def test_track_counts_within_the_step() -> None:
    """The items are counted when the loop's body has come round, and the rest of the bar stays what
    it was.
    """
    told = Told()
    told.update(2, 4)
    with told.step("rows") as step:
        seen = [(item, told.last[0]) for item in step.track("ab", message="Reading")]
    assert seen == [("a", 2), ("b", 2.5)]
    assert told.last == (3, 4, "rows")


def test_a_step_that_raises_leaves_the_bar_where_it_was() -> None:
    """A job that failed in the middle of a step says so; who catches it goes on from there."""
    told = Told()
    told.update(0, 2)

    def half_way() -> None:
        with told.step("first") as step:
            step.update(1, 2)
            raise KeyError("x")

    with pytest.raises(KeyError):
        half_way()
    assert told.last == (0.5, 2, "first")
    with told.step("second"):
        assert told.last == (0.5, 2, "second")


def test_without_a_total_nothing_is_guessed() -> None:
    """The weights of later steps are unknown: the total stays unknown, and the count grows."""
    told = Told()
    with told.step("load", weight=3) as step:
        step.update(1, 2)
        assert told.last == (1.5, 0, "load")
        step.update(5, 0, "five so far")
        assert told.last == (0, 0, "load: five so far")
    assert told.last == (3, 0, "load")


def test_steps_side_by_side_add_up() -> None:
    """Two steps in two threads move one bar; a late report of one that has ended is dropped."""
    told = Told()
    told.update(0, 2)
    left, right = told.step("left"), told.step("right")
    with left:
        thread = threading.Thread(target=lambda: right.__enter__().update(1, 2))
        thread.start()
        thread.join()
        left.update(1, 2)
        assert told.last[0] == 1.0
    assert told.last[0] == 1.5
    count = len(told.said)
    left.update(0, 2)
    assert len(told.said) == count


def test_of_steps_side_by_side_the_newest_is_said_last() -> None:
    """A thread that is held up while it speaks takes back nothing that another has said since; the
    next step begins there.
    """
    told = Told()
    told.update(0, 3)
    say = told.update
    other: list[threading.Thread] = []

    def slow(*said: Any) -> None:
        if not other:
            other.append(threading.Thread(target=right.update, args=(1, 1)))
            other[0].start()
            other[0].join(0.2)  # as long as it takes, were it not held back
        say(*said)

    steps = Steps(slow, lambda: told.said[-1])
    left, right = Step(steps, "left", 1), Step(steps, "right", 1)
    other.append(threading.Thread())
    with right, left:
        other.clear()
        left.update(1, 1)
        other[0].join()
        assert told.last[0] == 2
    with Step(steps, "next", 1):
        assert told.last[0] == 2


@pytest.mark.parametrize(
    ("name", "weight"), [(5, 1), (None, 1), ("x", -1), ("x", float("nan")), ("x", True), ("x", "2")]
)
def test_wrong_steps_are_refused(name: Any, weight: Any) -> None:
    """A name is a str, a weight a finite number from 0 on: else `UsageError`, before anything is
    stored.
    """
    progress = Reporter(None)
    with pytest.raises(UsageError, match=r"progress\.step"):
        progress.step(name, weight)
    with progress.step("x") as step, pytest.raises(UsageError, match="current"):
        step.update(-1, 2)
    with pytest.raises(UsageError, match="twice"), step:
        pass


def test_a_cancel_at_its_begin_leaves_no_step_behind() -> None:
    """A step whose first report is the cancellation point was never entered: the process's next
    task isn't in it.
    """
    progress = Reporter(lambda meta: None)
    progress.interrupt()
    with pytest.raises(TaskCancelled), progress.step("load"):
        raise AssertionError("the step was entered")
    assert innermost.get() is None
    progress.close()


def test_the_innermost_step_is_known_while_it_runs() -> None:
    """So that a library's bar finds its place; behind the step there is none."""
    progress = Reporter(None)
    progress.update(1, 4)
    with progress.step("a") as outer, outer.step("b") as inner:
        assert innermost.get() is inner
        outer.update(1, 2)
        assert progress.newest == (1.5, 4, "a", None)
    assert innermost.get() is None
