"""The processes of the demo: each in a group of its own, with its log in a file, and none left
behind.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from headway.embedded import ParentDeathGuard

#: Signals that ask the demo to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts the requests to end, and lets a wait be cut short by one. For the main thread, once a
    process.
    """

    def __init__(self) -> None:
        self.count = 0
        # A pipe, and no threading.Event: a handler that runs inside Event.wait would wait for the
        # lock that this wait holds.
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in ENDING:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or sooner if a signal comes."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 1024)

    def wait_for(self, condition: Callable[[], bool], seconds: float, *, patience: int) -> bool:
        """Whether ``condition`` came true in time, and before there were ``patience`` requests to
        end.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.count >= patience:
                return False
            self.wait(0.1)
        return True


class Child:
    """One command. It ends with the demo, also where that one is killed outright."""

    def __init__(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            # A session of its own: Ctrl-C in the terminal is for the demo, which ends its processes
            # in order.
            self._process = subprocess.Popen(  # noqa: S603 (our own commands)
                argv,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._tether = ParentDeathGuard(self._process.pid)

    @property
    def code(self) -> int | None:
        """Its exit code, minus a signal's number where one ended it; None while it runs."""
        return self._process.poll()

    def tail(self, lines: int = 20) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, interrupts: Interrupts, steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """Send each signal, give it its seconds, then kill what is left of the group. A second
        request to end cuts it short.
        """
        self._tether.release()
        for number, seconds in steps:
            if self.code is not None or interrupts.count > 1:
                break
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            interrupts.wait_for(lambda: self.code is not None, seconds, patience=2)
        with suppress(
            ProcessLookupError, PermissionError
        ):  # macOS answers so where only zombies are left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
