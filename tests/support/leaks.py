"""No test leaves a thread or a process behind."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil

from tests.support import processes
from tests.support.wait import until

#: Seconds for a closed thread or a killed process to disappear.
GRACE = 60.0


@contextlib.contextmanager
def no_leaks() -> Iterator[None]:
    """Raise ``AssertionError`` on exit if there are new threads or child processes.

    Without a new one both checks cost some microseconds: they compare threads and the ids of direct
    children. Only new children are walked.
    """
    threads_before = set(threading.enumerate())
    children_before = processes.children()
    yield
    names: list[str] = []
    left: list[psutil.Process] = []

    def nothing_left() -> bool:
        nonlocal names, left
        names = sorted(
            thread.name
            for thread in set(threading.enumerate()) - threads_before
            if thread.is_alive()
        )
        left = _running_with_descendants(processes.children() - children_before - processes.kept)
        return not names and not left

    with contextlib.suppress(AssertionError):
        until(nothing_left, within=GRACE)
    commands = [f"{process.pid}: {_command(process)}" for process in left]
    for process in left:
        process.kill()
    assert not names, f"the test left threads behind: {names}"
    assert not commands, "\n".join(["the test left processes behind:", *commands])


def _running_with_descendants(pids: set[int]) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return processes.running(found)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return "?"
