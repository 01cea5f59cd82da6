"""A time limit that strikes at a step of one's choice."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from types import FrameType

from celery.exceptions import SoftTimeLimitExceeded


class _Received(Exception):
    """Nothing but a word to oneself."""


def settle_profiler() -> None:
    """Have Python 3.11 forget that an asynchronous exception was called off: until one is heard
    again, by whichever thread, it would turn for ever at the first function that begins under a
    profile.
    """
    try:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(threading.get_ident()), ctypes.py_object(_Received)
        )
        while True:
            pass
    except _Received:
        return


def interrupt_at(step: int, call: Callable[[], object]) -> bool:
    """Call it, and strike where Python looks for signals for the ``step``-th time: as a function of
    Python's begins, and as one of C's has returned. False where it had ended before.
    """
    settle_profiler()
    left = step

    def look(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event in ("call", "c_return"):
            left -= 1
            if not left:
                raise SoftTimeLimitExceeded

    try:
        sys.setprofile(look)
        call()
    except SoftTimeLimitExceeded:
        return True
    finally:
        sys.setprofile(None)
    return False
