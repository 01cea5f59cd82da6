"""Sends what waits for slow viewers, when they read again (web fact 10)."""

from __future__ import annotations

import logging
import select
import selectors
import socket
import threading

from headway.server.streams.connection import ViewerConnection

log = logging.getLogger(__name__)

#: Seconds after which a line is looked at though it takes no bytes: it may have been given up.
LOOK_INTERVAL = 1.0


class GreenletFlusher:
    """Under gevent: a greenlet for each viewer that is behind. They are cheap, and most viewers
    never are.
    """

    def look_after(self, line: ViewerConnection) -> None:
        """See `line.Flusher`."""
        threading.Thread(target=self._run, args=(line,), name="headway-flush", daemon=True).start()

    def _run(self, line: ViewerConnection) -> None:
        try:
            while not line.flush():
                select.select([], [line.fileno()], [], LOOK_INTERVAL)
        except (OSError, ValueError) as exc:  # closed meanwhile
            log.debug("A viewer went while it was behind: %s", exc)


class SelectorFlusher:
    """Under threads: one thread for all viewers that are behind. It lives while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[ViewerConnection] = []
        self._waker: socket.socket | None = None

    def look_after(self, line: ViewerConnection) -> None:
        """See `line.Flusher`."""
        with self._lock:
            self._new.append(line)
            if self._waker is None:
                sleeper, self._waker = socket.socketpair()
                sleeper.setblocking(False)
                threading.Thread(
                    target=self._run, args=(sleeper, self._waker), name="headway-flush", daemon=True
                ).start()
            else:
                self._waker.send(b"!")

    def _run(self, sleeper: socket.socket, waker: socket.socket) -> None:
        with sleeper, waker, selectors.DefaultSelector() as selector:
            selector.register(sleeper, selectors.EVENT_READ)
            while self._take_new(selector):
                ready = [key for key, _ in selector.select(LOOK_INTERVAL)]
                # Nothing for a while: all are asked, because one that was given up never gets
                # ready.
                for key in ready or list(selector.get_map().values()):
                    if key.data is None:
                        _empty(sleeper)
                    elif key.data.flush():
                        selector.unregister(key.fd)

    def _take_new(self, selector: selectors.BaseSelector) -> bool:
        """Register who came; False where nobody is left, and the thread ends."""
        with self._lock:
            new, self._new = self._new, []
            if not new and len(selector.get_map()) == 1:
                self._waker = None
                return False
        for line in new:
            try:
                number = line.fileno()
                if number in selector.get_map():
                    selector.unregister(
                        number
                    )  # of a connection that was closed meanwhile; the system gave its number again
                selector.register(number, selectors.EVENT_WRITE, line)
            except (OSError, ValueError) as exc:
                log.debug("A viewer went while it was behind: %s", exc)
        return True


def _empty(sleeper: socket.socket) -> None:
    try:
        while sleeper.recv(4096):
            pass
    except BlockingIOError:
        return
