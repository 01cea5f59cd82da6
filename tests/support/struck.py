"""A time limit that strikes at a step of one's choice."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from celery.exceptions import SoftTimeLimitExceeded


def struck(step: int, call: Callable[[], object]) -> bool:
    """Call it, and strike where Python looks for signals for the ``step``-th time: as a function of Python's begins, and as one
    of C's has returned. False where it had ended before.
    """
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
