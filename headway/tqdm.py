"""tqdm's bars as progress reports: use ``from headway.tqdm import tqdm`` instead of
``from tqdm import tqdm``.

In a worker, a bar is the task's progress: ``n`` of ``total``, the description as message, the
postfix as attributes. Nothing is printed. Elsewhere (a terminal, a notebook, a direct call of the
task) it is tqdm's own bar.

Libraries with their own ``from tqdm.auto import tqdm`` report too, after one call of `patch_all` in
the Celery app's module.

One bar reports at a time: the first open one. Bars inside its loop are silent, because an attempt
has one progress. Within ``with ctx.progress.step(...)`` a bar moves that step. tqdm is the extra
``celery-headway[tqdm]``.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from weakref import ref

from tqdm import std

from headway.worker import context
from headway.worker.reporter import Reporter
from headway.worker.step import Step, innermost

__all__ = ["patch_all", "tqdm", "trange"]

Target = Reporter | Step
Bar = Any  # a std.tqdm with the attributes `_headway` and `_attributes`


class NullFile(io.TextIOBase):
    """The output of an invisible bar. Not os.devnull, which each bar would have to close."""

    def write(self, text: str) -> int:
        return len(text)


#: The active bar and its target. A closed bar, or one of another task or step, does not count.
_active_bar: ContextVar[tuple[Target, ref[Bar]] | None] = ContextVar("headway_tqdm", default=None)


def _target() -> Target | None:
    """The target of a bar that is made here; None outside a worker's task."""
    found = context.current.get()
    return (
        None
        if found is None or not found.progress.is_recording
        else innermost.get() or found.progress
    )


def _is_free(target: Target) -> bool:
    """Whether no open bar reports to ``target`` yet."""
    active = _active_bar.get()
    if active is None or active[0] is not target:
        return True
    bar = active[1]()
    return bar is None or bar.disable


def _new(original: Callable[..., Bar]) -> Callable[..., Bar]:
    def __new__(cls: type[Bar], *args: Any, **options: Any) -> Bar:
        if _target() is None:
            return original(cls, *args, **options)
        # Without tqdm's monitor thread: it refreshes bars whose loop has become slow, and here each
        # item is reported.
        bar: Bar = object.__new__(cls)
        with cls.get_lock():
            cls._instances.add(bar)
        return bar

    return __new__


def _init(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Bar, *args: Any, **options: Any) -> None:
        target = _target()
        self._headway = None
        if target is None:
            original(self, *args, **options)
        elif options.get("disable") or not _is_free(target):
            original(self, *args, **options | {"disable": True})
        else:
            # disable=None means: only in a terminal. A worker has none.
            original(self, *args, **options | {"disable": False, "file": NullFile()})
            self._headway, self._attributes = target, None
            _active_bar.set((target, ref(self)))
            _report(self)

    return __init__


def _iter(original: Callable[[Bar], Iterator[Any]]) -> Callable[[Bar], Iterator[Any]]:
    def __iter__(self: Bar) -> Iterator[Any]:
        return original(self) if self._headway is None else _counted(self)

    return __iter__


def _counted(bar: Bar) -> Iterator[Any]:
    """The items; each is reported when it is done. tqdm's own loop reports after a number of
    items, so a slow item after fast ones would be reported too late.
    """
    try:
        for item in bar.iterable:
            yield item
            bar.n += 1
            _report(bar)
    finally:
        bar.close()


def _update(original: Callable[..., bool | None]) -> Callable[..., bool | None]:
    def update(self: Bar, n: float | None = 1) -> bool | None:
        if self._headway is None or self.disable:
            return original(self, n)
        self.n += n
        _report(self)
        return True

    return update


def _refresh(original: Callable[..., bool | None]) -> Callable[..., bool | None]:
    def refresh(self: Bar, *args: Any, **options: Any) -> bool | None:
        if self._headway is None or self.disable:
            return original(self, *args, **options)
        _report(self)
        return True

    return refresh


def _set_postfix(original: Callable[..., None]) -> Callable[..., None]:
    def set_postfix(
        self: Bar, ordered_dict: Any = None, refresh: bool = True, **pairs: Any
    ) -> None:
        if self._headway is not None:
            values = dict(ordered_dict or {}) | pairs
            self._attributes = {
                str(key): self.format_num(value) if isinstance(value, int | float) else str(value)
                for key, value in values.items()
            }
        original(self, ordered_dict, refresh, **pairs)

    return set_postfix


def _report(bar: Bar) -> None:
    """Report the position of the bar. May raise ``TaskCancelled``, like any report."""
    message = bar.desc.removesuffix(": ") if bar.desc else None  # tqdm adds the colon
    bar._headway.update(_count(bar.n), _count(bar.total), message, bar._attributes)


def _count(value: Any) -> int | float:
    """Convert a count of tqdm for a report: it may be one of numpy's numbers, None or negative."""
    if type(value) is int and value >= 0:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0
    return max(number, 0.0) if math.isfinite(number) else 0


_overrides: dict[str, Callable[[Any], Any]] = {
    "__new__": _new,
    "__init__": _init,
    "__iter__": _iter,
    "update": _update,
    "refresh": _refresh,
    "set_postfix": _set_postfix,
}
_methods = {name: override(getattr(std.tqdm, name)) for name, override in _overrides.items()} | {
    "_headway": None
}


#: A subclass of tqdm's class; its bars report in a worker.
tqdm: Any = type(
    "tqdm", (std.tqdm,), _methods | {"__doc__": std.tqdm.__doc__, "__module__": __name__}
)


def trange(*args: int, **options: Any) -> Any:
    """``tqdm(range(*args), **options)``."""
    return tqdm(range(*args), **options)


def patch_all() -> None:
    """Let the bars of all libraries in this process report, also of those already imported.

    Changes tqdm's own class, the base of all its variants (``tqdm.auto``, ``tqdm.asyncio``,
    ``tqdm.contrib``). A second call does nothing.
    """
    for name, method in _methods.items():
        setattr(std.tqdm, name, staticmethod(method) if name == "__new__" else method)
