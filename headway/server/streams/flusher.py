"""Sends what waits for slow clients, when they read again (web-facts#flush-only-slow-viewers)."""

from __future__ import annotations

import logging
import select
import selectors
import socket
import threading

from headway.server.streams.connection import ViewerConnection

log = logging.getLogger(__name__)

#: Seconds after which a connection is checked even if it is not writable: it may be closed.
CHECK_INTERVAL = 1.0


class GreenletFlusher:
    """Under gevent: a greenlet per slow client. They are cheap, and most clients are never slow."""

    def schedule(self, connection: ViewerConnection) -> None:
        """See `Flusher`."""
        threading.Thread(
            target=self._run, args=(connection,), name="headway-flush", daemon=True
        ).start()

    def _run(self, connection: ViewerConnection) -> None:
        try:
            while not connection.flush():
                select.select([], [connection.fileno()], [], CHECK_INTERVAL)
        except (OSError, ValueError) as exc:  # closed meanwhile
            log.debug("A slow client is gone: %s", exc)


class SelectorFlusher:
    """Under threads: one thread for all slow clients. It runs while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[ViewerConnection] = []
        self._wake_writer: socket.socket | None = None

    def schedule(self, connection: ViewerConnection) -> None:
        """See `Flusher`."""
        with self._lock:
            self._new.append(connection)
            if self._wake_writer is None:
                wake_reader, self._wake_writer = socket.socketpair()
                wake_reader.setblocking(False)
                threading.Thread(
                    target=self._run,
                    args=(wake_reader, self._wake_writer),
                    name="headway-flush",
                    daemon=True,
                ).start()
            else:
                self._wake_writer.send(b"!")

    def _run(self, wake_reader: socket.socket, wake_writer: socket.socket) -> None:
        with wake_reader, wake_writer, selectors.DefaultSelector() as selector:
            selector.register(wake_reader, selectors.EVENT_READ)
            while self._register_new(selector):
                ready = [key for key, _ in selector.select(CHECK_INTERVAL)]
                # After a timeout flush all: a connection that was closed never becomes ready.
                for key in ready or list(selector.get_map().values()):
                    if key.data is None:
                        _drain(wake_reader)
                    elif key.data.flush():
                        selector.unregister(key.fd)

    def _register_new(self, selector: selectors.BaseSelector) -> bool:
        """Register new connections. Returns False if none is left, and the thread ends."""
        with self._lock:
            new, self._new = self._new, []
            if not new and len(selector.get_map()) == 1:
                self._wake_writer = None
                return False
        for connection in new:
            try:
                number = connection.fileno()
                if number in selector.get_map():
                    # The number of a connection that was closed meanwhile: the system reused it.
                    selector.unregister(number)
                selector.register(number, selectors.EVENT_WRITE, connection)
            except (OSError, ValueError) as exc:
                log.debug("A slow client is gone: %s", exc)
        return True


def _drain(wake_reader: socket.socket) -> None:
    try:
        while wake_reader.recv(4096):
            pass
    except BlockingIOError:
        return
