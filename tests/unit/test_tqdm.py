"""`headway.tqdm`: bars that report in a worker, and are tqdm's own elsewhere."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import tqdm as theirs
from tqdm import std

import headway.tqdm
from headway import RequestContext, TaskCancelled
from headway.models import Progress
from headway.tqdm import tqdm, trange
from tests.unit.tracing import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(autouse=True)
def no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """tqdm's own bars start a thread that never ends."""
    monkeypatch.setattr(std.tqdm, "monitor_interval", 0)


def run(lab: Lab, work: Any) -> Progress:
    """The progress of a task that does ``work``, at its end."""

    @lab.task(name="work")
    def task() -> None:
        work()

    lab.run(task, "x")
    return lab.progress("x")


def values(progress: Progress) -> tuple[Any, ...]:
    return progress.current, progress.total, progress.message, progress.attributes


def test_bar_reports_and_prints_nothing(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Count, total, description and postfix are reported. Nothing is printed into
    the worker's log.
    """

    def work() -> None:
        bar = tqdm("abcd", desc="Reading")
        for _ in bar:
            bar.set_postfix(loss=0.25, kind="x")

    assert values(run(lab, work)) == (4, 4, "Reading", {"loss": "0.25", "kind": "x"})
    assert capsys.readouterr() == ("", "")


def test_bar_raises_after_a_cancel_request(lab: Lab) -> None:
    """After a cancel request, an update of a bar and a new bar raise, like any report."""
    stopped: list[str] = []

    def work() -> None:
        bar = tqdm(total=2)
        RequestContext.get().progress.interrupt()
        with pytest.raises(TaskCancelled):
            bar.update(1)
        bar.close()
        with pytest.raises(TaskCancelled):
            tqdm("ab")
        stopped.append("twice")

    run(lab, work)
    assert stopped == ["twice"]


def test_every_item_of_a_loop_is_reported(lab: Lab) -> None:
    """tqdm's own loop would skip a slow item after fast ones."""
    seen: list[Any] = []

    def work() -> None:
        progress = RequestContext.get().progress
        for number in trange(100_000):
            if number == 99_999:
                seen.append(progress.newest)

    run(lab, work)
    assert seen[0][:2] == (99_999, 100_000)


def test_manual_updates_are_reported(lab: Lab) -> None:
    """``update``, a later total, ``reset`` and unusual numbers work as in common code."""

    def work() -> None:
        with tqdm(total=None, unit="B") as bar:
            bar.update(3)
            bar.update(-5)
            assert RequestContext.get().progress.newest == (0, 0, None, None)
            bar.reset(total=10)
            bar.update(2.5)
            bar.set_description("late")

    assert values(run(lab, work)) == (2.5, 10, "late", None)


def test_inner_bar_is_silent(lab: Lab) -> None:
    """The outermost open bar reports. After its end, the next one does."""
    seen: list[Any] = []

    def work() -> None:
        for _ in tqdm("ab", desc="outer"):
            for _ in tqdm("xyz", desc="inner"):
                seen.append(RequestContext.get().progress.newest)
        for _ in tqdm("c", desc="after"):
            pass

    assert values(run(lab, work)) == (1, 1, "after", None)
    assert [report[2] for report in seen] == ["outer"] * 6


def test_bar_in_a_step_advances_the_step(lab: Lab) -> None:
    """Within ``with ctx.progress.step(...)`` a library's loop is a part of the whole."""

    def work() -> None:
        progress = RequestContext.get().progress
        progress.update(0, 2)
        with progress.step("load"):
            for number in tqdm("ab", desc="rows"):
                if number == "b":
                    assert progress.newest == (0.5, 2, "load: rows", None)

    assert values(run(lab, work))[:3] == (1, 2, "load")


def test_disabled_bar_is_silent(lab: Lab) -> None:
    """``disable=True`` is an explicit choice; ``disable=None`` only means: no terminal."""

    def work() -> None:
        list(tqdm("abc", disable=True))
        list(tqdm("ab", disable=None))

    assert values(run(lab, work))[:2] == (2, 2)


def test_bar_outside_a_task_is_drawn(lab: Lab) -> None:
    """Outside a task, and in a direct call of a task, the bar is drawn."""

    def drawn() -> str:
        screen = io.StringIO()
        list(tqdm("ab", file=screen, desc="Here"))
        return screen.getvalue()

    assert "Here: 100%" in drawn()
    assert "Here: 100%" in lab.task(name="direct")(drawn)()
    assert isinstance(tqdm([], file=io.StringIO()), theirs.tqdm)


def test_patch_all_covers_every_library(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars of libraries report too. Outside tasks they are drawn as usual."""
    for name in headway.tqdm._methods:  # put back at the end
        monkeypatch.setattr(std.tqdm, name, getattr(std.tqdm, name, None), raising=False)
    old = theirs.tqdm(total=1, file=io.StringIO())
    headway.tqdm.patch_all()
    headway.tqdm.patch_all()
    old.update(1)
    old.close()

    def work() -> None:
        from tqdm.auto import tqdm as automatic

        list(automatic("abc", desc="theirs"))

    assert values(run(lab, work))[:3] == (3, 3, "theirs")
    screen = io.StringIO()
    list(theirs.tqdm("ab", file=screen))
    assert "100%" in screen.getvalue()
