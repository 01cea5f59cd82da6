"""`Step`: a part of a task with its own progress, as a share of the whole.

::

    progress.update(0, 4)
    with progress.step("load", weight=3) as step:
        for row in step.track(rows): ...
    with progress.step("index"):  # 3 of 4
        ...

A step advances its parent (the attempt's report, or another step) by up to ``weight``. The total
stays the last reported one. Without one, total and percentage are unknown: a sum of the weights so
far would be a guess, and the bar would go back when the next step starts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Self, TypeVar

from headway.errors import UsageError
from headway.worker.validation import Update, length_of, validate

T = TypeVar("T")
ReportFunction = Callable[[int | float, int | float, str | None, dict[str, str] | None], None]


class Steps:
    """The steps of one level; several may run at a time in threads. The level's progress is what is
    done plus their parts.
    """

    __slots__ = ("_done", "_lock", "_newest", "_parts", "_report_total", "_total")

    def __init__(self, report: ReportFunction, newest: Callable[[], Update | None]) -> None:
        self._report_total, self._newest = report, newest
        # Reentrant: the garbage collector may end a generator with a step while this thread is in
        # here.
        self._lock = threading.RLock()
        self._parts: dict[Step, float] = {}
        self._done: int | float = 0
        self._total: int | float = 0

    def add(self, step: Step) -> None:
        with self._lock:
            if not self._parts:  # reports between two steps count too
                newest = self._newest()
                self._done, self._total = (0, 0) if newest is None else newest[:2]
            self._parts[step] = 0

    def move(
        self, step: Step, part: int | float, message: str | None, attributes: dict[str, str] | None
    ) -> None:
        with self._lock:
            if step not in self._parts:
                # A late report of another thread: the step has ended.
                return
            self._parts[step] = part
            # With the lock held: otherwise the slower of two threads would report an older state
            # last.
            self._report_total(
                self._done + sum(self._parts.values()), self._total, message, attributes
            )

    def remove(self, step: Step) -> None:
        with self._lock:
            self._done += self._parts.pop(step)


class Step:
    """A context manager with `update`, `track` and `step` for one part of the task.

    Made by ``ctx.progress.step``. A step that ends without an exception counts in full; after an
    exception the bar stays where it was.
    """

    __slots__ = ("_name", "_newest", "_siblings", "_steps", "_token", "_weight")

    def __init__(self, siblings: Steps, name: str, weight: int | float) -> None:
        if not isinstance(name, str):
            raise UsageError(f"progress.step: name must be a str, got {name!r}; pass str(name)")
        if type(weight) not in (int, float) or not 0 <= weight < float("inf"):
            raise UsageError(
                f"progress.step: weight must be finite and not negative, got {weight!r}"
            )
        self._siblings, self._name, self._weight = siblings, name, weight
        self._newest: Update | None = None
        self._steps: Steps | None = None
        self._token: Token[Step | None] | None = None

    def update(
        self,
        current: int | float,
        total: int | float,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> None:
        """Report the progress of the step, like ``ctx.progress.update``. Its name precedes the
        message.

        While its total is unknown (0), the bar does not move.
        """
        self._newest = report = validate(current, total, message, attributes)
        done, of = report[:2]
        self._report(min(done / of, 1.0) * self._weight if of else 0, message, report[3])

    def track(
        self,
        iterable: Iterable[T],
        total: int | float | None = None,
        message: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> Iterator[T]:
        """Iterate and count, like ``ctx.progress.track``."""
        if total is None:
            total = length_of(iterable)
        total = validate(0, total, message, attributes)[1]
        return self._tracked(iterable, total, message, attributes)

    def _tracked(
        self,
        iterable: Iterable[T],
        total: int | float,
        message: str | None,
        attributes: dict[str, str] | None,
    ) -> Iterator[T]:
        self.update(0, total, message, attributes)
        for done, item in enumerate(iterable, 1):
            yield item
            self.update(done, total, message, attributes)

    def step(self, name: str, weight: int | float = 1) -> Step:
        """A part of this step: ``weight`` of the step's last reported total."""
        if self._steps is None:
            self._steps = Steps(self.update, lambda: self._newest)
        return Step(self._steps, name, weight)

    def _report(
        self, part: int | float, message: str | None, attributes: dict[str, str] | None
    ) -> None:
        text = f"{self._name}: {message}" if message else self._name
        self._siblings.move(self, part, text, attributes)

    def __enter__(self) -> Self:
        if self._token is not None:
            raise UsageError(f"progress.step({self._name!r}) was entered twice; make a new step")
        outside = innermost.get()
        self._siblings.add(self)
        try:
            self._report(0, None, None)
            self._token = innermost.set(self)
        except BaseException:
            # A cancellation or a time limit: `__exit__` is not called, and the next task of this
            # process must not find this step.
            innermost.set(outside)
            self._siblings.remove(self)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._token is not None
        innermost.reset(self._token)
        try:
            if kind is None:
                newest = self._newest
                self._report(self._weight, None, None if newest is None else newest[3])
        finally:
            self._siblings.remove(self)


#: The innermost open step: bars of libraries report there (`headway.tqdm`). None outside a step.
innermost: ContextVar[Step | None] = ContextVar("headway_step", default=None)
