"""The feed for Redis and Valkey, which publish every stored state on a channel named like its key
(celery-facts#redis-publishes-every-state).

One thread owns one connection and makes all its calls (web-facts#pubsub-has-one-owner). Other
threads change what is *wanted* and wake it; it updates what is *subscribed*. It uses a bare
connection instead of redis-py's ``PubSub``, which reconnects silently
(web-facts#reconnects-are-silent): an unnoticed gap is a lost change.
"""

from __future__ import annotations

import logging
import random
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from headway.errors import Unavailable
from headway.feeds.base import Feed, Listener, SafeListener

log = logging.getLogger(__name__)

#: Larger payloads (bytes) are not decoded: reports are small, and an end must be read from the
#: store anyway. Results of 5 MB were seen.
DECODE_LIMIT = 64 * 1024
#: Channels in one SUBSCRIBE.
BATCH = 500
#: Messages that are handled before the thread checks again what is wanted.
BURST = 200
#: Seconds between two attempts to connect, at most; the first one is immediate.
RECONNECT_MAX = 2.0
JOIN_TIMEOUT = 5.0


@dataclass(slots=True)
class _Subscription:
    task_id: str
    #: Set when the subscription is active (``acked``) or was given up.
    acknowledged: threading.Event = field(default_factory=threading.Event)
    acked: bool = False


class RedisFeed(Feed):
    """A feed over Redis' pub/sub.

    ``client`` returns the client whose connection settings are used (the feed opens its own
    connection), ``key`` the backend's key of a task, ``decode`` a stored record as plain data.
    ``timeout`` limits `watch`. A server that is silent for ``ping_interval`` seconds is pinged, and
    must respond within ``pong_within`` seconds (web-facts#hung-server-looks-idle).
    """

    def __init__(
        self,
        client: Callable[[], Redis],
        key: Callable[[str], bytes],
        decode: Callable[[bytes], Mapping[str, Any]],
        *,
        timeout: float = 2.0,
        ping_interval: float = 5.0,
        pong_within: float = 2.0,
    ) -> None:
        self._client = client
        self._key = key
        self._decode = decode
        self._timeout = timeout
        self._ping_interval = ping_interval
        self._pong_within = pong_within
        self._lock = threading.Lock()
        self._listener: SafeListener | None = None
        self._wanted: dict[bytes, _Subscription] = {}
        #: Whether ``_wanted`` has changed since the feed's thread last checked.
        self._woken = False
        self._disconnected = False
        self._connected = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake_writer: socket.socket | None = None

    def listen(self, listener: Listener) -> None:
        self._listener = SafeListener(listener)

    def watch(self, task_id: str) -> None:
        channel = self._key(task_id)
        with self._lock:
            watch = self._wanted.get(channel)
            if watch is None:
                watch = self._wanted[channel] = _Subscription(task_id)
            self._start()
            if self._disconnected:
                raise Unavailable
            if watch.acked:
                return
            self._wake()
        watch.acknowledged.wait(self._timeout)
        if not watch.acked:
            raise Unavailable

    def unwatch(self, task_id: str) -> None:
        with self._lock:
            if self._wanted.pop(self._key(task_id), None) is not None:
                self._wake()

    def ping(self) -> None:
        if self._thread is None:
            try:
                self._client().ping()
            except (RedisError, OSError) as exc:
                raise Unavailable from exc
        elif not self._connected:
            raise Unavailable

    def close(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
            self._wanted.clear()
            self._closing.set()
            self._wake()
        if thread is not None:
            thread.join(JOIN_TIMEOUT)

    def _start(self) -> None:
        """Called with the lock held."""
        if self._thread is None:
            self._closing.clear()
            wake_reader, self._wake_writer = socket.socketpair()
            wake_reader.setblocking(False)
            self._wake_writer.setblocking(False)
            self._thread = threading.Thread(
                target=self._run,
                args=(wake_reader, self._wake_writer),
                name="headway-feed",
                daemon=True,
            )
            self._thread.start()

    def _wake(self) -> None:
        """Called with the lock held."""
        self._woken = True
        if self._wake_writer is not None:
            try:
                self._wake_writer.send(b"!")
            except BlockingIOError:
                return  # it was woken many times and has not checked yet

    def _run(self, wake_reader: socket.socket, wake_writer: socket.socket) -> None:
        failures = 0
        try:
            while not self._closing.is_set():
                connection = _PubSubConnection(self, wake_reader)
                try:
                    connection.serve()
                except (RedisError, OSError) as exc:
                    failures = 1 if connection.served else failures + 1
                    self._lost(exc)
                finally:
                    self._connected = False
                    connection.close()
                self._closing.wait(
                    random.uniform(0.5, 1.0) * min(RECONNECT_MAX, 0.05 * 2**failures)  # noqa: S311 - jitter
                )
        finally:
            with self._lock:
                if self._wake_writer is wake_writer:
                    self._wake_writer = None
            wake_reader.close()
            wake_writer.close()

    def _lost(self, why: Exception) -> None:
        self._connected = False  # before `lost`, so that `ping` agrees with it
        with self._lock:
            first, self._disconnected = not self._disconnected, True
            for watch in self._wanted.values():
                watch.acked = False
                watch.acknowledged.set()  # callers of `watch` need not wait any longer
        if first and not self._closing.is_set():
            log.warning("The feed lost its connection and reconnects: %s", why)
            assert self._listener is not None
            self._listener.lost()

    def _acked(self, channel: bytes) -> None:
        with self._lock:
            watch = self._wanted.get(channel)
            if watch is not None:
                watch.acked = True
                watch.acknowledged.set()

    def _restored(self) -> None:
        """Call the listener when everything that is wanted is subscribed again."""
        with self._lock:
            if not self._disconnected or not all(watch.acked for watch in self._wanted.values()):
                return
            self._disconnected = False
        log.warning("The feed is connected again")
        assert self._listener is not None
        self._listener.restored()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        watch = self._wanted.get(channel)
        if watch is None:
            return
        meta: Mapping[str, Any] | None = None
        if len(payload) <= DECODE_LIMIT:
            try:
                meta = self._decode(payload)
            except Exception as exc:  # noqa: BLE001 - any error of a codec; any client may publish
                log.debug(
                    "Cannot decode a message on %r, so the store is read instead: %s", channel, exc
                )
        assert self._listener is not None
        self._listener.changed(watch.task_id, meta if isinstance(meta, Mapping) else None)


class _PubSubConnection:
    """One connection, from connect to its end; used by the feed's thread only."""

    def __init__(self, feed: RedisFeed, wake_reader: socket.socket) -> None:
        self._feed = feed
        self._wake_reader = wake_reader
        self._connection: Any = None
        self._subscribed: set[bytes] = set()
        #: Channel -> unacknowledged SUBSCRIBEs. A channel that was dropped and wanted again has
        #: two, and only the last acknowledgement makes it active.
        self._unacknowledged: dict[bytes, int] = {}
        self._last_received_at = 0.0
        self._ping_sent_at: float | None = None
        #: Whether it was ever connected.
        self.served = False

    def serve(self) -> None:
        """Connect, subscribe and report changes, until the feed closes.

        Raises the driver's error when the connection breaks.
        """
        pool = self._feed._client().connection_pool
        # Always RESP2: in RESP3, messages are pushes, which redis-py versions handle differently.
        # The settings that redis-py 7 and later add for RESP3's maintenance notifications go too.
        settings = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if not name.startswith(("maint_", "orig_"))
        }
        settings |= {"protocol": 2, "decode_responses": False, "health_check_interval": 0}
        self._connection = pool.connection_class(**settings)
        self._connection.connect()
        self.served = self._feed._connected = True
        self._last_received_at = time.monotonic()
        with selectors.DefaultSelector() as selector:
            # A private attribute, the same in every redis-py since 2.0: no public method can wait
            # for two sockets.
            selector.register(self._connection._sock, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            self._reconcile()
            while not self._feed._closing.is_set():
                if self._feed._woken:
                    self._reconcile()
                now = time.monotonic()
                if self._drain():
                    # With the time before `_drain`: it has read a reply that came while this thread
                    # did not run.
                    self._check_ping(now)
                    self._feed._restored()
                    selector.select(self._select_timeout())

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.disconnect()

    def _reconcile(self) -> None:
        """Subscribe exactly what is wanted."""
        with self._feed._lock:
            # With the lock that `_wake` holds: a byte left without its flag would make `select`
            # spin.
            self._feed._woken = False
            self._drain_wake_reader()
            wanted = set(self._feed._wanted)
            for channel in wanted & self._subscribed - self._unacknowledged.keys():
                watch = self._feed._wanted[channel]
                if not watch.acked:  # dropped and wanted again meanwhile: it was never unsubscribed
                    watch.acked = True
                    watch.acknowledged.set()
        self._send("UNSUBSCRIBE", self._subscribed - wanted)
        self._send("SUBSCRIBE", wanted - self._subscribed)
        self._subscribed = wanted

    def _send(self, command: str, channels: Iterable[bytes]) -> None:
        todo = list(channels)
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            if command == "SUBSCRIBE":
                for channel in part:
                    self._unacknowledged[channel] = self._unacknowledged.get(channel, 0) + 1
            self._connection.send_command(command, *part, check_health=False)

    def _drain(self) -> bool:
        """Handle received messages. Returns False if more may be waiting."""
        for _ in range(BURST):
            if not self._connection.can_read(0):
                return True
            self._handle(self._connection.read_response(disable_decoding=True))
            self._last_received_at, self._ping_sent_at = time.monotonic(), None
        return False

    def _handle(self, message: Any) -> None:
        if not isinstance(message, list) or len(message) < 3:
            return  # the reply to a ping
        kind, channel = message[0], message[1]
        if kind == b"message":
            self._feed._on_message(channel, message[2])
        elif kind == b"subscribe":
            left = self._unacknowledged.pop(channel, 1) - 1
            if left:
                self._unacknowledged[channel] = left
            else:
                self._feed._acked(channel)

    def _select_timeout(self) -> float:
        """Seconds until the next ping or its timeout."""
        due = (
            self._last_received_at + self._feed._ping_interval
            if self._ping_sent_at is None
            else self._ping_sent_at + self._feed._pong_within
        )
        return max(0.0, due - time.monotonic())

    def _check_ping(self, now: float) -> None:
        if self._ping_sent_at is not None:
            if now - self._ping_sent_at >= self._feed._pong_within:
                raise TimeoutError("the server does not respond")  # an OSError
        elif now - self._last_received_at >= self._feed._ping_interval:
            self._ping_sent_at = now
            self._connection.send_command("PING", check_health=False)

    def _drain_wake_reader(self) -> None:
        try:
            while self._wake_reader.recv(4096):
                pass
        except BlockingIOError:
            return
