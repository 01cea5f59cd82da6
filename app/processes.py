"""The demo's processes: each has its own process group and log file, and none outlives the demo."""

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

#: Signals that stop the demo.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts stop signals, and wakes up a wait. Make one per process, in the main thread."""

    def __init__(self) -> None:
        self.count = 0
        # A pipe and not a threading.Event: a handler that runs inside Event.wait would wait for the
        # lock that this wait holds.
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    def wait(self, seconds: float) -> None:
        """Return after ``seconds``, or at a signal."""
        if select.select([self._read], [], [], seconds)[0]:
            os.read(self._read, 1024)

    def wait_for(
        self, condition: Callable[[], bool], seconds: float, *, max_interrupts: int
    ) -> bool:
        """Whether ``condition`` became true in time. Gives up after more than ``max_interrupts``
        stop signals.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self.count > max_interrupts:
                return False
            self.wait(0.1)
        return True


class Child:
    """One command. It ends with the demo, even if the demo is killed."""

    def __init__(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            # In a new session: only the demo receives Ctrl-C, and stops its processes in order.
            self._process = subprocess.Popen(  # noqa: S603 (our own commands)
                argv,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = ParentDeathGuard(self._process.pid)

    @property
    def code(self) -> int | None:
        """Its exit code, or minus the number of the signal that ended it. None while running."""
        return self._process.poll()

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, interrupts: Interrupts, signals: Sequence[tuple[signal.Signals, float]]) -> None:
        """Send each signal and wait its seconds, then kill the rest of the group. A second stop
        signal kills at once.
        """
        self._guard.release()
        for number, seconds in signals:
            if self.code is not None or interrupts.count > 1:
                break
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            interrupts.wait_for(lambda: self.code is not None, seconds, max_interrupts=1)
        # PermissionError: macOS raises it if only zombies are left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
