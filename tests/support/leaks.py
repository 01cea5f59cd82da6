"""Every test leaves the room empty: no thread and no process that it started may outlive it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil

from tests.support import processes
from tests.support.wait import until

#: Seconds that a closed thread or a killed process is given to be really gone.
GRACE = 60.0

#: Threads that a process has once by design and that end with it; each with its reason.
PROCESS_WIDE: dict[str, str] = {}


@contextlib.contextmanager
def no_leaks() -> Iterator[None]:
    """Raise ``AssertionError`` at the end if threads or child processes are there that weren't at
    the begin.
    """
    threads_before = set(threading.enumerate())
    processes_before = _children()

    def threads_left() -> list[str]:
        return sorted(
            thread.name
            for thread in set(threading.enumerate()) - threads_before
            if thread.is_alive() and not thread.name.startswith(tuple(PROCESS_WIDE))
        )

    def processes_left() -> list[psutil.Process]:
        return processes.running(_children() - processes_before)

    yield
    names: list[str] = []
    children: list[psutil.Process] = []

    def empty() -> bool:
        nonlocal names, children
        names, children = threads_left(), processes_left()
        return not names and not children

    with contextlib.suppress(AssertionError):
        until(empty, within=GRACE)
    # What was seen last, and no other look: those that are kept may start something just then.
    told = [f"{child.pid}: {' '.join(_command(child))}" for child in children]
    for child in children:
        child.kill()
    assert not names, f"the test left threads behind: {names}"
    assert not told, f"the test left processes behind: {told}"


def _children() -> set[psutil.Process]:
    """All processes below this one, but those that are kept and what those start at any time (a
    pool's new child).
    """
    below = set(psutil.Process().children(recursive=True))
    for pid in processes.kept:
        with contextlib.suppress(psutil.NoSuchProcess):
            lasting = psutil.Process(pid)
            below -= {lasting, *lasting.children(recursive=True)}
    return below


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return ["?"]
