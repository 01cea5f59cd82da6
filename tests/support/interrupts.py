"""A time limit that interrupts at a chosen step of the interpreter."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from types import FrameType

from celery.exceptions import SoftTimeLimitExceeded


class _Raised(Exception):
    """The exception that `settle_profiler` sends to its own thread."""


def settle_profiler() -> None:
    """Clear a state of Python 3.11 in which a profiled thread hangs.

    After an asynchronous exception was withdrawn, Python 3.11 loops forever at the first function
    call under a profiler, until some thread receives one. So receive one here.
    """
    try:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Raised)
        )
        while True:
            pass
    except _Raised:
        return


def interrupt_at(step: int, call: Callable[[], object]) -> bool:
    """Call ``call`` and raise `SoftTimeLimitExceeded` in it at the ``step``-th point where Python
    handles signals: a call of a Python function, or the return of a C function.

    Returns False if ``call`` returned before that step.
    """
    settle_profiler()
    left = step

    def count_down(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if not left:
                raise SoftTimeLimitExceeded

    try:
        sys.setprofile(count_down)
        call()
    except SoftTimeLimitExceeded:
        return True
    finally:
        sys.setprofile(None)
    return False
